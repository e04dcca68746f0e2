"""ZeRO on fleet: which optimizer and which wrapper of the model hold a rank's share of states, gradients, parameters.

Stage 1 is fleet's hybrid optimizer. Stages 2 and 3 are fleet's group-sharded wrappers; their way into a pipeline is
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime import chain, paddle_faults
from nebula.runtime.forward_backward import Through1F1B
from nebula.runtime.optimizers import largest_first
from nebula.runtime.parts import Part

WHOLE_ELEMENTS = 1024
"""Parameters of at most this many elements stay whole in stage 3: norms and biases, hardly worth a gather each."""


def check(stage: int, part: Part, recompute: str, clips: Sequence[Any]) -> None:
    """Refuses what fleet would train wrongly without a word.

    Args:
        stage: of sharding.
        part: what the rank holds.
        recompute: policy of its stage.
        clips: of the optimizer's groups.

    Raises:
        BadInput: the optimizer has groups that the stage of sharding cannot keep apart; or stage 2 would add a weight's
            gradient over the ranks before all of its layers have given theirs.
    """
    if stage in (1, 3) and clips:
        other = (
            "name the engine executor in the plan, which does" if stage == 1 else "use stage 2, or the executor with 1"
        )
        raise BadInput(f"fleet's sharding stage {stage} takes no optimizer with groups of parameters; {other}")
    shared = chain.shared_across([[element] for element in part.elements]) if stage == 2 else None
    if shared and recompute != "none":
        raise BadInput(
            f"{shared} is shared by two layers under recompute {recompute}: fleet's sharding stage 2 would sum its "
            "gradient after the first of them; use another stage of sharding, or no recompute"
        )


def stage2(model: nn.Layer, optimizer: Any, hybrid: Any, scaler: Any) -> tuple[nn.Layer, Any]:
    """Wraps model and optimizer so that states and gradients are cut over the sharding group."""
    from paddle.distributed.sharding import group_sharded_parallel

    largest_first(optimizer)
    wrapped, optimizer, _ = group_sharded_parallel(
        model,
        optimizer,
        "os_g",
        scaler=scaler,
        group=hybrid.get_sharding_parallel_group(),
        dp_group=data_group(hybrid),
    )
    return wrapped, optimizer


def stage3(model: nn.Layer, optimizer: Any, hybrid: Any, scaler: Any) -> tuple[nn.Layer, Any]:
    """Wraps model and optimizer so that parameters, too, are cut over the sharding group."""
    from paddle.distributed.sharding import group_sharded_parallel

    if optimizer._grad_clip is not None and not isinstance(optimizer._grad_clip, nn.ClipGradByGlobalNorm):
        raise BadInput(f"sharding stage 3 clips by global norm alone, not by {type(optimizer._grad_clip).__name__}")
    paddle_faults.clip_over_all_ranks(optimizer, model, hybrid)
    paddle_faults.keep_decay_rule(optimizer)
    wrapped, optimizer, _ = group_sharded_parallel(
        model,
        optimizer,
        "p_g_os",
        scaler=scaler,
        group=hybrid.get_sharding_parallel_group(),
        dp_group=data_group(hybrid),
        segment_size=WHOLE_ELEMENTS,
    )
    return wrapped, optimizer


def data_group(hybrid: Any) -> Any:
    """The group of replicas outside a sharding group, or None when there is one."""
    return hybrid.get_data_parallel_group() if hybrid.get_data_parallel_world_size() > 1 else None


def storage(parameter: paddle.Tensor) -> paddle.Tensor:
    """Where a parameter's elements are between two steps: stage 3 keeps a rank's range of them elsewhere."""
    kept = getattr(parameter, "fw_storage", None)
    return parameter if kept is None else kept


def feed_stage2(driver: Through1F1B, wrapped: Any) -> None:
    """Makes a pipeline prepare stage 2's gradient buffers before each backward; the wrapper does so in its forward."""

    def prepare(kind: str, _: int, moment: str) -> None:
        if kind == "B" and moment == "begin":
            wrapped._init_internal_storage(not wrapped._bw_hooks)

    driver.observers.append(prepare)
