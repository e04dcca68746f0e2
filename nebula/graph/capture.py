"""The distributed graph of real Paddle layers: each distinct layer of a chain is traced, twice, and never run.

Layers may be built under `paddle.LazyGuard`, so that no memory is spent on weights; they are left as they were found.
What cannot be traced (a branch on tensor values, code that Paddle's tracer refuses) is a clear error, not a guess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from nebula.errors import BadInput
from nebula.graph.fold import canonical, cut, fold
from nebula.graph.likeness import layer_signature
from nebula.graph.pir import PATH_ATTRIBUTE, Origin, dtype_name, read_program
from nebula.graph.rows import affine, with_rows
from nebula.graph.rules import apply
from nebula.graph.rules.strides import with_copies
from nebula.graph.values import Block, DistributedGraph, Role, Tensor

_ROWS = (2, 3)
"""The row counts of the two traces; their difference gives what each dim gains per row."""


@dataclass(frozen=True, slots=True)
class _Fed:
    """A tensor that enters a layer: its shapes at the two row counts."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: str
    needs_gradient: bool


def _call(layer: nn.Layer, inputs: list[paddle.Tensor], spread: bool) -> Any:
    """Calls the layer with one tensor, with a tuple, or with several arguments, as the layer expects it."""
    if len(inputs) == 1:
        return layer(inputs[0])
    return layer(*inputs) if spread else layer(tuple(inputs))


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def _call_as_written(layer: nn.Layer, inputs: list[paddle.Tensor], spread: bool) -> Any:
    """The same, without Paddle's translation of the layer's source: its branches are taken while tracing."""
    return _call(layer, inputs, spread)


