"""What lies in a rank's memory at the moments of a step, by what the rank's layers add up to.

Every formula takes numbers or arrays, so that the peak of one rank and those of all runs of layers that a search deals
are the same.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from nebula.cost_model.communication import Amount
from nebula.cost_model.held import Held, has_own_sums, held, held_beside_host
from nebula.cost_model.memory import smaller
from nebula.cost_model.offload import holds_states
from nebula.cost_model.sharding import BUCKET_BYTES as FLEET_BUCKET_BYTES
from nebula.graph.values import DTYPE_BYTES
from nebula.plan.executor_limits import BUCKET_BYTES

if TYPE_CHECKING:
    from nebula.cost_model.peak import Setting

STEP = "optimizer step"
"""The moment when activations are gone and the update works."""

OWNER_ELEMENTS = 2**23
"""Elements of the buffer in which stage 2 collects gradients for one owner (fleet, PaddlePaddle 3.3.1)."""


class Summing(enum.Enum):
    """How PaddlePaddle copies the gradients that replicas sum.

    JOINED: the executor joins up to BUCKET_BYTES of them to one array and parts it again, after the last backward.
    FUSED: fleet's hybrid plans copy all of them into buckets before the first is reduced, after the last backward.
    BUCKETS: fleet's plain data parallelism, where nothing is recomputed, keeps buckets of all gradients from step to
        step, each filled anew beside the old one while the last backward goes on.
    """

    JOINED = "joined"
    FUSED = "fused"
    BUCKETS = "buckets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals(Generic[Amount]):
    """What the layers of a rank add up to; bytes but for the elements.

    Attributes:
        elements: trainable elements, those of experts apart.
        expert_elements: those of experts.
        widest_elements: of the layer that has most.
        activations: kept by the micro-batches in flight.
        weight_gradients: gradients of weights on their way to the sums.
        passing: what a backward restores, and the gradients of one operator; of the layer that needs most.
        loss_passing: gradients of one operator of the layer of the loss.
        logits: tensors of the loss, of the micro-batches in flight.
        staged: of offloaded activations on their way.
    """

    elements: Amount
    expert_elements: Amount
    widest_elements: Amount
    activations: Amount
    weight_gradients: Amount
    passing: Amount
    loss_passing: Amount
    logits: Amount
    staged: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment(Generic[Amount]):
    """What lies there beside weights and states, in bytes."""

    gradients: Amount
    activations: Amount
    workspace: Amount
    logits: Amount
    buffers: Amount


def held_all_along(totals: Totals[Amount], setting: Setting) -> Held[Amount]:
    """Weights, gradients and states of a rank."""
    of = held_beside_host if holds_states(setting.offload) else held
    plain = totals.elements - setting.tied_elements
    if setting.expert_sharding == setting.sharding:
        return of(plain + totals.expert_elements, setting.execution, setting.sharding)
    return of(plain, setting.execution, setting.sharding) + of(
        totals.expert_elements, setting.execution, setting.expert_sharding
    )


def moments(totals: Totals[Amount], setting: Setting, own: Held[Amount]) -> dict[str, Moment[Amount]]:
    """The moments that may be the fullest, by name.

    Args:
        totals: of the rank.
        setting: of the rank.
        own: as of held_all_along.
    """
    nothing = 0.0 * own.gradients
    after, buffers = _summed(own, setting), _buffers(totals, setting, own)
    # gradients that nothing added to before are not there yet
    gradients = nothing if setting.adds_nothing else own.gradients
    beside = totals.weight_gradients

    def passing(workspace: Amount, logits: Amount) -> Moment[Amount]:
        return Moment(
            gradients=gradients,
            activations=totals.activations,
            workspace=workspace,
            logits=logits,
            buffers=buffers + totals.staged,
        )

    found = {
        "last backward": passing(beside + totals.passing, nothing),
        STEP: Moment(
            gradients=own.gradients,
            activations=nothing,
            workspace=own.update + after,
            logits=nothing,
            buffers=nothing,
        ),
        "loss": passing(beside + totals.loss_passing, totals.logits),
    }
    if setting.sharding.stage == 3 and not setting.execution.by_tensor:
        # what was gathered in one piece is copied into the tensors of the layer
        found["gather"] = passing(buffers / 2.0, nothing)
    return found


def _buffers(totals: Totals[Amount], setting: Setting, own: Held[Amount]) -> Amount:
    """What communication of gradients and parameters holds while a backward passes."""
    stage, degree = setting.sharding.stage, setting.sharding.degree
    execution = setting.execution
    width = DTYPE_BYTES[execution.compute_dtype]
    if stage == 3:
        # the layer at work, by its tensors; elsewhere beside the one that is fetched ahead
        return (1.0 - 1.0 / degree if execution.by_tensor else 2.0) * width * totals.widest_elements
    if stage == 2:
        each = smaller(totals.elements / degree, float(OWNER_ELEMENTS))
        return width * (degree - 1) * each
    if setting.replicas > 1 and stage == 0:
        if execution.by_tensor and setting.summing is Summing.BUCKETS:
            return own.gradients
        if not execution.by_tensor and not has_own_sums(execution):
            # sums of their own are reduced where they lie, others are copied into buckets
            return own.gradients
    return 0.0 * own.gradients


def _summed(own: Held[Amount], setting: Setting) -> Amount:
    """What the copies of gradients hold that replicas sum when activations are gone."""
    stage, degree = setting.sharding.stage, setting.sharding.degree
    if setting.execution.by_tensor and setting.replicas > 1:
        if setting.summing is Summing.JOINED:
            return 2.0 * smaller(own.gradients, float(BUCKET_BYTES))
        if setting.summing is Summing.BUCKETS and stage == 0:
            return own.gradients + smaller(own.gradients, FLEET_BUCKET_BYTES)
        if setting.summing is Summing.FUSED and setting.replicas > degree:
            # owners of whole tensors sum what they own
            return own.gradients / (degree if stage == 1 else 1)
    return 0.0 * own.gradients
