"""What data parallelism and sharding add to a stage: communication and kernels in each pass, after it, and the update.

The kernels and messages are those of fleet in PaddlePaddle 3.3.1, read from its records on the emulated device: it
reduces and broadcasts whole tensors to and from their owners, and copies gradients into and out of its buckets. Every
formula takes numbers or arrays, so that evaluate prices one stage and search many runs of layers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Amount, Levels, collective
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.groups import Groups
from nebula.cost_model.memory import state_bytes_per_parameter
from nebula.plan.values import Job, Sharding

REDUCING = 2
"""The stage from which on every pass reduces gradients to their owners."""

GATHERING = 3
"""The stage under which passes gather parameters, so that it matters which tensors are cut."""

SUM_PASSES = 3
"""Adding a gradient to the sum of those before: two reads and a write of its bytes."""

BUCKET_PASSES = 6
"""Into a bucket, scaling it, and out of it: a read and a write each."""

BUCKET_BYTES = 32.0 * 2**20
"""Size at which fleet closes a bucket of plain data parallelism."""

CLIP_PASSES = 3
"""The norm of the gradients, read once, and their scaling, a read and a write."""


@dataclass(frozen=True, slots=True)
class Passes(Generic[Amount]):
    """What one forward and one backward take beside the model's own operators, in seconds."""

    forward_wire_s: Amount
    backward_wire_s: Amount
    forward_kernels_s: Amount
    backward_kernels_s: Amount


def pass_costs(
    parameters_bytes: Amount,
    tensors: Amount,
    *,
    cut_tensors: Amount,
    gathered_again: tuple[Amount, Amount],
    outputs: tuple[Amount, Amount],
    sharding: Sharding,
    shard: Levels,
    micro_batches: int,
    device: DeviceType,
) -> Passes[Amount]:
    """What sharding and the accumulation of gradients add to the passes of one micro-batch, on average over a step.

    Stage 2 reduces every micro-batch's gradients to their owners. Stage 3 gathers parameters in both passes and
    all-reduces gradients, of which each rank keeps its part (Rajbhandari et al., SC 2020, section 7, ask for half). The
    kernels of a gather run beside messages, so that only what takes longer counts; those of a gradient wait for its
    sum. A layer that a backward runs again gathers its parameters once more for that.

    Args:
        parameters_bytes: of the stage on one rank; gradients have as many.
        tensors: how many they are.
        cut_tensors: of the tensors, those that stage 3 cuts.
        gathered_again: of the parameters, bytes and cut tensors of layers that the backward runs again whole.
        outputs: outputs of sublayers with parameters of their own, and their bytes.
        sharding: stage and degree.
        shard: where the ranks of a sharding group meet.
        micro_batches: of one step; the first needs no addition without sharding of gradients.
        device: what runs the kernels.
    """
    again = (micro_batches - 1) / micro_batches
    add_s = moving_seconds(SUM_PASSES * parameters_bytes, tensors, device)
    nothing = 0.0 * parameters_bytes
    if sharding.stage < REDUCING:
        return Passes(nothing, nothing, nothing, adding_seconds(parameters_bytes, tensors, micro_batches, device))
    if sharding.stage == REDUCING:
        reduce_s = collective("broadcast", shard).seconds(parameters_bytes, float(sharding.degree))
        return Passes(nothing, reduce_s, nothing, add_s)
    gather_s = collective("all_gather", shard).seconds(parameters_bytes, cut_tensors)
    reduce_s = collective("all_reduce", shard).seconds(parameters_bytes, cut_tensors)
    again_s = collective("all_gather", shard).seconds(*gathered_again)
    gather_moves_s = gather_kernels_seconds(parameters_bytes, cut_tensors, outputs, sharding.degree, device)
    scatter_moves_s = scatter_kernels_seconds(parameters_bytes, cut_tensors, sharding.degree, device)
    return Passes(
        gather_s,
        gather_s + reduce_s + again_s,
        excess(gather_moves_s, gather_s),
        scatter_moves_s + (1 + again / sharding.degree) * add_s,
    )


def adding_seconds(parameters_bytes: Amount, tensors: Amount, micro_batches: int, device: DeviceType) -> Amount:
    """Adding the gradients of all micro-batches but the first to those before, on average over a step's backwards."""
    return (micro_batches - 1) / micro_batches * moving_seconds(SUM_PASSES * parameters_bytes, tensors, device)


