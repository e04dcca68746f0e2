"""What tensors hold on a rank of a stage that fleet runs: weights, gradients, optimizer states, activations.

Bytes follow the dtypes of the graph; what an optimizer adds follows the job's precision. Where a process and its
allocator count as well, stage_memory.py takes the peak of peak.py instead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.communication import Amount
from nebula.errors import BadInput
from nebula.plan.job import OPTIMIZERS
from nebula.plan.schedule import in_flight as in_flight
from nebula.plan.values import Job, Sharding, StageMemory

MOMENTS = {"adamw": 2, "sgd": 0}
"""fp32 numbers that each of OPTIMIZERS keeps for a parameter."""

MASTER_BYTES = 4
"""fp32 copy of each parameter, kept when products are done in 16 bits."""


def state_bytes_per_parameter(job: Job) -> int:
    """Optimizer states of one parameter: fp32 moments, and an fp32 master copy under bf16 or fp16.

    Raises:
        BadInput: the optimizer is unknown.

    Example:
        >>> state_bytes_per_parameter(Job(global_batch=8, precision="bf16"))
        12
    """
    if job.optimizer not in MOMENTS:
        raise BadInput(f"job.optimizer {job.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    return 4 * MOMENTS[job.optimizer] + (0 if job.precision == "fp32" else MASTER_BYTES)


def stage_memory(
    *,
    parameters_bytes: float,
    elements: float,
    widest_bytes: float,
    kept_bytes: float,
    working_bytes: float,
    border_bytes: float,
    in_flight: int,
    sharding: Sharding,
    job: Job,
    limit_bytes: float,
) -> StageMemory:
    """Peak bytes on one rank of a stage.

    Args:
        parameters_bytes: of all its layers on one rank; gradients have as many.
        elements: trainable elements.
        widest_bytes: parameters of the layer that has most.
        kept_bytes: kept from forward to backward by one micro-batch.
        working_bytes: needed while the layer that needs most runs backward.
        border_bytes: what comes in from neighbours.
        in_flight: micro-batches whose activations lie in memory together.
        sharding: stage and degree of ZeRO (Rajbhandari et al., SC 2020, section 5).
        job: precision and optimizer.
        limit_bytes: what the plan may fill.
    """
    shares = held_shares(sharding)
    return StageMemory(
        weights_bytes=parameters_bytes * shares.weights + widest_bytes * (1.0 - shares.weights),
        gradients_bytes=gradients_bytes(parameters_bytes, sharding, job),
        optimizer_bytes=state_bytes_per_parameter(job) * elements * shares.states,
        activations_bytes=kept_bytes * in_flight,
        workspace_bytes=working_bytes + border_bytes,
        limit_bytes=limit_bytes,
    )


@lru_cache(maxsize=4096)
def in_flights(schedule: str, stages: int, micro_batches: int) -> NDArray[np.int64]:
    """[stages] micro-batches whose activations a stage holds together."""
    if schedule == "1f1b":
        # what nebula.plan.schedule counts along the order of 1F1B
        flying: NDArray[np.int64] = np.minimum(np.arange(stages, 0, -1), micro_batches)
        return flying
    return np.array([in_flight(schedule, stages, stage, micro_batches) for stage in range(stages)])


def fixed_bytes(
    parameters_bytes: Amount, elements: Amount, widest_bytes: Amount, sharding: Sharding, job: Job
) -> Amount:
    """Weights, gradients and optimizer states together, as in `stage_memory`; numbers, or arrays of them."""
    shares = held_shares(sharding)
    gathered = widest_bytes * (1.0 - shares.weights)
    states = state_bytes_per_parameter(job) * shares.states * elements
    return parameters_bytes * shares.weights + gradients_bytes(parameters_bytes, sharding, job) + gathered + states


def gradients_bytes(parameters_bytes: Amount, sharding: Sharding, job: Job) -> Amount:
    """Gradients at the peak of a backward: the rank's share, and under stage 2 the buffers of the other owners.

    Fleet (PaddlePaddle 3.3.1) collects gradients in a buffer of at most 2**23 elements for each rank of the sharding
    group before it reduces them.
    """
    own = parameters_bytes * held_shares(sharding).gradients
    if sharding.stage != 2:
        return own
    buffers = (sharding.degree - 1) * 2.0**23 * (4 if job.precision == "fp32" else 2)
    return own + smaller(parameters_bytes - own, buffers)


def smaller(amount: Amount, limit: float) -> Amount:
    """The amount, but at most the limit.

    Example:
        >>> smaller(3.0, 2.0), smaller(1.0, 2.0)
        (2.0, 1.0)
    """
    return (amount + limit - abs(amount - limit)) / 2.0


class Shares(NamedTuple):
    """What part of weights, gradients and optimizer states one rank holds."""

    weights: float
    gradients: float
    states: float


def held_shares(sharding: Sharding) -> Shares:
    """The parts under a sharding stage.

    Example:
        >>> held_shares(Sharding(stage=2, degree=4))
        Shares(weights=1.0, gradients=0.25, states=0.25)
    """
    part = 1.0 / sharding.degree
    return Shares(*(part if sharding.stage >= least else 1.0 for least in (3, 2, 1)))
