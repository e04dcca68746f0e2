"""Cuts the layers of a chain element over a tensor group: nn.Linear and nn.Embedding become parallel layers.

They are fleet's, or those of nebula.runtime.sequence_layers where the element works on a share of the sequence.

What is cut says a table of patterns (models.*.tensor_split): fnmatch of the sublayer's name within its element to a
kind: `column` a Linear by its outputs, `halves` each half of them, `row` by its inputs, `vocabulary` an Embedding by
its rows, or the last Linear or table by its outputs, `heads` the first dim of a layer's parameters, `counts` a layer's
numbers of heads. Each rank keeps its slice of the weights that the serial model has, so a parallel run starts from
exactly the serial run's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.graph.splits import applicable, kind_of
from nebula.runtime import sequence_layers
from nebula.runtime.vocabulary_table import VocabularyTable, check_product

_KEPT = ("trainable", "optimize_attr", "regularizer", "need_clip")
"""Attributes of a parameter that its slice takes over."""
_COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads")
"""Attributes of an attention layer that count heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """This rank's place in a group that cuts weights.

    Attributes:
        group: Paddle's; None: that of fleet's hybrid topology.
    """

    degree: int
    rank: int
    group: Any = None


@dataclass(slots=True, kw_only=True)
class Cut:
    """What was done to the parameters of one rank.

    Attributes:
        replaced: id of a serial parameter -> its slice.
        dims: id of a slice -> the dim along which it was cut.
        members: id of a slice -> this rank's place in the group that cut it.
        experts: ids of the slices that an expert group cut.
        halves: ids of the slices that hold a share of each half of the dim.
        serial: the serial parameters, which must live as long as their ids stand for them.
    """

    replaced: dict[int, paddle.Tensor] = field(default_factory=dict)
    dims: dict[int, int] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)
    experts: set[int] = field(default_factory=set)
    halves: set[int] = field(default_factory=set)
    serial: list[paddle.Tensor] = field(default_factory=list)


def cuts_vocabulary(element: nn.Layer, split: Mapping[str, str]) -> bool:
    """Whether an element ends in a Linear, or a table of its own, that the split cuts by vocabulary."""
    layers = ((name, layer) for name, layer in element.named_sublayers() if not isinstance(layer, nn.Embedding))
    return any(kind_of(name, split.items()) == "vocabulary" for name, _ in layers)


def cut_element(
    element: nn.Layer,
    split: Mapping[str, str],
    member: Member,
    *,
    gather: bool,
    cut: Cut,
    on_shares: bool = False,
    tables: Member | None = None,
) -> None:
    """Replaces the sublayers of an element that the table names, in place.

    Args:
        gather: whether a Linear cut by `vocabulary` returns all its outputs; otherwise the loss takes its share.
        cut: receives what was replaced.
        on_shares: whether each rank runs the element on its share of the sequence.
        tables: this rank's place among those that share the heads, where these are more than the tensor group.

    Raises:
        BadInput: a dim does not divide by the degree, or a layer cannot be cut that way.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in element.named_parameters()}
    layers = dict(element.named_sublayers())
    parallel = _on_shares if on_shares else _on_all
    for name, layer in layers.items():
        if kind_of(name, split.items()) == "counts":
            _deal_heads(layer, name, member.degree)
    for name, kind in applicable(split.items(), shapes, member.degree).items():
        layer = layers.get(name)
        if layer is None:  # the element itself: its parent cannot be given another
            continue
        if kind == "heads":
            cut_first_dim(layer, name, "heads", tables or member, cut)
            continue
        if member.degree == 1:
            continue
        path, _, last = name.rpartition(".")
        parent = _at(element, path)
        if kind == "vocabulary" and not isinstance(layer, (nn.Linear, nn.Embedding)):
            check_product(layer, name)
            cut_first_dim(layer, name, "rows", member, cut)
            parent.add_sublayer(last, VocabularyTable(layer, member.group, gather))
            continue
        part = parallel(layer, kind, name, member, gather and kind == "vocabulary")
        _fill(part, layer, kind, member, cut)
        parent.add_sublayer(last, part)


def _deal_heads(layer: nn.Layer, name: str, degree: int) -> None:
    """Makes an attention layer count the heads of one rank."""
    for attribute, count in head_counts(layer):
        check_divides(name, attribute, count, degree)
        setattr(layer, attribute, count // degree)


def head_counts(layer: nn.Layer) -> list[tuple[str, int]]:
    """The numbers of heads that an attention layer keeps, by attribute."""
    found = ((attribute, getattr(layer, attribute, None)) for attribute in _COUNTS)
    return [(attribute, count) for attribute, count in found if isinstance(count, int)]


def _at(layer: nn.Layer, path: str) -> nn.Layer:
    """The sublayer of that dotted name."""
    for part in path.split(".") if path else ():
        layer = getattr(layer, part) if not part.isdigit() else layer._sub_layers[part]
    return layer


def _on_all(layer: nn.Layer, kind: str, name: str, member: Member, gathered: bool) -> nn.Layer:
    """Fleet's layer that stands for one rank's part of `layer`."""
    from paddle.distributed.fleet import meta_parallel as fleet_layers

    _check_kind(layer, kind, name, member.degree)
    common = {"weight_attr": paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)), "mp_group": member.group}
    inputs, outputs = layer.weight.shape
    if isinstance(layer, nn.Embedding):
        return fleet_layers.VocabParallelEmbedding(inputs, outputs, **common)
    common["has_bias"] = layer.bias is not None
    if kind == "row":
        return fleet_layers.RowParallelLinear(inputs, outputs, input_is_parallel=True, **common)
    return fleet_layers.ColumnParallelLinear(inputs, outputs, gather_output=gathered, **common)


def _on_shares(layer: nn.Layer, kind: str, name: str, member: Member, gathered: bool) -> nn.Layer:
    """The layer that stands for one rank's part of `layer` where each rank has a share of the sequence."""
    _check_kind(layer, kind, name, member.degree)
    inputs, outputs = layer.weight.shape
    if isinstance(layer, nn.Embedding):
        return sequence_layers.VocabularyEmbedding(inputs, outputs, member.group)
    has_bias = layer.bias is not None
    if kind == "row":
        return sequence_layers.RowLinear(inputs, outputs, has_bias, member.group)
    return sequence_layers.ColumnLinear(inputs, outputs, has_bias, member.group, gathered)


