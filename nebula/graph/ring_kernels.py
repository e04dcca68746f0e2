"""The kernels of a ring over written-out scores beside those that score: how large they are, and how often they run.

Read from what the executor dispatches, in both directions. Everything is in float32, whatever the model computes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nebula.graph.values import Kernel, Operator, Product, Tensor, Work

FLOAT = 4
"""Bytes of a float32."""

RUNS = 2
"""Runs of positions that a rank of a ring has: an early one and a late one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Elements of what one run of a rank's positions has.

    Attributes:
        query, key, value: of a run.
        mixed: of the values that a run of queries mixes.
        statistics: numbers of which a run of queries has one for each head.
        scores: of a run of queries with one of keys.
        wide_value: values of a run once each query head has its own.
        batch: heads of all rows.
        run: positions.
        width: of a value.
        dtype: of the model.
    """

    query: int
    key: int
    value: int
    mixed: int
    statistics: int
    scores: int
    wide_value: int
    batch: int
    run: int
    width: int
    dtype: str

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor) -> Sizes:
        """Of the shares [rows, s, heads, width] of a rank."""
        rows, positions, heads, _ = query.shape
        run, width = positions // RUNS, value.shape[3]
        return cls(
            query=query.size // RUNS,
            key=key.size // RUNS,
            value=value.size // RUNS,
            mixed=rows * run * heads * width,
            statistics=rows * heads * run,
            scores=rows * heads * run * run,
            wide_value=rows * heads * run * width,
            batch=rows * heads,
            run=run,
            width=width,
            dtype=query.dtype,
        )

    @property
    def statistics_of_rank(self) -> int:
        """Two numbers for each query and head."""
        return 2 * RUNS * self.statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Kernels that score one run of queries against one of keys, and how often a rank does so.

    Attributes:
        scored: of the forward.
        back: of the gradients of queries and keys.
        times: meetings of this kind, in all turns together.
    """

    scored: tuple[Kernel, ...]
    back: tuple[Kernel, ...]
    times: int

    @classmethod
    def of(cls, operators: Iterable[Operator], times: int) -> Meeting:
        """Of the operators that score."""
        held = list(operators)
        return cls(
            scored=tuple(w for op in held for w in op.forward if isinstance(w, Kernel)),
            back=tuple(w for op in reversed(held) for w in op.backward if isinstance(w, Kernel)),
            times=times,
        )


def forward_works(sizes: Sizes, meetings: Sequence[Meeting], ranks: int) -> tuple[Work, ...]:
    """Kernels of the forward of a rank."""
    s, stat = sizes, sizes.statistics
    works: list[Work] = [_moved("split", RUNS * s.query)]
    works += [_filled(n) for _ in range(RUNS) for n in (stat, stat, s.mixed)]
    works += [_moved("split", RUNS * n) for _ in range(ranks) for n in (s.key, s.value)]
    for meeting in meetings:
        works += [*meeting.scored, *_added(s)] * meeting.times
    for _ in range(RUNS):
        works += [*_finite(stat), _kernel("divide", s.mixed + stat, s.mixed)]
        works += [*_finite(stat), *_finite(stat), _moved("concat", 2 * stat)]
    works += [_moved("concat", RUNS * s.mixed), _moved("concat", 2 * RUNS * stat)]
    works.append(_moved("reshape", RUNS * s.mixed))  # heads come last, out of order
    return tuple(works)


def _added(s: Sizes) -> Iterator[Kernel]:
    """What the softmax does with the scores of a meeting."""
    stat = s.statistics
    yield from _cast(s, s.scores)
    yield _kernel("max", s.scores, stat)
    yield _kernel("maximum", 2 * stat, stat)
    yield from _finite(stat)
    yield _kernel("subtract", s.scores + stat, s.scores)
    yield _kernel("exp", s.scores, s.scores)
    yield _kernel("subtract", 2 * stat, stat)
    yield _kernel("exp", stat, stat)
    yield _kernel("multiply", 2 * stat, stat)
    yield _kernel("sum", s.scores, stat)
    yield _kernel("add", 2 * stat, stat)
    yield _kernel("multiply", s.mixed + stat, s.mixed)
    yield from _by_query_head(s)
    yield _product(s, s.width, s.run, s.scores + s.wide_value, s.mixed)
    yield _kernel("add", 2 * s.mixed, s.mixed)


