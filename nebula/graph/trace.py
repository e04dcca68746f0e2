"""One Paddle layer run symbolically: from a live layer and input shapes to the block of its operators.

Nothing is computed, and the layer is left as it was found. A layer that Paddle cannot trace is refused with Paddle's
own words and the line that they are about.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from nebula.errors import BadInput
from nebula.graph.pir import PATH_ATTRIBUTE, Origin, dtype_name, read_program
from nebula.graph.values import Block, Role, Tensor

Loss = Callable[[Any, paddle.Tensor], paddle.Tensor]
"""(outputs of the last layer, labels) -> a scalar."""


def call(layer: nn.Layer, inputs: list[paddle.Tensor], spread: bool) -> Any:
    """Calls the layer with one tensor, with a tuple, or with several arguments, as the layer expects it."""
    if len(inputs) == 1:
        return layer(inputs[0])
    return layer(*inputs) if spread else layer(tuple(inputs))


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def call_as_written(layer: nn.Layer, inputs: list[paddle.Tensor], spread: bool) -> Any:
    """The same, without Paddle's translation of the layer's source: its branches are taken while tracing."""
    return call(layer, inputs, spread)


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


class WithLoss(nn.Layer):  # type: ignore[misc]
    """The last layer and the loss behind it: (what the layer takes ..., labels) -> loss."""

    def __init__(self, layer: nn.Layer, loss: Loss) -> None:
        super().__init__()
        self.layer = layer
        self.loss = loss

    def forward(self, *inputs: paddle.Tensor) -> Any:
        """The loss of what the layer returns."""
        return self.loss(call(self.layer, list(inputs[:-1]), takes_several(self.layer)), inputs[-1])


def bare(layer: nn.Layer) -> nn.Layer:
    """The layer without the loss that may be around it."""
    return layer.layer if isinstance(layer, WithLoss) else layer


def trace(layer: nn.Layer, inputs: Sequence[tuple[InputSpec, bool]], rows: int) -> Block:
    """The block of one trace, without row dependence and rules.

    Args:
        layer: what is traced.
        inputs: spec of each input (every dim given) and whether it needs a gradient.
        rows: that the shapes hold for.

    Raises:
        BadInput: Paddle cannot trace the layer; carries the first line of what it says, and the place.
    """
    kind = type(bare(layer)).__name__
    with _left_as_found(layer), _paths_recorded(layer):
        try:
            program = _program(layer, inputs, call_as_written)
        except Exception as error:
            # a branch on the value of a tensor, perhaps: Paddle's translation of the source turns some into selections
            try:
                program = _program(layer, inputs, call)
            except Exception:
                raise BadInput(f"{kind} cannot be traced: {_reason(error)}{_place(error)}") from error
    origin = Origin(parameters=_parameters(layer), data={spec.name: wanted for spec, wanted in inputs})
    outputs = _outputs(program.outputs, kind)
    return read_program(program.main_program, outputs, origin, name=kind, rows=rows)


def _outputs(returned: Any, kind: str) -> list[Any]:
    """The tensors that the layer returned, alone or in a tuple.

    Those that a class of its own names, as a model of PaddleFormers returns, come in that class's order.

    Raises:
        BadInput: it returned nothing, or something other than tensors in a row.
    """
    if isinstance(returned, list | tuple) and len(returned) == 1:
        inner = returned[0]
        if isinstance(inner, dict) and type(inner) is not dict:
            returned = list(inner.values())
        elif isinstance(inner, list | tuple):
            returned = inner
    outputs = [value for value in returned if value is not None] if isinstance(returned, list | tuple) else []
    if not outputs or not all(hasattr(value, "shape") for value in outputs):
        told = "something other than tensors" if outputs else "nothing"
        raise BadInput(f"{kind} returns {told}; a layer of a chain returns a tensor or a tuple of tensors")
    return outputs


def _program(layer: nn.Layer, inputs: Sequence[tuple[InputSpec, bool]], call: Callable[..., Any]) -> Any:
    """Paddle's concrete program of the layer."""
    element = _Element(layer, takes_several(layer), call)
    function = paddle.jit.to_static(element, full_graph=True, input_spec=[[spec for spec, _ in inputs]])
    return function.forward.concrete_program


def takes_several(layer: nn.Layer) -> bool:
    """Whether the layer's forward takes tensors one by one rather than a tuple."""
    parameters = list(inspect.signature(layer.forward).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    return sum(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters) > 1


def _parameters(layer: nn.Layer) -> Mapping[str, Tensor]:
    """Paddle's name of each parameter and buffer -> its tensor, named by its path in the layer."""
    found: dict[str, Tensor] = {}
    base = bare(layer)
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
    base = bare(layer)
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


_NAMED = re.compile(r"^\s*(\w*(?:Error|Exception|Interrupt)): (.+)$", re.MULTILINE)
_PADDLE = os.path.dirname(paddle.__file__)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def _reason(error: BaseException) -> str:
    """The first line of Paddle's message that names an error; its tracer puts a listing of the code before it."""
    named = _NAMED.search(str(error))
    if named:
        return f"{named[1]}: {named[2].strip()}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _place(error: BaseException) -> str:
    """File and line of the user's own code that the message or the traceback ends in; empty when there is none."""
    frames = _FRAME.findall(str(error))
    trace_back = error.__traceback__
    while trace_back is not None:
        frames.append((trace_back.tb_frame.f_code.co_filename, str(trace_back.tb_lineno)))
        trace_back = trace_back.tb_next
    own = [
        (file, line) for file, line in frames if not file.startswith(_PADDLE) and file != __file__ and "<" not in file
    ]
    own = [(file, line) for file, line in own if not file.endswith("nebula/graph/capture.py")]
    return f" ({own[-1][0]}, line {own[-1][1]})" if own else ""
