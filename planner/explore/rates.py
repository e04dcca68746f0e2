"""What the parameters on a rank cost by their number, where replicas share them so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nebula.cluster.topology import HostShare
from nebula.cluster.values import DeviceType
from nebula.cost_model.offload import holds_states
from nebula.cost_model.passes import NOTHING, Passes
from nebula.cost_model.replicas import LayerLoad, Replicas, Weights
from nebula.cost_model.traffic import Axes
from nebula.plan.values import Sharding
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.ways import Inner

EMPTY = Passes(forward=NOTHING, backward=NOTHING, again=NOTHING)

PROBE_ELEMENTS = 1e9
"""Of parameters, at which and at twice which affine costs are told."""


class Rates(NamedTuple):
    """What parameters cost by their number on a rank: pairs of those that all replicas hold, and those of experts.

    Attributes:
        sync_fixed_s: of reducing and gathering once a step, where there are any.
        sync_s: per element.
        update_s: of the optimizer, per element.
        passing_s: of gathering and reducing in every micro-batch, per element; the fixed part is left out.
        adds_s: of adding a further micro-batch's gradients, per element.
        sync_tensor_s: of reducing and gathering once a step, per tensor.
        update_tensor_s: of the optimizer, per tensor.
    """

    sync_fixed_s: tuple[float, float]
    sync_s: tuple[float, float]
    update_s: tuple[float, float]
    passing_s: tuple[float, float]
    adds_s: tuple[float, float]
    sync_tensor_s: tuple[float, float]
    update_tensor_s: tuple[float, float]


def rates_of(
    layers: Layers, inner: Inner, device: DeviceType, axes: Axes, sharding: Sharding, host: HostShare
) -> Rates:
    """What parameters cost on a device whose replicas meet as in `axes`, and that has so much of its host."""
    own, two = (layers.replicas(inner, device, axes, sharding, m, host) for m in (1, 2))
    sync = _affine(lambda load: sum(own.sync_seconds([(load, 1)])))
    tensors = [_tensors(kind) for kind in range(2)]
    return Rates(
        sync_fixed_s=(sync[0][0], sync[1][0]),
        sync_s=(sync[0][1], sync[1][1]),
        update_s=_slopes(lambda load: own.update_seconds([(load, 1)])),
        passing_s=_slopes(lambda load: sum(own.layer_seconds(load))) if sharding.stage == 3 else (0.0, 0.0),
        # half of two micro-batches are added to another
        adds_s=_slopes(lambda load: 2.0 * two.adds_seconds([(load, 1)])),
        sync_tensor_s=(_copied_s(own, tensors[0]), _copied_s(own, tensors[1])),
        update_tensor_s=(_updated_s(own, tensors[0]), _updated_s(own, tensors[1])),
    )


def _copied_s(of: Replicas, tensor: LayerLoad) -> float:
    return sum(of.sync_seconds([(tensor, 1)]))


def _updated_s(of: Replicas, tensor: LayerLoad) -> float:
    return 0.0 if holds_states(of.stage.offload) else of.update_seconds([(tensor, 1)])


def _tensors(kind: int) -> LayerLoad:
    """One tensor without elements."""
    return LayerLoad(passes=EMPTY, weights=Weights(**{("tensors", "expert_tensors")[kind]: 1.0}), border_bytes=0.0)


def _load(kind: int, elements: float) -> LayerLoad:
    dense, experts = (elements, 0.0) if kind == 0 else (0.0, elements)
    return LayerLoad(passes=EMPTY, weights=Weights(elements=dense, expert_elements=experts), border_bytes=0.0)


def _affine(cost: Callable[[LayerLoad], float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The fixed part and the slope of what so many elements cost: of those of all replicas, and of those of experts."""
    found = []
    for kind in range(2):
        one, two = (cost(_load(kind, n * PROBE_ELEMENTS)) for n in (1, 2))
        found.append((2.0 * one - two, (two - one) / PROBE_ELEMENTS))
    return found[0], found[1]


def _slopes(cost: Callable[[LayerLoad], float]) -> tuple[float, float]:
    dense, experts = _affine(cost)
    return dense[1], experts[1]
