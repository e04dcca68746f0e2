"""Which sublayers of a user's own model are the links of a chain? Found from its lists of layers and from the trace.

A model is opened where it is a list of layers or holds one; everything inside that runs as one stretch and has
parameters becomes a link, what runs between two links goes to the one before. A model whose links do not run one after
the other stays whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from paddle import nn

from nebula.graph.values import Block, Role

_LISTS = (nn.LayerList, nn.Sequential)


def expanded_paths(model: nn.Layer) -> frozenset[str]:
    """Paths of the layers whose children are looked at one by one; empty when the model is one link."""
    return frozenset(_expanded(model, ""))


def _expanded(layer: nn.Layer, path: str) -> Iterator[str]:
    if not (isinstance(layer, _LISTS) or _holds_repeated(layer)):
        return
    yield path
    links = _repeated(layer) if isinstance(layer, _LISTS) else []
    for name, child in layer.named_children():
        if type(child) not in links:  # repeated members are links, whatever they hold
            yield from _expanded(child, f"{path}.{name}" if path else name)


def _repeated(layers: nn.Layer) -> list[type]:
    """Classes that a list holds two or more of, with sublayers of their own."""
    counts = Counter(type(m) for m in layers.children() if any(True for _ in m.children()))
    return [kind for kind, count in counts.items() if count > 1]


def _holds_repeated(layer: nn.Layer) -> bool:
    return any(isinstance(sub, _LISTS) and _repeated(sub) for sub in layer.sublayers())


def chain_elements(program: Block, expanded: Collection[str]) -> tuple[str, ...]:
    """Paths of the links in running order; empty when the model is no chain.

    Args:
        program: block of the whole trace, operators named by path.
        expanded: see `expanded_paths`.
    """
    if not expanded:
        return ()
    trained = {_link(t.name.rpartition(".")[0], expanded) for t in program.tensors if t.role is Role.PARAMETER}
    order: list[str] = []
    for operator in program.operators:
        path, _, kind = operator.name.rpartition("/")
        link = _link(path, expanded)
        if not kind or link in expanded or link not in trained or (order and order[-1] == link):
            continue
        if link in order:
            return ()
        order.append(link)
    return tuple(order) if len(order) > 1 else ()


def _link(path: str, expanded: Collection[str]) -> str:
    """The link that a path lies in: the first layer on the way down that is not opened."""
    found = ""
    for part in path.split("."):
        if found not in expanded:
            return found
        found = f"{found}.{part}" if found else part
    return found
