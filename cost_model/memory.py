"""What tensors hold on a rank of a stage that fleet runs all step long: weights, gradients, optimizer states.

Bytes follow the dtypes of the graph; what an optimizer adds follows the job's precision. What lies beside them from
moment to moment is tensor_moments.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.communication import Amount
from nebula.errors import BadInput
from nebula.plan.job import OPTIMIZERS
from nebula.plan.schedule import in_flight as in_flight
from nebula.plan.values import Job, Sharding

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


@lru_cache(maxsize=4096)
def in_flights(schedule: str, stages: int, micro_batches: int) -> NDArray[np.int64]:
    """[stages] micro-batches whose activations a stage holds together."""
    if schedule == "1f1b":
        # what nebula.plan.schedule counts along the order of 1F1B
        flying: NDArray[np.int64] = np.minimum(np.arange(stages, 0, -1), micro_batches)
        return flying
    return np.array([in_flight(schedule, stages, stage, micro_batches) for stage in range(stages)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed(Generic[Amount]):
    """What a rank holds whatever is in flight, in bytes; of stage 2 the gradients with the buffers of other owners."""

    weights: Amount
    gradients: Amount
    states: Amount


def fixed(parameters_bytes: Amount, elements: Amount, sharding: Sharding, job: Job) -> Fixed[Amount]:
    """Weights, gradients and optimizer states of a rank (ZeRO: Rajbhandari et al., SC 2020, section 5).

    Args:
        parameters_bytes: of all its layers; gradients have as many.
        elements: trainable elements.
        sharding: stage and degree.
        job: precision and optimizer.
    """
    shares = held_shares(sharding)
    return Fixed(
        weights=parameters_bytes * shares.weights,
        gradients=gradients_bytes(parameters_bytes, sharding, job),
        states=state_bytes_per_parameter(job) * shares.states * elements,
    )


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