class _Element(nn.Layer):  # type: ignore[misc]
    """One layer of the chain behind a forward whose first argument has the name that Paddle's tracer needs."""

    def __init__(self, layer: nn.Layer, spread: bool, call: Callable[[nn.Layer, Any, bool], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.spread = spread
        self.call = call

    def forward(self, inputs: list[paddle.Tensor]) -> Any:
        """What the layer returns."""
        return self.call(self.layer, inputs, self.spread)


class _WithLoss(nn.Layer):  # type: ignore[misc]
    """The last layer and the loss behind it: (outputs of the layer before ..., labels) -> loss."""

    def __init__(self, layer: nn.Layer, loss: Callable[[Any, paddle.Tensor], paddle.Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.loss = loss

    def forward(self, x: paddle.Tensor, labels: paddle.Tensor) -> Any:
        """The loss of what the layer returns."""
        return self.loss(self.layer(x), labels)


def capture(
    layers: Sequence[nn.Layer],
    inputs: Sequence[InputSpec],
    *,
    name: str = "model",
    layer_names: Sequence[str] = (),
    modules: Sequence[str] = (),
    tokens_per_row: int = 1,
    splits: Sequence[tuple[str, str]] = (),
    loss: Callable[[Any, paddle.Tensor], paddle.Tensor] | None = None,
    labels: InputSpec | None = None,
    rows: int = 1,
) -> DistributedGraph:
    """The graph of a chain of layers, each of which reads what the one before returns.

    Layers of equal class, configuration, parameters and input shapes are traced once.

    Args:
        layers: the chain.
        inputs: what the first layer takes; a dim of None or -1 is the rows of the batch.
        name: of the model.
        layer_names: one a layer, for people; by default class and place.
        modules: one a layer: the part of the model that it belongs to (`universal`, ...).
        tokens_per_row: tokens of one row of the global batch.
        splits: see DistributedGraph.
        loss: `loss(outputs, labels)`; when given, its work counts to the last layer.
        labels: what the loss takes besides the outputs.
        rows: rows of a micro-batch in the returned graph.

    Raises:
        BadInput: a layer cannot be traced, or its shapes are not affine in the rows.
    """
    if not layers:
        raise BadInput(f"model {name} has no layers: a chain needs at least one")
    chain = list(layers)
    fed = tuple(_fed(spec) for spec in inputs)
    if loss is not None:
        assert labels is not None, "a loss needs the spec of its labels"
        chain[-1] = _WithLoss(chain[-1], loss)
    traced: dict[object, int] = {}
    blocks: list[Block] = []
    order: list[int] = []
    for place, layer in enumerate(chain):
        if loss is not None and place == len(chain) - 1:
            fed = (*fed, _fed(labels))
        module = modules[place] if modules else ""
        key = (layer_signature(layer), fed, module)
        if key not in traced:
            traced[key] = len(blocks)
            blocks.append(replace(_block(layer, fed), module=module))
        order.append(traced[key])
        fed = _outputs(blocks[order[-1]])
    names = tuple(layer_names) or tuple(f"{type(layer).__name__}.{i}" for i, layer in enumerate(layers))
    graph = DistributedGraph(
        name=name,
        blocks=tuple(blocks),
        layers=tuple(order),
        layer_names=names,
        rows=_ROWS[0],
        tokens_per_row=tokens_per_row,
        splits=tuple(splits),
    )
    return with_rows(graph, rows)


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


def trace(layer: nn.Layer, inputs: Sequence[tuple[InputSpec, bool]], rows: int) -> Block:
    """The block of one trace, without row dependence and rules.

    Args:
        layer: what is traced.
        inputs: spec of each input (every dim given) and whether it needs a gradient.
        rows: that the shapes hold for.

    Raises:
        BadInput: Paddle cannot trace the layer; carries the first line of what it says, and the place.
    """
    kind = type(layer.layer if isinstance(layer, _WithLoss) else layer).__name__
    with _left_as_found(layer), _paths_recorded(layer):
        try:
            program = _program(layer, inputs, _call_as_written)
        except Exception:
            # a branch on the value of a tensor, perhaps: Paddle's translation of the source turns some into selections
            try:
                program = _program(layer, inputs, _call)
            except Exception as error:
                raise BadInput(f"{kind} cannot be traced: {_first_line(error)}{_place(error)}") from error
    origin = Origin(parameters=_parameters(layer), data={spec.name: wanted for spec, wanted in inputs})
    outputs = [value for value in program.outputs if value is not None]
    return read_program(program.main_program, outputs, origin, name=kind, rows=rows)


def _program(layer: nn.Layer, inputs: Sequence[tuple[InputSpec, bool]], call: Callable[..., Any]) -> Any:
    """Paddle's concrete program of the layer."""
    element = _Element(layer, _takes_several(layer), call)
    function = paddle.jit.to_static(element, full_graph=True, input_spec=[[spec for spec, _ in inputs]])
    return function.forward.concrete_program


def _takes_several(layer: nn.Layer) -> bool:
    """Whether the layer's forward takes tensors one by one rather than a tuple."""
    parameters = list(inspect.signature(layer.forward).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    return sum(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters) > 1


def _parameters(layer: nn.Layer) -> Mapping[str, Tensor]:
    """Paddle's name of each parameter and buffer -> its tensor, named by its path in the layer."""
    found: dict[str, Tensor] = {}
    base = layer.layer if isinstance(layer, _WithLoss) else layer
    for path, value in (*base.named_parameters(), *base.named_buffers()):
        trained = isinstance(value, paddle.base.framework.EagerParamBase) and not value.stop_gradient
        found[value.name] = Tensor(
            name=path,
            shape=tuple(int(d) for d in value.shape),
            dtype=dtype_name(value.dtype),
            role=Role.PARAMETER if trained else Role.BUFFER,
            needs_gradient=trained,
        )
    return found


@contextmanager
def _left_as_found(layer: nn.Layer) -> Iterator[None]:
    """Takes back what tracing puts on the layers: their converted forwards."""
    found = [(sub, vars(sub).get("forward")) for sub in layer.sublayers(include_self=True)]
    try:
        yield
    finally:
        for sub, forward in found:
            if forward is None:
                vars(sub).pop("forward", None)
            else:
                vars(sub)["forward"] = forward


@contextmanager
def _paths_recorded(layer: nn.Layer) -> Iterator[None]:
    """Marks each operator, while the layers run symbolically, with the path of the innermost layer that makes it."""
    base = layer.layer if isinstance(layer, _WithLoss) else layer
    starts: list[int] = []

    def enter(_layer: nn.Layer, _inputs: object) -> None:
        starts.append(_operator_count())

    def leave(path: str) -> Callable[[nn.Layer, object, object], None]:
        def mark(_layer: nn.Layer, _inputs: object, _outputs: object) -> None:
            operators = paddle.static.default_main_program().global_block().ops
            for operator in operators[starts.pop() :]:
                if not operator.has_attr(PATH_ATTRIBUTE):
                    operator.set_str_attr(PATH_ATTRIBUTE, path)

        return mark

    hooks = []
    for path, sub in base.named_sublayers():
        hooks += [sub.register_forward_pre_hook(enter), sub.register_forward_post_hook(leave(path))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _operator_count() -> int:
    return len(paddle.static.default_main_program().global_block().ops)


def _first_line(error: BaseException) -> str:
    """The line of Paddle's message that says what is wrong; its tracer wraps it in a listing of the code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ValueError", "TypeError", "RuntimeError"))]
    return (told or lines or [type(error).__name__])[0]


def _place(error: BaseException) -> str:
    """File and line in the user's own code, when the message or the traceback names one outside of Paddle."""
    trace_back = error.__traceback__
    place = ""
    while trace_back is not None:
        code = trace_back.tb_frame.f_code.co_filename
        if "/paddle/" not in code and code != __file__:
            place = f" ({code}, line {trace_back.tb_lineno})"
        trace_back = trace_back.tb_next
    return place


def capture_whole(
    model: nn.Layer,
    inputs: Sequence[InputSpec],
    *,
    elements: Sequence[str],
    name: str = "model",
    layer_names: Sequence[str] = (),
    tokens_per_row: int = 1,
    splits: Sequence[tuple[str, str]] = (),
    rows: int = 1,
) -> DistributedGraph:
    """The graph of a model traced as a whole and folded; equal to `capture` of its elements.

    Args:
        model: a layer that runs its elements one after the other.
        inputs: as for `capture`.
        elements: path of each chain element within the model, in the order in which they run (`chain.0`, ...).
        name: as for `capture`, and so the rest.
        layer_names: one an element.
        tokens_per_row: tokens of one row.
        splits: see DistributedGraph.
        rows: rows of a micro-batch in the returned graph.

    Raises:
        BadInput: the model cannot be traced.
    """
    fed = tuple(_fed(spec) for spec in inputs)
    traces = [trace(model, _specs(fed, i), row_count) for i, row_count in enumerate(_ROWS)]
    pieces = [cut(apply_gradients(block), elements) for block in traces]
    sublayers = dict(model.named_sublayers())
    kinds = [type(sublayers[path]).__name__ for path in elements]
    blocks = [
        apply(with_copies(replace(affine(a, b), name=kind)))
        for a, b, kind in zip(pieces[0], pieces[1], kinds, strict=True)
    ]
    distinct, layers = fold(blocks)
    names = tuple(layer_names) or tuple(f"{kind}.{i}" for i, kind in enumerate(kinds))
    graph = DistributedGraph(
        name=name,
        blocks=distinct,
        layers=layers,
        layer_names=names,
        rows=_ROWS[0],
        tokens_per_row=tokens_per_row,
        splits=tuple(splits),
    )
    return with_rows(graph, rows)


def apply_gradients(block: Block) -> Block:
    """The block of a whole trace with `needs_gradient` propagated, so that it is known where the cuts fall."""
    tensors = {t.name: t for t in apply(block).tensors}
    return replace(
        block, tensors=tuple(replace(t, needs_gradient=tensors[t.name].needs_gradient) for t in block.tensors)
    )
