"""Paddle 3.3's faults that a run of ours meets, each worked around here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn


def end_in_peace() -> None:
    """Lets the rank that keeps the store of a launch end while another hangs up.

    The store's server, by libuv, goes on while its process takes itself down; when a rank that has ended leaves it in
    that moment, it calls what is there no longer and aborts: a training that was done counts as failed. Paddle's older
    server does not. Called by all ranks before they meet.
    """
    paddle.set_flags({"FLAGS_tcp_store_using_libuv": False})


@contextmanager
def of_unlike_kinds() -> Iterator[None]:
    """Lets fleet set up ranks whose devices share no communicator: its groups of all ranks carry nothing.

    With gloo, which Paddle would take, a second group of the same ranks hangs, and 16-bit sums are wrong.
    """
    from paddle.distributed import collective, parallel

    made = collective._new_process_group_impl
    collective._new_process_group_impl = parallel._new_process_group_impl = lambda *_, **__: None
    try:
        yield
    finally:
        collective._new_process_group_impl = parallel._new_process_group_impl = made


def keep_decay_rule(optimizer: Any) -> None:
    """Makes a weight-decay rule by parameter name hold under sharding stage 3.

    Stage 3 steps on slices called `slice@<name>`; AdamW asks `apply_decay_param_fun` with that name, so that a rule
    such as "not the biases" silently stops to match.
    """
    rule = getattr(optimizer, "_apply_decay_param_fun", None)
    if rule is not None:
        optimizer._apply_decay_param_fun = lambda name: rule(name.removeprefix("slice@"))


def clip_over_all_ranks(optimizer: Any, model: nn.Layer, hybrid: Any) -> None:
    """Makes the global-norm clip of sharding stage 3 count every gradient once.

    Stage 3 puts in a clip that sums over the sharding group alone: under tensor or pipeline splits each rank would
    scale by the norm of its own part.
    """
    if optimizer._grad_clip is not None:
        split_names = frozenset(p.name for p in model.parameters() if p.is_distributed)
        optimizer._grad_clip = _Stage3Clip(optimizer._grad_clip, hybrid, split_names)


def keep_group_clips(optimizer: Any, clips: Sequence[Any], hybrid: Any) -> None:
    """Gives the groups of an optimizer their own global-norm clips back, each over all ranks.

    fleet and its sharding wrappers silently put the clip of the whole optimizer in their place.

    Args:
        optimizer: Paddle's, inside of fleet's wrappers.
        clips: of its groups as the user gave them; none where it has no groups.
    """
    from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import hybrid_parallel_optimizer

    for group, clip in zip(optimizer._param_groups if clips else (), clips, strict=True):
        if isinstance(clip, nn.ClipGradByGlobalNorm):
            group["grad_clip"] = hybrid_parallel_optimizer.HybridParallelClipGrad(clip, hybrid)


class _Stage3Clip:
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