def gather_kernels_seconds(
    parameters_bytes: Amount, tensors: Amount, outputs: tuple[Amount, Amount], degree: int, device: DeviceType
) -> Amount:
    """Stage 3, forward: a buffer filled for each gathered tensor, a rank's part copied back out, outputs copied.

    The buffer is written once and the part read and written: 1 + 2/degree passes over the parameters. The hook behind
    every sublayer that holds parameters copies what the sublayer returns.
    """
    count, output_bytes = outputs
    moved = (1.0 + 2.0 / degree) * parameters_bytes + 2.0 * output_bytes
    return moving_seconds(moved, 2 * tensors + count, device)


def scatter_kernels_seconds(parameters_bytes: Amount, tensors: Amount, degree: int, device: DeviceType) -> Amount:
    """Stage 3, backward: buffers filled for parameters and gradients, gradients scaled, a rank's parts copied.

    Two writes, a read and a write, and two copies of a part: 4 + 4/degree passes over the parameters, five kernels for
    each tensor that is cut.
    """
    return moving_seconds((4.0 + 4.0 / degree) * parameters_bytes, 5 * tensors, device)


def excess(part: Amount, other: Amount) -> Amount:
    """By how much one amount exceeds another, 0 where it does not.

    Example:
        >>> excess(3.0, 2.0), excess(1.0, 2.0)
        (1.0, 0.0)
    """
    difference = part - other
    return (difference + abs(difference)) / 2.0


def sync_seconds(
    parameters_bytes: Amount,
    tensors: Amount,
    *,
    sharding: Sharding,
    groups: Groups,
    recomputes: bool,
    device: DeviceType,
) -> Amount:
    """Data communication after the last backward, its copies and what follows the update included.

    Without sharding, gradients are all-reduced over all replicas in buckets. Stage 1 reduces each tensor to its owner
    in the sharding group, all-reduces what a rank owns outside it and broadcasts the updated parameters; stage 2 has
    reduced already, and stage 3 needs no more than the all-reduce.
    """
    part = 1.0 / sharding.degree
    seconds = collective("all_reduce", groups.outer).seconds(parameters_bytes * part)
    if groups.outer:
        # the reducer copies tensor by tensor; else a whole bucket is fused
        launches = 2 * tensors if by_reducer(groups, recomputes=recomputes) else 0.0 * tensors
        seconds = seconds + moving_seconds(BUCKET_PASSES * part * parameters_bytes, launches, device)
    if sharding.stage == 1:
        owned_s = collective("broadcast", groups.shard).seconds(parameters_bytes, tensors)
        seconds = seconds + 2 * owned_s + moving_seconds(2.0 * parameters_bytes, tensors, device)
    if sharding.stage == 2:
        owned_s = collective("broadcast", groups.shard).seconds(parameters_bytes, float(sharding.degree))
        # gradient buffers are scaled and cleared
        seconds = seconds + owned_s + moving_seconds(3.0 * parameters_bytes, 0.0 * tensors, device)
    return seconds


def by_reducer(groups: Groups, *, recomputes: bool) -> bool:
    """Whether Paddle's reducer sends gradients: of a plan that is split by data alone, and recomputes nothing."""
    return bool(groups.outer) and groups == Groups(outer=groups.outer) and not recomputes


def update_seconds(elements: Amount, tensors: Amount, *, sharding: Sharding, job: Job, device: DeviceType) -> Amount:
    """The clip of the global norm and the optimizer's update of what a rank owns: three kernels per tensor.

    Stage 3 has no kernel of its own for the square of a norm: it squares, sums and adds.
    """
    parts = sharding.stage == GATHERING
    whole = job.precision == "fp32"
    width, states = (4 if whole else 2), state_bytes_per_parameter(job)
    # gradient and parameter have one width; a parameter with a master copy among its states is not read itself
    moved = (3 if whole else 2) * width + 2 * states + (CLIP_PASSES + 2 * parts) * width
    part = 1.0 / sharding.degree
    # stage 3 cuts each tensor, stages 1 and 2 deal whole tensors to owners
    launches = 5 * tensors if parts else 3 * tensors * part
    return moving_seconds(moved * elements * part, launches, device)
