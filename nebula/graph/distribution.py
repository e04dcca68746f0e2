"""Where the shards of a tensor lie: a mesh of ranks with named axes, and for a tensor the axis that cuts each dim."""

from __future__ import annotations

import math
from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The distribution attribute of a tensor.

    Attributes:
        mesh: the ranks.
        dims_mapping: for each dim the index of the mesh axis that cuts it, -1 where it is whole.
        partial: mesh axes along which the ranks hold addends of the value.
    """

    mesh: Mesh
    dims_mapping: tuple[int, ...]
    partial: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        used = [a for a in self.dims_mapping if a >= 0]
        assert len(used) == len(set(used)), f"an axis cuts two dims: {self.dims_mapping}"
        assert not self.partial & set(used), f"axis both cut and partial: {self.dims_mapping} {set(self.partial)}"
        assert all(-1 <= a < len(self.mesh.shape) for a in (*self.dims_mapping, *self.partial))

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the whole value."""
        return not self.partial and all(a < 0 for a in self.dims_mapping)
