"""What a rank holds of its parameters all step long: weights, gradients, states of the optimizer, under an execution.

Sharding cuts them as ZeRO does (Rajbhandari et al., SC 2020, section 5). Parameters of experts are cut among fewer
ranks than the others, so that each kind has its own sharding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from nebula.cost_model.communication import Amount
from nebula.cost_model.execution import Execution
from nebula.cost_model.memory import held_shares
from nebula.graph.values import DTYPE_BYTES
from nebula.plan.values import Sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Generic[Amount]):
    """Bytes on one rank, or on ranks that differ in what they hold.

    Attributes:
        weights: that forward and backward read; under stage 3 the share that the rank owns.
        gradients: sums over the micro-batches, and where they lie beside the sum those of one micro-batch.
        states: the copy of the weights that the optimizer updates, and its moments.
        update: flat copies of gradients that the update of a sharded optimizer works on.
        host: in the host's memory.
    """

    weights: Amount
    gradients: Amount
    states: Amount
    update: Amount
    host: Amount

    def __add__(self, other: Held[Amount]) -> Held[Amount]:
        return Held(
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            states=self.states + other.states,
            update=self.update + other.update,
            host=self.host + other.host,
        )


def held(elements: Amount, execution: Execution, sharding: Sharding) -> Held[Amount]:
    """What a rank holds of parameters that a sharding group shares.

    Args:
        elements: trainable elements of the rank's layers.
        execution: dtypes.
        sharding: stage, and degree among the ranks that hold the same elements; a sharded optimizer is one even where
            it is alone (degree 1).

    Example:
        >>> held(1.0, Execution(accumulation_dtype="bfloat16"), Sharding(stage=1, degree=4))
        Held(weights=2.0, gradients=2.0, states=3.0, update=1.5, host=0.0)
    """
    shares = held_shares(sharding)
    width, sums = (DTYPE_BYTES[d] for d in (execution.compute_dtype, execution.accumulation_dtype))
    master = DTYPE_BYTES[execution.master_dtype] if execution.master_dtype else 0
    # stage 3 gathers from the copy that the optimizer updates and holds no other; PaddlePaddle holds both
    weights, copy = (master or width, 0) if sharding.stage == 3 and not execution.by_tensor else (width, master)
    # tensor by tensor an update works on what lies there
    narrow = sharding.stage > 0 and sums < master and not execution.by_tensor
    return Held(
        weights=elements * weights * shares.weights,
        gradients=elements * (sums + (width if execution.separate_sums else 0)) * shares.gradients,
        states=elements * (copy + execution.moments * DTYPE_BYTES[execution.moments_dtype]) * shares.states,
        # the rank's gradients in one piece, and their copy as wide as the weights that are updated
        update=elements * (shares.states * (sums + master) if narrow else 0.0),
        host=0.0 * elements,
    )


def held_beside_host(elements: Amount, execution: Execution, sharding: Sharding) -> Held[Amount]:
    """The same where the states of the optimizer lie in the host's memory, with gradients on their way to the update.

    The device keeps weights as it computes with them, its share under stage 3.

    Example:
        >>> held_beside_host(1.0, Execution(accumulation_dtype="bfloat16"), Sharding(stage=3, degree=4))
        Held(weights=0.5, gradients=0.5, states=0.0, update=0.0, host=3.5)
    """
    shares, own = held_shares(sharding), held(elements, execution, sharding)
    width, sums = (DTYPE_BYTES[d] for d in (execution.compute_dtype, execution.accumulation_dtype))
    master = DTYPE_BYTES[execution.master_dtype] if execution.master_dtype else width
    each = sums + master + execution.moments * DTYPE_BYTES[execution.moments_dtype]
    return Held(
        weights=elements * width * shares.weights,
        gradients=own.gradients,
        states=0.0 * elements,
        update=0.0 * elements,
        host=elements * each * shares.states,
    )


def has_own_sums(execution: Execution) -> bool:
    """Whether gradients are added into memory of another dtype than the backward writes them in."""
    return execution.accumulation_dtype != execution.compute_dtype
