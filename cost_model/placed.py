"""Where the stages of a uniform split are: whom their ranks meet, and how slow their slowest node is.

Ranks lie in an order of nebula.plan.layout. Stages that lie alike are one kind, so that a cost is worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.communication import Fabric
from nebula.cost_model.groups import Groups, regular_groups, uniform_groups
from nebula.cost_model.lattice import Lattice
from nebula.plan.layout import FLEET, Order, strides


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


def place(
    devices: NDArray[np.int64],
    *,
    data: int,
    tensor: int,
    pipeline: int,
    degree: int,
    fabric: Fabric,
    order: Order = FLEET,
) -> Placed:
    """The placement of a uniform split.

    Args:
        devices: [at least data * tensor * pipeline] global indices in the order of the ranks.
        data: replicas, those of a sharding group included.
        tensor: ranks of one replica of one stage.
        pipeline: stages.
        degree: replicas of a sharding group.
        fabric: of the cluster.
        order: in which ranks are numbered.
    """
    if regular := fabric.healthy and fabric.regular(_lattice(devices, data, tensor, pipeline, degree, order)):
        return Placed.of(regular_groups(regular, fabric), [1.0] * pipeline)
    by_stage = stage_grid(devices, data=data, tensor=tensor, pipeline=pipeline, degree=degree, order=order)
    return Placed.of(uniform_groups(by_stage, degree, fabric), fabric.slowness(by_stage.reshape(pipeline, -1)))


def _lattice(
    devices: NDArray[np.int64], data: int, tensor: int, pipeline: int, degree: int, order: Order
) -> Lattice | None:
    """The lattice of a split whose devices follow each other; None where they do not."""
    sizes = {"pipeline": pipeline, "data": data // degree, "sharding": degree, "tensor": tensor}
    step = strides(order, sizes)
    held, steps = devices[: data * tensor * pipeline], tuple(step[axis] for axis in sizes)
    return Lattice.straight(held, steps, tuple(sizes.values()))


def stage_grid(
    devices: NDArray[np.int64], *, data: int, tensor: int, pipeline: int, degree: int, order: Order = FLEET
) -> NDArray[np.int64]:
    """[pipeline, data, tensor] devices of a uniform split; arguments as of `place`."""
    sizes = {"data": data // degree, "pipeline": pipeline, "sharding": degree, "tensor": tensor}
    grid = devices[: data * tensor * pipeline].reshape([sizes[axis] for axis in order])
    axes = [order.index(axis) for axis in ("pipeline", "data", "sharding", "tensor")]
    by_stage: NDArray[np.int64] = grid.transpose(axes).reshape(pipeline, data, tensor)
    return by_stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The stages of a split by where they are: what is inside of a stage, and at its two ends.

    Attributes:
        kinds: groups and slowness of stages that differ in more than their borders.
        stages: for each stage the index of its kind.
        entry: what lies before each stage.
        exit: what lies behind it.
    """

    kinds: tuple[tuple[Groups, float], ...]
    stages: tuple[int, ...]
    entry: Ends
    exit: Ends

    @staticmethod
    def of(placed: Placed) -> Places:
        """The same placement, borders apart."""
        each = [placed.kinds[kind] for kind in placed.stages]
        kinds, stages = _distinct([(g.tensor, g.shard, g.outer, slow) for g, slow in each])
        entries, entry = _distinct([(g.tensor, g.before) for g, _ in each])
        exits, leave = _distinct([(g.tensor, g.behind) for g, _ in each])
        return Places(
            kinds=tuple(each[i] for i in kinds),
            stages=stages,
            entry=Ends(kinds=tuple(each[i][0] for i in entries), stages=entry, entering=True),
            exit=Ends(kinds=tuple(each[i][0] for i in exits), stages=leave, entering=False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """One end of all stages.

    Attributes:
        kinds: groups that differ in the border there or in the tensor group that gathers what comes in.
        stages: for each stage the index of its kind.
        entering: whether it is the end at which forwards come in.
    """

    kinds: tuple[Groups, ...]
    stages: tuple[int, ...]
    entering: bool


def _distinct(keys: Sequence[object]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where each different key occurs first, and for each key which of them it is."""
    index: dict[object, int] = {}
    which = tuple(index.setdefault(key, len(index)) for key in keys)
    return tuple(which.index(kind) for kind in range(len(index))), which
