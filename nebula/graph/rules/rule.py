"""What a rule is: how an operator kind runs forward, how it runs backward, and what it keeps in between.

A rule sees one application of its kind, with shapes and with which inputs need a gradient, and answers with kernels.
Bytes are those of the tensors that a kernel really reads and writes; nothing here knows a device or a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from nebula.graph.values import DTYPE_BYTES, Kernel, Operator, Product, Scores, Tensor, Work


@dataclass(frozen=True, kw_only=True)
class Call:
    """One application of an operator kind.

    Attributes:
        operator: the operator.
        inputs: its inputs, in the order of the kind's arguments.
        outputs: its outputs.
        arguments: names of the kind's arguments, where some may be absent; else empty.
    """

    operator: Operator
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arguments: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The operator's kind."""
        return self.operator.kind

    @cached_property
    def wanted(self) -> tuple[Tensor, ...]:
        """The inputs whose gradient the backward computes."""
        return tuple(t for t in self.inputs if t.needs_gradient)

    @cached_property
    def results(self) -> tuple[Tensor, ...]:
        """The outputs that carry a gradient."""
        return tuple(t for t in self.outputs if t.needs_gradient)

    def argument(self, name: str) -> Tensor | None:
        """The input of that argument, or None when it is absent."""
        absent = self.operator.attribute("absent", ())
        assert isinstance(absent, tuple)
        given = [a for a in self.arguments if a not in absent]
        return self.inputs[given.index(name)] if name in given[: len(self.inputs)] else None

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        value = self.operator.attribute(name, default)
        return int(value) if isinstance(value, int | float) else default

    def flag(self, name: str) -> bool:
        """A boolean attribute, false when missing."""
        return bool(self.operator.attribute(name, False))

    def text(self, name: str, default: str = "") -> str:
        """A text attribute."""
        return str(self.operator.attribute(name, default))

    def launch(
        self,
        suffix: str = "",
        *,
        reads: Iterable[Tensor] | float,
        writes: Iterable[Tensor] | float,
        flops: float = 0.0,
        product: Product | None = None,
        scores: Scores | None = None,
        kind: str = "",
    ) -> Kernel:
        """A kernel of this call; `kind` overrides the name, `product` the FLOPs."""
        return Kernel(
            kind=(kind or self.kind) + suffix,
            dtype=self.compute_dtype,
            flops=product.flops if product else flops,
            read_bytes=_bytes(reads),
            written_bytes=_bytes(writes),
            product=product,
            scores=scores,
        )

    @cached_property
    def compute_dtype(self) -> str:
        """Dtype of the arithmetic: of the first floating tensor that it touches, else of its first output."""
        for tensor in (*self.inputs, *self.outputs):
            if is_float(tensor.dtype):
                return tensor.dtype
        return self.outputs[0].dtype if self.outputs else self.inputs[0].dtype


def _bytes(what: Iterable[Tensor] | float) -> float:
    return float(what) if isinstance(what, int | float) else float(sum([t.bytes for t in what]))


FLOATS = frozenset(dtype for dtype in DTYPE_BYTES if dtype.startswith(("float", "bfloat")))


def is_float(dtype: str) -> bool:
    """Whether values of the dtype can have a gradient."""
    return dtype in FLOATS


Works = tuple[Work, ...]
Names = tuple[str, ...]


def nothing(_call: Call) -> Works:
    """No kernel."""
    return ()


def no_names(_call: Call) -> Names:
    """No tensor."""
    return ()


def input_names(call: Call) -> Names:
    """All inputs."""
    return call.operator.inputs


def output_names(call: Call) -> Names:
    """All outputs."""
    return call.operator.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one operator kind runs.

    Attributes:
        forward: kernels of the forward pass.
        backward: kernels of the backward pass; asked only when an input needs a gradient.
        saved: names of the tensors kept between the two; asked only when an input needs a gradient.
        view: whether the outputs show the memory of the first input.
        differentiable: whether floating outputs carry a gradient.
        keeps_view: whether a strided input is kept as the view that it is and copied again in the backward; otherwise
            the contiguous copy that the forward made is kept. Measured on Paddle 3.3.1, dygraph.
        arguments: names of the arguments, where some may be absent.
    """

    forward: Callable[[Call], Works]
    backward: Callable[[Call], Works] = nothing
    saved: Callable[[Call], Names] = no_names
    view: bool = False
    differentiable: bool = True
    keeps_view: bool = False
    arguments: tuple[str, ...] = ()
