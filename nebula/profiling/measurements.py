"""What a profile measured, as values and as the JSON that worker processes leave for their parent.

Times are medians in seconds of one execution, measured while every device of the node was busy with the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nebula.plan.plain import decode, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """`count` matrix products of one size each."""

    flops: float
    moved_bytes: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A matrix product [batch, m, k] x [k, n], or [batch, k, n] on the right where `batched`.

    Attributes:
        backward: whether the two products of its gradient were timed instead.
        flops: of all products of one execution.
        moved_bytes: operands read and results written, likewise.
        kernels: how many products one execution is.
    """

    dtype: str
    batch: int
    m: int
    k: int
    n: int
    batched: bool
    backward: bool
    flops: float
    moved_bytes: float
    kernels: int
    seconds: float

    @property
    def alike(self) -> Alike:
        """One execution as products of one size."""
        return Alike(flops=self.flops / self.kernels, moved_bytes=self.moved_bytes / self.kernels, count=self.kernels)

    @property
    def name(self) -> str:
        """For people: `forward float32 1024x256x512`."""
        shape = f"{self.m}x{self.k}x{self.n}"
        times = f"{self.batch} of " if self.batched else ""
        return f"{'gradient' if self.backward else 'forward'} {self.dtype} {times}{shape}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A kernel that memory bounds.

    Attributes:
        kind: of the kernel, such as `gelu` or `gelu_grad`.
        tensor_bytes: of the tensor that it works on.
        moved_bytes: read and written.
    """

    kind: str
    tensor_bytes: float
    moved_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One training step (forward, loss, backward, AdamW) of a small language model, and what the cost model counts.

    Attributes:
        products: the matrix products, those of one size together.
        moved_bytes: of all other kernels and the update.
        kernels: all that are launched.
    """

    name: str
    products: tuple[Alike, ...]
    moved_bytes: float
    kernels: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A collective over `ranks` ranks; `size_bytes` of the larger buffer on one rank."""

    kind: str
    ranks: int
    size_bytes: float
    seconds: float

    @property
    def name(self) -> str:
        """For people: `all_reduce of 1048576 bytes over 2`."""
        return f"{self.kind} of {self.size_bytes:.0f} bytes over {self.ranks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All of one profile.

    Attributes:
        kernel_s: fixed cost of one kernel in forward and backward passes.
        copy_bytes_per_s: of the largest plain copy, read and written.
        processes: how many measured at the same time.
        threads: of each process.
        clock: of kernels and steps: `cpu` (the process's own time, which other load leaves alone), `wall` or `virtual`.
    """

    kernel_s: float
    copy_bytes_per_s: float
    products: tuple[Product, ...]
    moves: tuple[Move, ...]
    references: tuple[Reference, ...]
    messages: tuple[Message, ...]
    processes: int
    threads: int
    clock: str


def plain(measured: Measurements) -> dict[str, object]:
    """As JSON takes it."""
    value: dict[str, object] = encode(measured)
    return value


def of_plain(value: object) -> Measurements:
    """What `plain` made it of."""
    measured: Measurements = decode(Measurements, value)
    return measured


def together(ranks: Sequence[Measurements]) -> Measurements:
    """One profile from those of all ranks: for each figure the median over them, which for two ranks is the mean.

    Example:
        >>> one = Measurements(kernel_s=1.0, copy_bytes_per_s=2.0, products=(), moves=(), references=(), messages=(),
        ...                    processes=2, threads=1, clock="wall")
        >>> from dataclasses import replace
        >>> together([one, replace(one, kernel_s=3.0)]).kernel_s
        2.0
    """
    first = ranks[0]

    def rows(name: str) -> tuple[object, ...]:
        columns = zip(*(getattr(rank, name) for rank in ranks), strict=True)
        return tuple(replace(c[0], seconds=statistics.median(row.seconds for row in c)) for c in columns)

    return replace(
        first,
        kernel_s=statistics.median(rank.kernel_s for rank in ranks),
        copy_bytes_per_s=statistics.median(rank.copy_bytes_per_s for rank in ranks),
        **{name: rows(name) for name in ("products", "moves", "references", "messages")},
    )
