"""Blocks written operator by operator, with the kinds that tracing yields and without Paddle.

An architecture description calls the builder the way a forward is written; shapes are inferred here, work comes from
the rules. Two builds at different rows give the dependence on rows, as two traces do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

from nebula.graph.fold import canonical
from nebula.graph.rows import affine
from nebula.graph.rules import apply
from nebula.graph.rules.strides import with_copies
from nebula.graph.values import Block, Operator, Role, Tensor

Shape = Sequence[int]

_BUILD_ROWS = (2, 3)


class BlockBuilder:
    """A block in the making; every method that computes returns the name of its (first) output.

    Attributes:
        rows: rows of the micro-batch that shapes are written for.
        dtype: of parameters and activations.
    """

    def __init__(self, name: str, *, rows: int, dtype: str, module: str = "") -> None:
        self.name, self.rows, self.dtype, self.module = name, rows, dtype, module
        self._tensors: dict[str, Tensor] = {}
        self._operators: list[Operator] = []
        self._inputs: list[str] = []
        self._path: list[str] = []

    @contextmanager
    def scope(self, path: str) -> Iterator[None]:
        """What is made inside belongs to the sublayer `path`."""
        self._path.append(path)
        yield
        self._path.pop()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._tensors[name].shape

    def input(self, shape: Shape, dtype: str = "", *, needs_gradient: bool = True) -> str:
        """Declares what comes in from the layer before, or from the data (no gradient)."""
        name = f"x{len(self._inputs)}"
        self._inputs.append(name)
        return self._declare(name, shape, dtype, Role.INPUT, needs_gradient=needs_gradient)

    def parameter(self, name: str, shape: Shape) -> str:
        """Declares a trainable tensor of the current sublayer; the same name again is the same tensor."""
        return self._declare(".".join((*self._path, name)), shape, "", Role.PARAMETER, needs_gradient=True)

    def _declare(self, name: str, shape: Shape, dtype: str, role: Role, *, needs_gradient: bool = False) -> str:
        tensor = Tensor(
            name=name, shape=tuple(shape), dtype=dtype or self.dtype, role=role, needs_gradient=needs_gradient
        )
        assert self._tensors.setdefault(name, tensor) == tensor, f"{name} has two shapes"
        return name

    def operate(self, kind: str, inputs: Sequence[str], *outputs: Shape | Tensor, **attributes: object) -> list[str]:
        """Writes an operator of any kind.

        Args:
            kind: canonical kind.
            inputs: in the order of the kind's arguments.
            outputs: shape of each output in the block's dtype, or a tensor whose shape and dtype it takes.
            attributes: of the kind.
        """
        path = ".".join(self._path)
        name = f"{path}/{kind}.{len(self._operators)}" if path else f"{kind}.{len(self._operators)}"
        names = [name if i == 0 else f"{name}:{i}" for i in range(len(outputs))]
        for made, like in zip(names, outputs, strict=True):
            shape, dtype = (like.shape, like.dtype) if isinstance(like, Tensor) else (like, "")
            self._declare(made, shape, dtype, Role.ACTIVATION)
        pairs = tuple(sorted(attributes.items()))
        self._operators.append(
            Operator(name=name, kind=kind, inputs=tuple(inputs), outputs=tuple(names), attributes=pairs)
        )
        return names

    def like(self, shape: Shape, dtype: str) -> Tensor:
        """A description of an output that has another dtype than the block."""
        return Tensor(name="", shape=tuple(shape), dtype=dtype)

    def unary(self, kind: str, x: str, **attributes: object) -> str:
        """A kind whose output looks like its input."""
        return self.operate(kind, (x,), self._tensors[x], **attributes)[0]

    def binary(self, kind: str, x: str, y: str) -> str:
        """A pointwise kind of two inputs, broadcast as in numpy; the result has the dtype of `x`."""
        a, b = self.shape(x), self.shape(y)
        rank = max(len(a), len(b))
        wide = ((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b)
        shape = tuple(max(m, n) for m, n in zip(*wide, strict=True))
        return self.operate(kind, (x, y), self.like(shape, self._tensors[x].dtype))[0]

    def matmul(self, x: str, y: str, *, transpose_y: bool = False) -> str:
        """x times y, batch dims of x kept."""
        columns = self.shape(y)[-2 if transpose_y else -1]
        shape = (*self.shape(x)[:-1], columns)
        return self.operate("matmul", (x, y), shape, transpose_x=False, transpose_y=transpose_y)[0]

    def linear(self, path: str, x: str, width: int, *, bias: bool = True) -> str:
        """x times the sublayer's weight [in, out], plus its bias."""
        with self.scope(path):
            out = self.matmul(x, self.parameter("weight", (self.shape(x)[-1], width)))
            return self.binary("add", out, self.parameter("bias", (width,))) if bias else out

    def layer_norm(self, path: str, x: str) -> str:
        """The last dim normalised; mean and variance come out in float32."""
        *lead, width = self.shape(x)
        with self.scope(path):
            inputs = (x, self.parameter("weight", (width,)), self.parameter("bias", (width,)))
            stat = self.like(lead, "float32")
            return self.operate("layer_norm", inputs, self.shape(x), stat, stat, begin_norm_axis=len(lead))[0]

    def rms_norm(self, path: str, x: str) -> str:
        """The last dim divided by its root mean square."""
        *lead, width = self.shape(x)
        with self.scope(path):
            inputs = (x, self.parameter("weight", (width,)))
            stat = self.like(lead, "float32")
            absent = ("bias",)
            return self.operate("rms_norm", inputs, self.shape(x), stat, begin_norm_axis=len(lead), absent=absent)[0]

    def embedding(self, path: str, ids: str, entries: int, width: int) -> str:
        """Rows of the sublayer's weight [entries, width]."""
        with self.scope(path):
            weight = self.parameter("weight", (entries, width))
            return self.operate("embedding", (ids, weight), (*self.shape(ids), width), padding_idx=-1)[0]

    def dropout(self, x: str, rate: float) -> str:
        """Zeros with probability `rate`; nothing at all when it is 0."""
        if not rate:
            return x
        mask = self.like(self.shape(x), "uint8")
        return self.operate("dropout", (x,), self.shape(x), mask, p=rate, is_test=False, mode="upscale_in_train")[0]

    def softmax(self, x: str) -> str:
        """Over the last dim."""
        return self.unary("softmax", x, axis=len(self.shape(x)) - 1)

    def scale(self, x: str, factor: float, bias: float = 0.0) -> str:
        """x * factor + bias."""
        return self.unary("scale", x, scale=factor, bias=bias, bias_after_scale=True)

    def reshape(self, x: str, shape: Shape) -> str:
        """The same elements in another shape."""
        assert prod(self.shape(x)) == prod(shape), f"{self.shape(x)} -> {shape}"
        return self.operate("reshape", (x,), self.like(shape, self._tensors[x].dtype))[0]

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        """Dims in another order."""
        return self.operate("transpose", (x,), [self.shape(x)[p] for p in perm], perm=tuple(perm))[0]

    def split(self, x: str, sections: Sequence[int], axis: int) -> list[str]:
        """Copies of consecutive parts along a dim."""
        shape = self.shape(x)
        parts = [(*shape[:axis], s, *shape[axis + 1 :]) for s in sections]
        return self.operate("split", (x,), *parts, axis=axis, sections=tuple(sections))

    def unbind(self, x: str, axis: int) -> list[str]:
        """Views of each place along a dim."""
        shape = self.shape(x)
        part = shape[:axis] + shape[axis + 1 :]
        return self.operate("unbind", (x,), *[part] * shape[axis], axis=axis)

    def stack(self, parts: Sequence[str], axis: int) -> str:
        """Equal tensors along a new dim."""
        shape = self.shape(parts[0])
        return self.operate("stack", parts, (*shape[:axis], len(parts), *shape[axis:]), axis=axis)[0]

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Tensors one behind the other along a dim."""
        shape = self.shape(parts[0])
        length = sum(self.shape(p)[axis] for p in parts)
        return self.operate("concat", parts, (*shape[:axis], length, *shape[axis + 1 :]), axis=axis)[0]

    def cross_entropy(self, logits: str, labels: str) -> str:
        """Nats of each label [..., 1] under the softmax of the last dim, which is kept."""
        *lead, _ = self.shape(logits)
        axis = len(lead)
        inputs, softmax = (logits, labels), self.shape(logits)
        return self.operate("cross_entropy", inputs, softmax, (*lead, 1), axis=axis, soft_label=False)[1]

    def reduce(self, kind: str, x: str, axes: Sequence[int]) -> str:
        """`sum` or `mean` over dims, which disappear."""
        shape = tuple(d for i, d in enumerate(self.shape(x)) if i not in axes)
        return self.operate(kind, (x,), shape, axes=tuple(axes), keepdim=False)[0]

    def build(self, *outputs: str) -> Block:
        """The block as tracing would have made it, before rules and dependence on rows."""
        block = Block(
            name=self.name,
            rows=self.rows,
            tensors=tuple(self._tensors.values()),
            operators=tuple(self._operators),
            inputs=tuple(self._inputs),
            outputs=outputs,
            module=self.module,
        )
        return canonical(block)


def described(build: Callable[[int], Block]) -> Block:
    """The block of a function from rows to what `BlockBuilder.build` returns, with its dependence on rows and rules."""
    first, second = (build(rows) for rows in _BUILD_ROWS)
    return apply(with_copies(affine(first, second)))
