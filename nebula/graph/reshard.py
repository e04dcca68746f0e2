"""How a tensor gets from one distribution to another: the collectives on one mesh, the transfers between two.

On one mesh the answer is the cheapest sequence of steps that each move, drop or add the cut along one axis; it does
not depend on the tensor's shape. Between two meshes (a stage border) it is a list of slices to send.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, product
from math import prod

from nebula.graph.distribution import Distribution, Mesh, distribution, pieces

_COMMUNICATION = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of a distribution along one mesh axis.

    Attributes:
        kind: all_reduce, all_gather, reduce_scatter or all_to_all between the ranks along the axis; or without
            communication slice (each keeps its shard), addend (the first rank keeps the value, the others hold
            zeros) or pad (each sets its shard among zeros).
        axis: index of the mesh axis.
        gathered: the dim whose cut ends and its blocks; (-1, 1) when none does.
        cut: the dim that the axis cuts afterwards and its blocks; (-1, 1) when none.
        parts: the larger buffer of one rank is the tensor divided by this.
    """

    kind: str
    axis: int
    gathered: tuple[int, int] = (-1, 1)
    cut: tuple[int, int] = (-1, 1)
    parts: int = 1

    @property
    def communicates(self) -> bool:
        """Whether bytes cross between ranks."""
        return self.kind in _COMMUNICATION


_State = tuple[tuple[tuple[int, int], ...], frozenset[int]]


def moved_share(steps: Sequence[Step], mesh: Mesh) -> float:
    """Bytes that one rank receives in the steps, as a share of the whole tensor's bytes.

    An all_reduce counts as the reduce_scatter and all_gather that bandwidth-optimal algorithms make of it: of a
    buffer of n bytes among p ranks each receives 2 n (p - 1)/p (Patarasuk and Yuan 2009, section 3).
    """
    return sum(_moved(step, mesh.shape[step.axis]) for step in steps)


def _moved(step: Step, ranks: int) -> float:
    return _COMMUNICATION.get(step.kind, 0.0) * (ranks - 1) / ranks / step.parts


@lru_cache(maxsize=65536)
def reshard(source: Distribution, target: Distribution) -> tuple[Step, ...]:
    """The steps from one distribution of a tensor to another on the same mesh, with the fewest bytes received.

    Among sequences with equal bytes the one with the fewest steps is taken (Dijkstra over the distributions that
    lie between; a step cuts a dim only as the target does).
    """
    assert source.mesh == target.mesh, "reshard works on one mesh; a stage border needs `border`"
    if source == target:
        return ()
    goal: _State = (target.cuts, target.partial)
    start: _State = (source.cuts, source.partial)
    order = count()
    queue: list[tuple[float, int, int, _State, tuple[Step, ...]]] = [(0.0, 0, next(order), start, ())]
    done: set[_State] = set()
    while queue:
        moved, _, _, state, steps = heapq.heappop(queue)
        if state == goal:
            return steps
        if state in done:
            continue
        done.add(state)
        for step, following in _edges(state, goal, source.mesh):
            cost = moved + _moved(step, source.mesh.shape[step.axis])
            heapq.heappush(queue, (cost, len(steps) + 1, next(order), following, (*steps, step)))
    raise AssertionError(f"no way from {source} to {target}")


def _edges(state: _State, goal: _State, mesh: Mesh) -> Iterator[tuple[Step, _State]]:
    cuts, partial = state
    parts = prod(mesh.shape[a] for a, _ in cuts if a >= 0)
    where = {a: dim for dim, (a, _) in enumerate(cuts) if a >= 0}
    for axis, degree in enumerate(mesh.shape):
        free = [(dim, n) for dim, (a, n) in enumerate(goal[0]) if a == axis and cuts[dim][0] < 0]
        if axis in partial:
            yield from _from_partial(state, axis, free, parts)
        elif axis in where:
            yield from _from_cut(state, goal, axis, where[axis], free, parts, degree)
        else:
            yield from _from_whole(state, goal, axis, free, parts)


def _from_partial(state: _State, axis: int, free: list[tuple[int, int]], parts: int) -> Iterator[tuple[Step, _State]]:
    cuts, partial = state
    rest = partial - {axis}
    yield Step(kind="all_reduce", axis=axis, parts=parts), (cuts, rest)
    for target in free:
        yield Step(kind="reduce_scatter", axis=axis, cut=target, parts=parts), (_with(cuts, axis, target), rest)


