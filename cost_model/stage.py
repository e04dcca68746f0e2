"""What one pipeline stage costs: its passes, borders, gradient synchronization and update, from sums over its layers.

Every formula takes numbers or arrays, so that evaluate prices one stage and search all runs of layers at once.
Gradients are synchronized after the last backward; nothing overlaps.
"""

from __future__ import annotations

from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Amount, Levels, collective, ranks_of
from nebula.cost_model.groups import ALONE, Groups
from nebula.cost_model.memory import state_bytes_per_parameter
from nebula.plan.values import Job, Sharding


def send_seconds(size_bytes: Amount, messages: Amount, border: Levels, tensor: Levels) -> Amount:
    """What sending to a neighbour stage occupies of the sender: each tensor rank sends its part of the tensors."""
    return collective("send", border).seconds(size_bytes / ranks_of(tensor), messages)


def receive_seconds(size_bytes: Amount, messages: Amount, border: Levels, tensor: Levels) -> Amount:
    """What the receiver does with it: an all_gather of the parts among its tensor group."""
    whole = collective("all_gather", tensor if border else ALONE)
    return whole.seconds(size_bytes, messages)


def pass_seconds(parameters_bytes: Amount, sharding: Sharding, shard: Levels) -> tuple[Amount, Amount]:
    """Communication that sharding adds to one forward and to one backward.

    Stage 3 gathers parameters in both and scatters gradients in the backward, stage 2 only the latter (Rajbhandari et
    al., SC 2020, section 7).
    """
    gather = collective("all_gather", shard if sharding.stage == 3 else ALONE).seconds(parameters_bytes)
    scatter = collective("reduce_scatter", shard if sharding.stage >= 2 else ALONE).seconds(parameters_bytes)
    return gather, gather + scatter


def sync_seconds(parameters_bytes: Amount, sharding: Sharding, groups: Groups) -> Amount:
    """Data communication after the last backward, what follows the update included.

    Args:
        parameters_bytes: of the stage on one rank; gradients have as many.
        sharding: without it, gradients are all-reduced over all replicas. Stage 1 scatters them over the sharding
            group, all-reduces the rest outside it and gathers the updated parameters; stages 2 and 3 have scattered
            already, and stage 3 gathers later.
        groups: of the stage.
    """
    part = 1.0 / max(1, sharding.degree if sharding.stage else 1)
    seconds = collective("all_reduce", groups.outer).seconds(parameters_bytes * part)
    if sharding.stage == 1:
        seconds = seconds + collective("reduce_scatter", groups.shard).seconds(parameters_bytes)
    if sharding.stage in (1, 2):
        seconds = seconds + collective("all_gather", groups.shard).seconds(parameters_bytes)
    return seconds


def accumulation_seconds(parameters_bytes: Amount, tensors: Amount, micro_batches: int, device: DeviceType) -> Amount:
    """Adding one micro-batch's gradients to the sum of those before: two reads and a write, on average over a step."""
    again = (micro_batches - 1) / micro_batches
    return again * moving_seconds(3.0 * parameters_bytes, tensors, device)


def update_seconds(elements: Amount, tensors: Amount, sharding: Sharding, job: Job, device: DeviceType) -> Amount:
    """One optimizer update: a kernel per tensor that reads gradient and states and writes parameters and states."""
    whole = job.precision == "fp32"
    width, states = (4 if whole else 2), state_bytes_per_parameter(job)
    # gradient and parameter have one width; a parameter with a master copy among its states is not read itself
    moved = (3 if whole else 2) * width + 2 * states
    part = 1.0 / sharding.degree if sharding.stage else 1.0
    return moving_seconds(moved * elements * part, tensors * part, device)


def moving_seconds(moved_bytes: Amount, launches: Amount, device: DeviceType) -> Amount:
    """Seconds of `launches` kernels that only move bytes."""
    return launches * device.kernel_s + moved_bytes / (device.memory_bytes_per_s * device.memory_efficiency)
