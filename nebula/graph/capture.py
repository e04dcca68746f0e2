"""The distributed graph of real Paddle layers: each distinct layer of a chain is traced, twice, and never run.

Layers may be built under `paddle.LazyGuard`, so that no memory is spent on weights; they are left as they were found.
What cannot be traced (a branch on tensor values, code that Paddle's tracer refuses) is a clear error, not a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from paddle import nn
from paddle.static import InputSpec

from nebula.errors import BadInput
from nebula.graph.elements import chain_elements, expanded_paths
from nebula.graph.fold import canonical, cut, fold
from nebula.graph.likeness import layer_signature
from nebula.graph.pir import dtype_name
from nebula.graph.rows import affine, with_rows
from nebula.graph.rules import apply
from nebula.graph.rules.strides import with_copies
from nebula.graph.trace import Loss, WithLoss, trace
from nebula.graph.values import Block, DistributedGraph

_ROWS = (2, 3)
"""The row counts of the two traces; their difference gives what each dim gains per row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a trace cannot tell of a model.

    Attributes:
        name: of the model.
        layer_names: one a layer of the chain, for people; by default class and place, or the path in the model.
        modules: one a layer: the part of the model that it belongs to (`universal`, ...).
        tokens_per_row: tokens of one row of the global batch.
        splits: see DistributedGraph.
    """

    name: str = "model"
    layer_names: Sequence[str] = ()
    modules: Sequence[str] = ()
    tokens_per_row: int = 1
    splits: Sequence[tuple[str, str]] = ()

    def graph(
        self, blocks: Sequence[Block], layers: Sequence[int], names: Sequence[str], rows: int
    ) -> DistributedGraph:
        """The graph of blocks traced at the first row count, at that many rows; `names` where none are given."""
        traced = DistributedGraph(
            name=self.name,
            blocks=tuple(blocks),
            layers=tuple(layers),
            layer_names=tuple(self.layer_names) or tuple(names),
            rows=_ROWS[0],
            tokens_per_row=self.tokens_per_row,
            splits=tuple(self.splits),
        )
        return with_rows(traced, rows)


_UNKNOWN = About()


@dataclass(frozen=True, slots=True)
class _Fed:
    """A tensor that enters a layer: its shapes at the two row counts."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: str
    needs_gradient: bool


def capture(
    layers: Sequence[nn.Layer],
    inputs: Sequence[InputSpec],
    about: About = _UNKNOWN,
    *,
    loss: Loss | None = None,
    labels: InputSpec | None = None,
    rows: int = 1,
) -> DistributedGraph:
    """The graph of a chain of layers, each of which reads what the one before returns.

    Layers of equal class, configuration, parameters and input shapes are traced once.

    Args:
        layers: the chain.
        inputs: what the first layer takes; a dim of None or -1 is the rows of the batch.
        about: names, tokens and splits.
        loss: `loss(outputs, labels)`; when given, its work counts to the last layer.
        labels: what the loss takes besides the outputs.
        rows: rows of a micro-batch in the returned graph.

    Raises:
        BadInput: a layer cannot be traced, or its shapes are not affine in the rows.
    """
    if not layers:
        raise BadInput(f"model {about.name} has no layers: a chain needs at least one")
    chain = list(layers)
    fed = tuple(_fed(spec) for spec in inputs)
    if loss is not None:
        assert labels is not None, "a loss needs the spec of its labels"
        chain[-1] = WithLoss(chain[-1], loss)
    traced: dict[object, int] = {}
    blocks: list[Block] = []
    order: list[int] = []
    for place, layer in enumerate(chain):
        if loss is not None and place == len(chain) - 1:
            fed = (*fed, _fed(labels))
        module = about.modules[place] if about.modules else ""
        key = (layer_signature(layer), fed, module)
        if key not in traced:
            traced[key] = len(blocks)
            blocks.append(replace(_block(layer, fed), module=module))
        order.append(traced[key])
        fed = _outputs(blocks[order[-1]])
    return about.graph(blocks, order, [f"{type(layer).__name__}.{i}" for i, layer in enumerate(layers)], rows)


def _fed(spec: InputSpec | None) -> _Fed:
    """The shapes of a data input at both row counts."""
    assert spec is not None
    shapes = tuple(tuple(rows if d in (None, -1) else int(d) for d in spec.shape) for rows in _ROWS)
    return _Fed((shapes[0], shapes[1]), dtype_name(spec.dtype), False)


def _outputs(block: Block) -> tuple[_Fed, ...]:
    """What the next layer is fed with."""
    tensors = block.by_name
    found = []
    for name in block.outputs:
        tensor = tensors[name]
        shapes = tensor.shape, tensor.with_rows(_ROWS[0], _ROWS[1]).shape
        found.append(_Fed(shapes, tensor.dtype, tensor.needs_gradient))
    return tuple(found)


def _block(layer: nn.Layer, fed: Sequence[_Fed]) -> Block:
    """The block of one layer, from two traces, rules applied."""
    first, second = (canonical(trace(layer, _specs(fed, i), rows)) for i, rows in enumerate(_ROWS))
    return apply(with_copies(affine(first, second)))


def _specs(fed: Sequence[_Fed], row_count: int) -> list[tuple[InputSpec, bool]]:
    return [(InputSpec(f.shapes[row_count], f.dtype, f"x{i}"), f.needs_gradient) for i, f in enumerate(fed)]


def capture_whole(
    model: nn.Layer,
    inputs: Sequence[InputSpec],
    about: About = _UNKNOWN,
    *,
    elements: Sequence[str] = (),
    loss: Loss | None = None,
    labels: InputSpec | None = None,
    rows: int = 1,
) -> DistributedGraph:
    """The graph of a model traced as a whole, cut where its repeated layers begin, and folded.

    For a model that runs a list of layers one after the other it equals `capture` of that list.

    Args:
        model: any layer.
        inputs: as for `capture`.
        about: names, tokens and splits.
        elements: path of each chain element within the model, in the order in which they run (`chain.0`, ...); found in
            the trace when not given (see nebula.graph.elements).
        loss: as for `capture`.
        labels: as for `capture`.
        rows: rows of a micro-batch in the returned graph.

    Raises:
        BadInput: the model cannot be traced, or its shapes are not affine in the rows.
    """
    fed = tuple(_fed(spec) for spec in inputs)
    whole = model
    if loss is not None:
        whole, fed = WithLoss(model, loss), (*fed, _fed(labels))
    traces = [with_gradients(trace(whole, _specs(fed, i), count)) for i, count in enumerate(_ROWS)]
    paths = tuple(elements) or chain_elements(traces[0], expanded_paths(model))
    pieces = [cut(block, paths) if paths else [canonical(block)] for block in traces]
    sublayers = dict(model.named_sublayers())
    kinds = [type(sublayers[path]).__name__ for path in paths] or [type(model).__name__]
    blocks = [
        apply(with_copies(replace(affine(a, b), name=kind)))
        for a, b, kind in zip(pieces[0], pieces[1], kinds, strict=True)
    ]
    distinct, layers = fold(blocks)
    return about.graph(distinct, layers, paths or (kinds[0],), rows)


def with_gradients(block: Block) -> Block:
    """The block of a whole trace with `needs_gradient` propagated, so that it is known where the cuts fall."""
    known = apply(block).by_name
    tensors = (replace(t, needs_gradient=known[t.name].needs_gradient) for t in block.tensors)
    return replace(block, tensors=tuple(tensors))
