"""ZeRO on fleet: which optimizer and which wrapper of the model hold a rank's share of states, gradients, parameters.

Stage 1 is fleet's hybrid optimizer. Stages 2 and 3 are fleet's group-sharded wrappers, which know the sharding and the
data group alone: the gradient clip over tensor and pipeline groups is ours, and so is their way into a pipeline.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime import paddle_faults
from nebula.runtime.forward_backward import Through1F1B

WHOLE_ELEMENTS = 1024
"""Parameters of at most this many elements stay whole in stage 3: norms and biases, hardly worth a gather each."""


def stage2(model: nn.Layer, optimizer: Any, hybrid: Any) -> tuple[nn.Layer, Any]:
    """Wraps model and optimizer so that states and gradients are cut over the sharding group."""
    from paddle.distributed.sharding import group_sharded_parallel

    wrapped, optimizer, _ = group_sharded_parallel(
        model,
        optimizer,
        "os_g",
        group=hybrid.get_sharding_parallel_group(),
        dp_group=data_group(hybrid),
    )
    return wrapped, optimizer


def stage3(model: nn.Layer, optimizer: Any, hybrid: Any) -> tuple[nn.Layer, Any]:
    """Wraps model and optimizer so that parameters, too, are cut over the sharding group."""
    from paddle.distributed.sharding import group_sharded_parallel

    split_names = frozenset(p.name for p in model.parameters() if p.is_distributed)
    clip, optimizer._grad_clip = optimizer._grad_clip, None
    if isinstance(clip, nn.ClipGradByGlobalNorm):
        optimizer._grad_clip = Stage3Clip(clip, hybrid, split_names)
    elif clip is not None:
        raise BadInput(f"sharding stage 3 clips by global norm alone, not by {type(clip).__name__}")
    paddle_faults.keep_decay_rule(optimizer)
    wrapped, optimizer, _ = group_sharded_parallel(
        model,
        optimizer,
        "p_g_os",
        group=hybrid.get_sharding_parallel_group(),
        dp_group=data_group(hybrid),
        segment_size=WHOLE_ELEMENTS,
    )
    return wrapped, optimizer


def data_group(hybrid: Any) -> Any:
    """The group of replicas outside a sharding group, or None when there is one."""
    return hybrid.get_data_parallel_group() if hybrid.get_data_parallel_world_size() > 1 else None


def feed_stage2(driver: Through1F1B, wrapped: Any) -> None:
    """Makes a pipeline prepare stage 2's gradient buffers before each backward; the wrapper does so in its forward."""

    def prepare(kind: str, _: int, moment: str) -> None:
        if kind == "B" and moment == "begin":
            wrapped._init_internal_storage(not wrapped._bw_hooks)

    driver.observers.append(prepare)


class Stage3Clip:
    """Global-norm clip over the slices of stage 3, right under tensor and pipeline splits too.

    A slice's square counts once over the sharding group, a tensor-split parameter's also over the tensor group, and
    all of them over the pipeline.
    """

    def __init__(self, clip: nn.ClipGradByGlobalNorm, hybrid: Any, split_names: frozenset[str]) -> None:
        self.clip_norm, self._hybrid, self._split_names = clip.clip_norm, hybrid, split_names

    @paddle.no_grad()
    def __call__(self, params_grads: list[tuple[paddle.Tensor, paddle.Tensor]]) -> list[Any]:
        """Scales the gradients in place so that their norm over all ranks is at most `clip_norm`."""
        present = [(p, g) for p, g in params_grads if g is not None and getattr(p, "need_clip", True)]
        squares = {(sliced, split): paddle.zeros([1]) for sliced in (True, False) for split in (True, False)}
        for parameter, gradient in present:
            sliced = parameter.name.startswith("slice@")
            split = parameter.name.removeprefix("slice@") in self._split_names
            squares[sliced, split] += gradient.astype("float32").square().sum()
        scale = self.clip_norm / self._norm(squares).clip(min=self.clip_norm)
        for _, gradient in present:
            gradient.multiply_(scale.astype(gradient.dtype))
        return params_grads

    def _norm(self, squares: dict[tuple[bool, bool], paddle.Tensor]) -> paddle.Tensor:
        """The norm over all ranks; four sums travel together."""
        hybrid = self._hybrid
        sliced = paddle.concat([squares[True, True], squares[True, False]])
        paddle.distributed.all_reduce(sliced, group=hybrid.get_sharding_parallel_group())
        split = sliced[0] + squares[False, True][0]
        if hybrid.get_model_parallel_world_size() > 1:
            paddle.distributed.all_reduce(split, group=hybrid.get_model_parallel_group())
        total = split + sliced[1] + squares[False, False][0]
        if hybrid.get_pipe_parallel_world_size() > 1:
            paddle.distributed.all_reduce(total, group=hybrid.get_pipe_parallel_group())
        return total.sqrt()
