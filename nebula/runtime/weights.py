"""Gathers a trained model from its ranks, under the names and in the shapes of the serial model."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from nebula.runtime.parallelize import Step


def gather(step: Step) -> dict[str, np.ndarray]:
    """The whole model's weights on every rank: name in the serial model -> array."""
    local = {name: _whole(step, parameter) for name, parameter in _parameters(step)}
    if step.plan.world_size == 1 or len(step.plan.stages) == 1:
        return local
    from paddle.distributed import fleet

    stages: list[Any] = []
    group = fleet.get_hybrid_communicate_group().get_pipe_parallel_group()
    paddle.distributed.all_gather_object(stages, local, group=group)
    return {name: array for stage in stages for name, array in stage.items()}


def _parameters(step: Step) -> list[tuple[str, paddle.Tensor]]:
    by_id = {id(p): p for element in step.part.elements for p in element.parameters()}
    return [(name, by_id[key]) for key, name in step.part.names.items()]


def _whole(step: Step, parameter: paddle.Tensor) -> np.ndarray:
    """A parameter of this stage without its cuts."""
    value = _unsharded(parameter)
    dim = step.part.cut.dims.get(id(parameter))
    if dim is None:
        return value.numpy()
    from paddle.distributed import fleet

    group = fleet.get_hybrid_communicate_group().get_model_parallel_group()
    parts: list[paddle.Tensor] = []
    paddle.distributed.all_gather(parts, value.contiguous(), group=group)
    return np.concatenate([part.numpy() for part in parts], axis=dim)


def _unsharded(parameter: paddle.Tensor) -> paddle.Tensor:
    """A parameter that stage 3 may have cut over the sharding group."""
    if getattr(parameter, "status", "all") != "part":
        return parameter.detach()
    from paddle.distributed import fleet

    group = fleet.get_hybrid_communicate_group().get_sharding_parallel_group()
    parts: list[paddle.Tensor] = []
    paddle.distributed.all_gather(parts, parameter.fw_storage.detach().contiguous(), group=group)
    size = int(np.prod(parameter.shape))
    return paddle.concat(parts)[:size].reshape(parameter.shape)
