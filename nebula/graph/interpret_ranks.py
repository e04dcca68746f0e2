"""The collectives that the interpreter needs, as a port, and the version in which one process plays all ranks.

Values travel as mappings from a rank that this process runs to its array: all ranks of the mesh when they are
simulated, one when each rank is a process. Calls are collective and blocking; arrays passed in are not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nebula.graph.distribution import Mesh

Array = npt.NDArray[Any]
Values = Mapping[int, Array]


class Ranks(Protocol):
    """Ranks of a mesh that work in lockstep."""

    mesh: Mesh

    @property
    def here(self) -> tuple[int, ...]:
        """The ranks that this process runs."""
        ...

    def all_reduce(self, values: Values, axis: int, operation: str = "sum") -> Values:
        """Each rank gets the `sum` or `max` over the ranks along the axis."""
        ...

    def all_gather(self, values: Values, axis: int) -> Values:
        """Each rank gets [p, ...]: the arrays of the p ranks along the axis, in order."""
        ...

    def reduce_scatter(self, values: Values, axis: int) -> Values:
        """Of arrays [p, ...] rank i along the axis gets the sum of their i-th parts."""
        ...

    def all_to_all(self, values: Values, axis: int) -> Values:
        """Of arrays [p, ...] rank i along the axis gets [p, ...]: the i-th part of each."""
        ...


class SimulatedRanks:
    """All ranks of a mesh in this process."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    @property
    def here(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(range(self.mesh.size))

    def _stacked(self, values: Values, rank: int, axis: int) -> Array:
        return np.stack([values[member] for member in self.mesh.group(rank, axis)])

    def all_reduce(self, values: Values, axis: int, operation: str = "sum") -> Values:
        """Each rank gets the `sum` or `max` over the ranks along the axis."""
        reduce = np.maximum.reduce if operation == "max" else np.add.reduce
        return {rank: np.asarray(reduce(self._stacked(values, rank, axis), axis=0)) for rank in values}

    def all_gather(self, values: Values, axis: int) -> Values:
        """Each rank gets [p, ...]: the arrays of the p ranks along the axis, in order."""
        return {rank: self._stacked(values, rank, axis) for rank in values}

    def reduce_scatter(self, values: Values, axis: int) -> Values:
        """Of arrays [p, ...] rank i along the axis gets the sum of their i-th parts."""
        return {
            rank: np.sum(self._stacked(values, rank, axis)[:, self.mesh.coordinate(rank, axis)], axis=0)
            for rank in values
        }

    def all_to_all(self, values: Values, axis: int) -> Values:
        """Of arrays [p, ...] rank i along the axis gets [p, ...]: the i-th part of each."""
        return {rank: self._stacked(values, rank, axis)[:, self.mesh.coordinate(rank, axis)] for rank in values}
