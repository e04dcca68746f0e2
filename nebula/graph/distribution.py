"""Where the shards of a tensor lie: a mesh of ranks with named axes, and for a tensor the axis that cuts each dim.

A distribution says which elements each rank holds, and along which axes ranks hold addends instead of the value.
It refuses a cut that does not divide a dim evenly; it knows nothing of operators or of communication.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nebula.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A grid of ranks; the last axis varies fastest.

    Attributes:
        shape: size of each axis.
        axes: name of each axis.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes) == len(set(self.axes)), (self.shape, self.axes)
        assert all(n >= 1 for n in self.shape), self.shape

    @property
    def size(self) -> int:
        """Number of ranks."""
        return math.prod(self.shape)

    def axis(self, name: str) -> int:
        """Index of the axis of that name."""
        return self.axes.index(name)

    def coordinate(self, rank: int, axis: int) -> int:
        """Where along the axis the rank stands."""
        return rank // math.prod(self.shape[axis + 1 :]) % self.shape[axis]

    def group(self, rank: int, axis: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` along the axis alone, in order; `rank` among them."""
        stride = math.prod(self.shape[axis + 1 :])
        first = rank - self.coordinate(rank, axis) * stride
        return tuple(first + i * stride for i in range(self.shape[axis]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The distribution attribute of a tensor.

    Attributes:
        mesh: the ranks.
        dims_mapping: for each dim the index of the mesh axis that cuts it, -1 where it is whole.
        partial: mesh axes along which the ranks hold addends of the value.
        blocks: for each dim the number of equal blocks that are each cut alike, so that a rank holds one piece of
            every block (a fused query-key-value dim of three blocks cut by heads); empty when all are 1.
    """

    mesh: Mesh
    dims_mapping: tuple[int, ...]
    partial: frozenset[int] = frozenset()
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        used = [a for a in self.dims_mapping if a >= 0]
        assert len(used) == len(set(used)), f"an axis cuts two dims: {self.dims_mapping}"
        assert not self.partial & set(used), f"axis both cut and partial: {self.dims_mapping} {set(self.partial)}"
        assert all(-1 <= a < len(self.mesh.shape) for a in (*self.dims_mapping, *self.partial))
        if self.blocks:
            assert len(self.blocks) == len(self.dims_mapping), self.blocks
            whole = (n for a, n in zip(self.dims_mapping, self.blocks, strict=True) if a < 0)
            assert any(n > 1 for n in self.blocks), "blocks of 1 alone are written as ()"
            assert all(n == 1 for n in whole), f"blocks of a dim that is whole: {self.blocks}"

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the whole value."""
        return not self.partial and all(a < 0 for a in self.dims_mapping)

    @property
    def cuts(self) -> tuple[tuple[int, int], ...]:
        """For each dim its axis (-1: whole) and its number of blocks."""
        return _cuts(self.dims_mapping, self.blocks)

    def degree(self, dim: int) -> int:
        """Into how many shards the dim is cut."""
        axis = self.dims_mapping[dim]
        return 1 if axis < 0 else self.mesh.shape[axis]

    def local_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of one rank's shard of a tensor of that shape."""
        sizes = self.mesh.shape
        return tuple(n if a < 0 else n // sizes[a] for n, a in zip(shape, self.dims_mapping, strict=True))


def distribution(mesh: Mesh, cuts: Sequence[tuple[int, int]], partial: frozenset[int] = frozenset()) -> Distribution:
    """The distribution with the given axis and number of blocks for each dim."""
    return _distribution(mesh, tuple(cuts), partial)


@lru_cache(maxsize=4096)
def _cuts(dims_mapping: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(dims_mapping, blocks or (1,) * len(dims_mapping), strict=True))


@lru_cache(maxsize=65536)
def _distribution(mesh: Mesh, cuts: tuple[tuple[int, int], ...], partial: frozenset[int]) -> Distribution:
    mapping = tuple(axis for axis, _ in cuts)
    blocks = tuple(n if axis >= 0 else 1 for axis, n in cuts)
    return Distribution(
        mesh=mesh, dims_mapping=mapping, partial=partial, blocks=blocks if any(n > 1 for n in blocks) else ()
    )


def whole(mesh: Mesh, dims: int) -> Distribution:
    """Every rank holds all of a tensor with that many dims."""
    return Distribution(mesh=mesh, dims_mapping=(-1,) * dims)


def uneven_dim(shape: Sequence[int], distribution: Distribution) -> int | None:
    """The first dim that the distribution cannot cut evenly, or None."""
    for dim, (n, (axis, blocks)) in enumerate(zip(shape, distribution.cuts, strict=True)):
        if axis >= 0 and n % (blocks * distribution.mesh.shape[axis]):
            return dim
    return None


def require_even(name: str, shape: Sequence[int], distribution: Distribution) -> None:
    """Refuses a distribution that does not fit the tensor.

    Raises:
        BadInput: the dims do not match in number, or one is not divided evenly.
    """
    if len(shape) != len(distribution.dims_mapping):
        raise BadInput(
            f"tensor {name} has {len(shape)} dims, but its dims_mapping {list(distribution.dims_mapping)} names "
            f"{len(distribution.dims_mapping)}: give one axis, or -1, for each dim"
        )
    dim = uneven_dim(shape, distribution)
    if dim is None:
        return
    axis, blocks = distribution.cuts[dim]
    degree = distribution.mesh.shape[axis]
    parts = f"{blocks} blocks of {degree} shards" if blocks > 1 else f"{degree} shards"
    raise BadInput(
        f"tensor {name}: dim {dim} of size {shape[dim]} cannot be cut into {parts} along axis "
        f"'{distribution.mesh.axes[axis]}' ({shape[dim]} % {blocks * degree} = {shape[dim] % (blocks * degree)}): "
        f"choose a degree that divides it"
    )


def pieces(size: int, degree: int, blocks: int, coordinate: int) -> Iterator[range]:
    """The index ranges of a dim that the rank at that coordinate holds, one for each block.

    >>> list(pieces(12, 2, 3, 1))
    [range(2, 4), range(6, 8), range(10, 12)]
    """
    block, shard = size // blocks, size // blocks // degree
    for i in range(blocks):
        first = i * block + coordinate * shard
        yield range(first, first + shard)


def held(shape: Sequence[int], distribution: Distribution, rank: int) -> tuple[tuple[int, ...], ...]:
    """For each dim the global indices that the rank holds, in the order in which its shard stores them."""
    mesh = distribution.mesh
    out = []
    for n, (axis, blocks) in zip(shape, distribution.cuts, strict=True):
        if axis < 0:
            out.append(tuple(range(n)))
        else:
            ranges = pieces(n, mesh.shape[axis], blocks, mesh.coordinate(rank, axis))
            out.append(tuple(i for r in ranges for i in r))
    return tuple(out)