def _from_cut(
    state: _State, goal: _State, axis: int, dim: int, free: list[tuple[int, int]], parts: int, degree: int
) -> Iterator[tuple[Step, _State]]:
    cuts, partial = state
    now = (dim, cuts[dim][1])
    uncut = _with(cuts, -1, (dim, 1))
    yield Step(kind="all_gather", axis=axis, gathered=now, parts=parts // degree), (uncut, partial)
    for target in free:
        step = Step(kind="all_to_all", axis=axis, gathered=now, cut=target, parts=parts)
        yield step, (_with(uncut, axis, target), partial)
    if axis in goal[1]:
        yield Step(kind="pad", axis=axis, gathered=now), (uncut, partial | {axis})


def _from_whole(
    state: _State, goal: _State, axis: int, free: list[tuple[int, int]], parts: int
) -> Iterator[tuple[Step, _State]]:
    cuts, partial = state
    for target in free:
        yield Step(kind="slice", axis=axis, cut=target, parts=parts), (_with(cuts, axis, target), partial)
    if axis in goal[1]:
        yield Step(kind="addend", axis=axis, parts=parts), (cuts, partial | {axis})


def _with(cuts: tuple[tuple[int, int], ...], axis: int, target: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    dim, blocks = target
    return (*cuts[:dim], (axis, blocks), *cuts[dim + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A box of elements sent from one rank of a mesh to one of another.

    Attributes:
        source: rank in the source mesh.
        target: rank in the target mesh.
        read: for each dim the range of the source rank's shard that is sent.
        write: for each dim the range of the target rank's shard where it lands.
    """

    source: int
    target: int
    read: tuple[range, ...]
    write: tuple[range, ...]

    @property
    def size(self) -> int:
        """Elements sent."""
        return prod(len(r) for r in self.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """How a tensor crosses from the ranks of one stage to those of the next.

    Attributes:
        before: steps on the source mesh, which end partial sums.
        transfers: what is sent, by target rank.
        after: steps on the target mesh, empty unless partial sums are asked for there.
    """

    before: tuple[Step, ...]
    transfers: tuple[Transfer, ...]
    after: tuple[Step, ...]


def border(source: Distribution, target: Distribution, shape: Sequence[int]) -> Border:
    """What must be sent so that a tensor of that shape, lying as `source`, lies as `target` on another mesh.

    Each target rank receives each element of its shard once. Where several source ranks hold an element, target
    ranks take it from them in turn.
    """
    sent = distribution(source.mesh, source.cuts)
    received = distribution(target.mesh, target.cuts)
    transfers = [t for rank in range(target.mesh.size) for t in _received(sent, received, shape, rank)]
    return Border(before=reshard(source, sent), transfers=tuple(transfers), after=reshard(received, target))


_Overlap = tuple[int, range, range]


def _received(sent: Distribution, wanted: Distribution, shape: Sequence[int], rank: int) -> Iterator[Transfer]:
    overlaps = [_overlaps(sent, wanted, shape[dim], dim, rank) for dim in range(len(shape))]
    free = [a for a in range(len(sent.mesh.shape)) if a not in sent.dims_mapping]
    replica = rank % prod(sent.mesh.shape[a] for a in free)
    for box in product(*overlaps):
        coordinates = {sent.dims_mapping[dim]: c for dim, (c, _, _) in enumerate(box)}
        source = _rank(sent.mesh, coordinates, free, replica)
        yield Transfer(source=source, target=rank, read=tuple(r for _, r, _ in box), write=tuple(w for _, _, w in box))


def _overlaps(sent: Distribution, wanted: Distribution, size: int, dim: int, rank: int) -> list[_Overlap]:
    """Along one dim: the source's coordinate, the range in its shard, the range in the target's shard."""
    out: list[_Overlap] = []
    _, blocks = sent.cuts[dim]
    to_axis, to_blocks = wanted.cuts[dim]
    place = wanted.mesh.coordinate(rank, to_axis) if to_axis >= 0 else 0
    mine = list(pieces(size, wanted.degree(dim), to_blocks, place))
    for coordinate in range(sent.degree(dim)):
        at = 0
        for theirs in pieces(size, sent.degree(dim), blocks, coordinate):
            to = 0
            for ours in mine:
                first, end = max(theirs.start, ours.start), min(theirs.stop, ours.stop)
                if first < end:
                    read = range(at + first - theirs.start, at + end - theirs.start)
                    out.append((coordinate, read, range(to + first - ours.start, to + end - ours.start)))
                to += len(ours)
            at += len(theirs)
    return out


def _rank(mesh: Mesh, coordinates: dict[int, int], free: list[int], replica: int) -> int:
    place = dict(coordinates)
    for axis in reversed(free):
        place[axis] = replica % mesh.shape[axis]
        replica //= mesh.shape[axis]
    rank = 0
    for axis, degree in enumerate(mesh.shape):
        rank = rank * degree + place[axis]
    return rank