def _check_kind(layer: nn.Layer, kind: str, name: str, degree: int) -> None:
    """Refuses a layer that cannot be cut that way."""
    if isinstance(layer, nn.Embedding) and kind == "vocabulary":
        check_divides(name, "rows", layer.weight.shape[0], degree)
        if getattr(layer, "_padding_idx", -1) not in (None, -1):
            raise BadInput(f"{name}: an Embedding with padding_idx cannot be cut by vocabulary")
    elif isinstance(layer, nn.Linear):
        inputs, outputs = layer.weight.shape
        check_divides(name, *(("inputs", inputs) if kind == "row" else ("outputs", outputs)), degree)
        if kind == "halves":
            check_divides(name, "outputs of a half", outputs // 2, degree)
    else:
        raise BadInput(f"{name}: {type(layer).__name__} cannot be cut by {kind!r}; only Linear and Embedding can")


def _fill(part: nn.Layer, layer: nn.Layer, kind: str, member: Member, cut: Cut) -> None:
    """Gives a parallel layer its slices of the weights of the serial one."""
    by_rows, halves = kind == "row" or isinstance(layer, nn.Embedding), kind == "halves"
    _take(part, "weight", layer, 0 if by_rows else 1, member, cut, halves=halves)
    if getattr(layer, "bias", None) is not None:
        _take(part, "bias", layer, None if kind == "row" else 0, member, cut, halves=halves)


def check_divides(name: str, what: str, size: int, degree: int) -> None:
    """Refuses a dim that the ranks of a group cannot share evenly.

    Raises:
        BadInput: with the equation.
    """
    if size % degree:
        axis = "expert" if what == "experts" else "tensor"
        raise BadInput(
            f"{name}: {size} {what} % {axis} {degree} = {size % degree}, not 0; choose another {axis} degree"
        )


def slice_of(array: np.ndarray, dim: int | None, degree: int, rank: int, *, halves: bool = False) -> np.ndarray:
    """A rank's part of an array along a dim, or of each half of it; all of it without a dim."""
    if dim is None:
        return array
    parts = [np.split(half, degree, axis=dim)[rank] for half in np.split(array, 2 if halves else 1, axis=dim)]
    return np.concatenate(parts, axis=dim) if halves else parts[0]


def joined(slices: Sequence[np.ndarray], dim: int, *, halves: bool = False) -> np.ndarray:
    """The array of which these are the parts of all ranks, in order.

    Example:
        >>> parts = [slice_of(np.arange(8), 0, 2, rank, halves=True) for rank in (0, 1)]
        >>> [part.tolist() for part in parts], joined(parts, 0, halves=True).tolist()
        ([[0, 1, 4, 5], [2, 3, 6, 7]], [0, 1, 2, 3, 4, 5, 6, 7])
    """
    parted = [np.split(part, 2 if halves else 1, axis=dim) for part in slices]
    return np.concatenate([part for half in zip(*parted, strict=True) for part in half], axis=dim)


def _take(
    part: nn.Layer, attribute: str, layer: nn.Layer, dim: int | None, member: Member, cut: Cut, *, halves: bool
) -> None:
    """Fills a parallel layer's parameter with its slice of the serial one, name and settings included."""
    serial, local = getattr(layer, attribute), getattr(part, attribute)
    local.set_value(slice_of(serial.numpy(), dim, member.degree, member.rank, halves=halves))
    _adopt(serial, local, dim, member, cut)
    if halves:
        cut.halves.add(id(local))


def _adopt(serial: paddle.Tensor, local: paddle.Tensor, dim: int | None, member: Member, cut: Cut) -> None:
    local.name = serial.name
    for attribute in _KEPT:
        setattr(local, attribute, getattr(serial, attribute))
    cut.replaced[id(serial)] = local
    cut.serial.append(serial)
    if dim is not None:
        cut.dims[id(local)], cut.members[id(local)] = dim, member


def cut_first_dim(layer: nn.Layer, name: str, what: str, member: Member, cut: Cut) -> None:
    """Keeps a rank's share of the first dim of each of a layer's own parameters.

    Args:
        what: is counted along that dim, `heads` or `experts`.

    Raises:
        BadInput: the dim does not divide by the degree.
    """
    for attribute, serial in list(layer.named_parameters(include_sublayers=False)):
        check_divides(f"{name}.{attribute}", what, serial.shape[0], member.degree)
        share = slice_of(serial.numpy(), 0, member.degree, member.rank)
        local = layer.create_parameter(
            list(share.shape), dtype=serial.dtype, default_initializer=nn.initializer.Constant(0.0)
        )
        local.set_value(share)
        local.is_distributed, local.split_axis = True, 0
        layer.add_parameter(attribute, local)
        _adopt(serial, local, 0, member, cut)
