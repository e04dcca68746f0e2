"""What the steps of a reshard do to the arrays of the ranks, and how whole values become shards and back.

Every function here works on all ranks that the process runs; only collectives go through the port.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from nebula.graph.distribution import Distribution, held
from nebula.graph.interpret_ranks import Array, Ranks, Values
from nebula.graph.reshard import Step

_TOLERANCE = 1e-9


def take(values: Values, steps: Sequence[Step], ranks: Ranks) -> Values:
    """The ranks' arrays after the steps."""
    for step in steps:
        values = _take(values, step, ranks)
    return values


def _take(values: Values, step: Step, ranks: Ranks) -> Values:
    axis = step.axis
    degree = ranks.mesh.shape[axis]
    place = {rank: ranks.mesh.coordinate(rank, axis) for rank in values}
    if step.kind == "all_reduce":
        return ranks.all_reduce(values, axis)
    if step.kind == "all_gather":
        gathered = ranks.all_gather(values, axis)
        return {r: _joined(v, step.gathered) for r, v in gathered.items()}
    if step.kind == "reduce_scatter":
        return ranks.reduce_scatter({r: _parts(v, step.cut, degree) for r, v in values.items()}, axis)
    if step.kind == "all_to_all":
        exchanged = ranks.all_to_all({r: _parts(v, step.cut, degree) for r, v in values.items()}, axis)
        return {r: _joined(v, step.gathered) for r, v in exchanged.items()}
    if step.kind == "slice":
        return {r: _parts(v, step.cut, degree)[place[r]] for r, v in values.items()}
    if step.kind == "addend":
        return {r: v if place[r] == 0 else np.zeros_like(v) for r, v in values.items()}
    assert step.kind == "pad", step
    return {r: _joined(_among_zeros(v, place[r], degree), step.gathered) for r, v in values.items()}


def _among_zeros(value: Array, place: int, degree: int) -> Array:
    out = np.zeros((degree, *value.shape), value.dtype)
    out[place] = value
    return out


def _parts(value: Array, cut: tuple[int, int], degree: int) -> Array:
    """[degree, ...]: the shards of a dim cut inside each of its blocks."""
    dim, blocks = cut
    before, after = value.shape[:dim], value.shape[dim + 1 :]
    shard = value.shape[dim] // blocks // degree
    apart = value.reshape(*before, blocks, degree, shard, *after)
    return np.moveaxis(apart, dim + 1, 0).reshape(degree, *before, blocks * shard, *after)


def _joined(parts: Array, cut: tuple[int, int]) -> Array:
    """The reverse of `_parts`."""
    dim, blocks = cut
    degree, shape = parts.shape[0], parts.shape[1:]
    shard = shape[dim] // blocks
    apart = parts.reshape(degree, *shape[:dim], blocks, shard, *shape[dim + 1 :])
    return np.moveaxis(apart, 0, dim + 1).reshape(*shape[:dim], blocks * degree * shard, *shape[dim + 1 :])


@lru_cache(maxsize=4096)
def _place(shape: tuple[int, ...], lies: Distribution, rank: int) -> tuple[Array, ...]:
    """The index of a rank's shard in the whole value."""
    return np.ix_(*held(shape, lies, rank)) if shape else ()


def shard(value: Array, lies: Distribution, rank: int) -> Array:
    """The rank's shard of a whole value; where it is partial, a share of it that differs by rank."""
    local = value[_place(value.shape, lies, rank)]
    for axis in lies.partial:
        place, degree = lies.mesh.coordinate(rank, axis), lies.mesh.shape[axis]
        if np.issubdtype(value.dtype, np.floating):
            local = local * (2 * (place + 1) / (degree * (degree + 1)))
        elif place:
            local = np.zeros_like(local)
    return np.asarray(local)


def assemble(shards: Values, lies: Distribution, shape: Sequence[int]) -> Array:
    """The whole value of the shards of all ranks.

    Raises:
        AssertionError: ranks that should hold the same elements differ.
    """
    full = tuple(shape)
    whole = np.zeros(full, next(iter(shards.values())).dtype)
    replicas = [a for a in range(len(lies.mesh.shape)) if a not in lies.dims_mapping and a not in lies.partial]
    for rank, local in shards.items():
        if all(lies.mesh.coordinate(rank, a) == 0 for a in replicas):
            index = _place(full, lies, rank)
            whole[index] = whole[index] + local
    for rank, local in shards.items():
        if not lies.partial:
            assert _alike(local, whole[_place(full, lies, rank)]), f"rank {rank} disagrees with the others"
    return whole


def _alike(one: Array, other: Array) -> bool:
    if one.dtype == np.bool_:
        return bool((one == other).all())
    return bool((abs(one - other) <= _TOLERANCE * (1 + abs(other))).all())
