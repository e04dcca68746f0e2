"""Where the stages of a uniform split are: whom their ranks meet, and how slow their slowest node is.

Ranks lie in the order of nebula.plan.layout. Stages that lie alike are one kind, so that a cost is worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.communication import Fabric
from nebula.cost_model.groups import Groups, uniform_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a split's stages are.

    Attributes:
        kinds: the different kinds of stages: groups, and by what factor the slowest node is slower.
        stages: for each stage the index of its kind.
    """

    kinds: tuple[tuple[Groups, float], ...]
    stages: tuple[int, ...]

    @staticmethod
    def of(groups: Sequence[Groups], slow: Sequence[float]) -> Placed:
        """The placement with those groups and factors of each stage."""
        index: dict[tuple[Groups, float], int] = {}
        stages = tuple(index.setdefault(kind, len(index)) for kind in zip(groups, slow, strict=True))
        return Placed(kinds=tuple(index), stages=stages)


def place(devices: NDArray[np.int64], *, data: int, tensor: int, pipeline: int, degree: int, fabric: Fabric) -> Placed:
    """The placement of a uniform split.

    Args:
        devices: [at least data * tensor * pipeline] global indices in the order of the ranks.
        data: replicas, those of a sharding group included.
        tensor: ranks of one replica of one stage.
        pipeline: stages.
        degree: replicas of a sharding group.
        fabric: of the cluster.
    """
    grid = devices[: data * tensor * pipeline].reshape(-1, pipeline, degree, tensor)
    by_stage = grid.transpose(1, 0, 2, 3).reshape(pipeline, data, tensor)
    return Placed.of(uniform_groups(by_stage, degree, fabric), fabric.slowness(by_stage.reshape(pipeline, -1)))
