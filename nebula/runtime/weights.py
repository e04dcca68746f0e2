"""Gathers a trained model from its ranks, under the names and in the shapes of the serial model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime.executor import engine
from nebula.runtime.executor.driver import ByActions
from nebula.runtime.parallelize import Step
from nebula.runtime.tensor import joined


def gather(step: Step) -> dict[str, np.ndarray]:
    """The whole model's weights and buffers on every rank: name in the serial model -> array."""
    if isinstance(step.driver, ByActions):
        return engine.gather(step)
    local = {name: _whole(step, parameter) for name, parameter in step.part.weights.items()}
    local |= {name: _array(buffer) for name, buffer in step.part.buffers.items()}
    if step.plan.world_size == 1 or len(step.plan.stages) == 1:
        return local
    from paddle.distributed import fleet

    stages: list[Any] = []
    group = fleet.get_hybrid_communicate_group().get_pipe_parallel_group()
    paddle.distributed.all_gather_object(stages, local, group=group)
    return {name: array for stage in stages for name, array in stage.items()}


def _whole(step: Step, parameter: paddle.Tensor) -> np.ndarray:
    """A parameter of this stage without its cuts."""
    value = _unsharded(parameter)
    dim = step.part.cut.dims.get(id(parameter))
    if dim is None:
        return _array(value)
    from paddle.distributed import fleet

    group = fleet.get_hybrid_communicate_group().get_model_parallel_group()
    parts: list[paddle.Tensor] = []
    paddle.distributed.all_gather(parts, value.contiguous(), group=group)
    return joined([_array(part) for part in parts], dim, halves=id(parameter) in step.part.cut.halves)


def _array(value: paddle.Tensor) -> np.ndarray:
    """Weights in fp32 whatever they were trained in; numpy has no bfloat16."""
    return np.asarray((value.astype("float32") if value.is_floating_point() else value).numpy())


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


def save(whole: dict[str, np.ndarray], path: Path) -> None:
    """Writes gathered weights as safetensors; a reader sees the old file or the new one."""
    from safetensors.numpy import save_file

    partial = path.with_name(path.name + ".part")
    save_file({name: np.ascontiguousarray(array) for name, array in whole.items()}, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, np.ndarray]:
    """Reads gathered weights."""
    from safetensors.numpy import load_file

    return dict(load_file(path))


def fill(model: nn.Layer, whole: dict[str, np.ndarray]) -> None:
    """Gives a serial model the gathered weights and buffers.

    Raises:
        BadInput: they are another model's.
    """
    held = dict(model.named_parameters())
    parameters = {id(parameter) for parameter in held.values()}
    held |= {name: buffer for name, buffer in model.state_dict().items() if id(buffer) not in parameters}
    if set(held) != set(whole):
        odd = sorted(set(held) ^ set(whole))
        raise BadInput(
            f"these weights are of another model: {', '.join(odd[:3])} and {max(0, len(odd) - 3)} more differ"
        )
    for name, tensor in held.items():
        tensor.set_value(whole[name])