def backward_works(
    sizes: Sizes, meetings: Sequence[Meeting], ranks: int, weights_bytes: Sequence[float]
) -> tuple[Work, ...]:
    """Kernels of the backward of a rank; gradients of weights that score are added from meeting to meeting."""
    s, stat = sizes, sizes.statistics
    out = RUNS * s.mixed
    works: list[Work] = [_moved("split", 2 * RUNS * stat), *_cast(s, out), _moved("contiguous", out)]
    works += [_kernel("multiply", 2 * out, out), _kernel("sum", out, RUNS * stat), _moved("split", RUNS * stat)]
    works += [_moved("contiguous", out), _moved("split", out), _moved("split", RUNS * s.query)]
    works += [_filled(n) for n in (s.query, s.query, RUNS * s.key, RUNS * s.value)]
    for _ in range(ranks):
        for n in (s.key, s.value):
            works += [_moved("split", RUNS * n), _filled(n), _filled(n)]
            works += [_moved("concat", RUNS * n), _kernel("add", 2 * RUNS * n, RUNS * n)]
    for meeting in meetings:
        works += [*_met_again(s, meeting)] * meeting.times
    met = sum(meeting.times for meeting in meetings)
    for size in weights_bytes:
        works += [Kernel(kind="add", dtype="float32", flops=0.0, read_bytes=2 * size, written_bytes=size)] * (met - 1)
    return (*works, _moved("concat", RUNS * s.query))


def _met_again(s: Sizes, meeting: Meeting) -> Iterator[Kernel]:
    """A meeting scored again, its weights, and the gradients of values, scores, queries and keys."""
    stat = s.statistics
    yield from meeting.scored
    yield from _cast(s, s.scores)
    yield _moved("split", 2 * stat)
    yield _kernel("subtract", s.scores + stat, s.scores)
    yield _kernel("exp", s.scores, s.scores)
    yield _kernel("divide", s.scores + stat, s.scores)
    yield _product(s, s.width, s.run, s.scores + s.mixed, s.wide_value)
    yield _kernel("sum", s.wide_value, s.value)
    yield _moved("contiguous", s.value)
    yield _kernel("add", 2 * s.value, s.value)
    yield from _by_query_head(s)
    yield _product(s, s.run, s.width, s.mixed + s.wide_value, s.scores)
    yield _kernel("subtract", s.scores + stat, s.scores)
    yield _kernel("multiply", 2 * s.scores, s.scores)
    yield from _cast(s, s.scores)
    yield _moved("copy", s.scores)
    yield from meeting.back
    yield from (*_cast(s, s.query), *_cast(s, s.key))
    yield _kernel("add", 2 * s.query, s.query)
    yield _kernel("add", 2 * s.key, s.key)


def _by_query_head(s: Sizes) -> Iterator[Kernel]:
    """Values by head, each for as many heads of queries as it serves."""
    yield from _cast(s, s.value)
    yield _moved("contiguous", s.value)
    if s.wide_value > s.value:
        yield _kernel("repeat_interleave", s.value, s.wide_value)


def _finite(count: int) -> Iterator[Kernel]:
    """Numbers with another in the place of -inf: compared with a filled tensor and chosen from one."""
    yield _filled(count)
    yield _kernel("equal", 2 * count, count / FLOAT)
    yield _filled(count)
    yield _kernel("where", (2 + 1 / FLOAT) * count, count)


def _cast(s: Sizes, count: int) -> tuple[Kernel, ...]:
    return () if s.dtype == "float32" else (_kernel("cast", count / 2, count),)


def _product(s: Sizes, columns: int, inner: int, read: float, written: float) -> Kernel:
    shape = Product(s.batch, s.run, columns, inner)
    return Kernel(
        kind="matmul",
        dtype="float32",
        flops=shape.flops,
        read_bytes=FLOAT * read,
        written_bytes=FLOAT * written,
        product=shape,
    )


def _kernel(kind: str, read: float, written: float) -> Kernel:
    return Kernel(kind=kind, dtype="float32", flops=0.0, read_bytes=FLOAT * read, written_bytes=FLOAT * written)


def _moved(kind: str, count: int) -> Kernel:
    return _kernel(kind, count, count)


def _filled(count: int) -> Kernel:
    return _kernel("full", 0, count)
