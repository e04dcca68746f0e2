"""Which elements of a chain each rank of a tensor group runs on its share of the sequence.

Those that say so by their attribute `token_wise`: outside of the layers that the group cuts they work on each token by
itself. An element that holds a weight which the degree leaves whole between such layers (heads that do not divide), an
Embedding that is not cut, or a weight together with an element that runs whole, runs whole as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from paddle import nn

from nebula.graph.splits import applicable, leaves_whole


class Run(NamedTuple):
    """Whether an element takes and whether it leaves a share of the sequence; otherwise all of it."""

    takes: bool
    leaves: bool


WHOLE, SHARED, GATHERING = Run(False, False), Run(True, True), Run(True, False)


def runs(elements: Sequence[nn.Layer], split: Mapping[str, str], degree: int) -> tuple[Run, ...]:
    """How a rank of `degree` runs each element.

    Args:
        elements: of the whole chain, before they are cut.
        split: the model's table of what a tensor group cuts.
    """
    if degree == 1:
        return (WHOLE,) * len(elements)
    found = [_run(element, split, degree) for element in elements]
    found[:-1] = [run if run is not GATHERING else WHOLE for run in found[:-1]]
    while odd := [index for index, run in enumerate(found) if run is not WHOLE and _bound(elements, found, index)]:
        found[odd[0]] = WHOLE
    return tuple(found)


def _run(element: nn.Layer, split: Mapping[str, str], degree: int) -> Run:
    """How an element is run, whatever the others do; a Linear that is cut by vocabulary gathers."""
    if not getattr(element, "token_wise", False):
        return WHOLE
    shapes = {name: tuple(parameter.shape) for name, parameter in element.named_parameters()}
    cut = applicable(split.items(), shapes, degree)
    layers = dict(element.named_sublayers(include_self=True))
    if leaves_whole(split.items(), shapes, degree):
        return WHOLE
    if any(name not in cut for name, layer in layers.items() if isinstance(layer, nn.Embedding)):
        return WHOLE
    if any(not _sees_all(layer, name, cut) for name, layer in layers.items() if getattr(layer, "mixes_tokens", ())):
        return WHOLE
    gathers = any(kind == "vocabulary" and isinstance(layers[name], nn.Linear) for name, kind in cut.items())
    return GATHERING if gathers else SHARED


def _sees_all(layer: nn.Layer, name: str, cut: Mapping[str, str]) -> bool:
    """Whether a layer that mixes tokens gets all of them, from Linears of its own that are cut by their outputs."""
    linears = [child for child, of in layer.named_sublayers() if isinstance(of, nn.Linear)]
    kinds = {cut.get(f"{name}.{child}" if name else child) for child in linears}
    return "column" in kinds and None not in kinds


def _bound(elements: Sequence[nn.Layer], found: Sequence[Run], index: int) -> bool:
    """Whether an element holds a weight together with one that runs whole: its gradient would be no addend there."""
    whole = {id(p) for run, each in zip(found, elements, strict=True) if run is WHOLE for p in each.parameters()}
    return any(id(p) in whole for p in elements[index].parameters())
