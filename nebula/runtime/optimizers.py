"""Points a user's optimizer at the parameters that a rank holds once the model was cut."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput

BY_TENSOR = ("Lamb", "DistributedFusedLamb", "LarsMomentumOptimizer", "ClipGradByNorm")
"""Optimizers and clips that ask for the norm of each tensor."""


def optimizer_of(optimizer: Any, model: nn.Layer) -> Any:
    """The optimizer itself, or what a function makes from the model's parameters."""
    return optimizer if isinstance(optimizer, paddle.optimizer.Optimizer) else optimizer(model.parameters())


def keep_parameters(optimizer: Any, replaced: Mapping[int, paddle.Tensor], local: list[int]) -> None:
    """Drops the parameters of other stages and takes slices in place of what was cut.

    A group of the optimizer, or all of it, of which the rank holds nothing is left a number without a gradient: Paddle
    makes no optimizer without parameters, and all ranks must take part in the clips of all groups.

    Args:
        optimizer: one that has made no step.
        replaced: id of a serial parameter -> its slice.
        local: ids of the parameters that this rank trains.

    Raises:
        BadInput: the optimizer has stepped already.
    """
    if optimizer._accumulators:
        raise BadInput("the optimizer has made a step already; parallelize before the first one")
    held = set(local)

    def mine(parameters: list[paddle.Tensor]) -> list[paddle.Tensor]:
        taken = (replaced.get(id(p), p) for p in parameters)
        return [p for p in taken if id(p) in held] or [paddle.create_parameter([1], "float32")]

    kept = [mine(parameters) for parameters in _groups(optimizer)]
    if is_grouped(optimizer):
        for group, parameters in zip(optimizer._param_groups, kept, strict=True):
            group["params"] = parameters
        optimizer._parameter_list = [{**group} for group in optimizer._param_groups]
    else:
        optimizer._parameter_list = optimizer._param_groups = kept[0]


def group_clips(optimizer: Any) -> list[Any]:
    """The clips of an optimizer's groups; none where it has no groups."""
    return [group["grad_clip"] for group in optimizer._param_groups] if is_grouped(optimizer) else []


def check_slices(optimizer: Any, sliced: Iterable[str]) -> None:
    """Refuses what asks for the norm of each tensor where ranks hold slices: each would take the norm of its own.

    Args:
        sliced: names of the weights of which a rank holds a slice.

    Raises:
        BadInput: with the first of these.
    """
    name = next(iter(sliced), "")
    clips = group_clips(optimizer) or [optimizer._grad_clip]
    odd = [type(each).__name__ for each in (optimizer, *clips) if type(each).__name__ in BY_TENSOR]
    if name and odd:
        raise BadInput(
            f"{odd[0]} takes the norm of each tensor, and ranks hold slices of {name}: choose AdamW or clip by global "
            "norm, or a plan that cuts no weight (tensor 1, expert 1, no sharding stage 3)"
        )


def largest_first(optimizer: Any) -> None:
    """Orders the parameters of each group so that those who share states get equal shares of them.

    fleet's sharding stage 2 deals them in order, each to who has least, and sums for every owner as much as the one
    with most has.
    """
    grouped = is_grouped(optimizer)
    for parameters in [g["params"] for g in optimizer._param_groups] if grouped else [optimizer._parameter_list]:
        parameters.sort(key=lambda parameter: parameter.size, reverse=True)


def trained_by(optimizer: Any) -> list[paddle.Tensor]:
    """The parameters of all groups of an optimizer."""
    return [parameter for group in _groups(optimizer) for parameter in group]


def groups_by_name(optimizer: Any, names: Mapping[int, str]) -> dict[str, int]:
    """Name of each parameter that an optimizer trains -> index of its group; 0 where there is one list of them.

    Args:
        names: id of a parameter -> its name.
    """
    return {
        names[id(parameter)]: index
        for index, group in enumerate(_groups(optimizer))
        for parameter in group
        if id(parameter) in names
    }


def _groups(optimizer: Any) -> list[list[paddle.Tensor]]:
    if is_grouped(optimizer):
        return [list(group["params"]) for group in optimizer._param_groups]
    return [list(optimizer._parameter_list)]


def is_grouped(optimizer: Any) -> bool:
    """Whether it has groups of parameters rather than one list of them."""
    listed = optimizer._parameter_list
    return bool(listed) and isinstance(listed[0], dict)


def clear_gradients(optimizer: Any) -> None:
    """Drops the gradients rather than filling them with zeros, so that the next backward need not add to zeros.

    fleet's optimizers of sharding stages 2 and 3 keep buffers of their own and take no such wish.
    """
    if "set_to_zero" in inspect.signature(optimizer.clear_grad).parameters:
        optimizer.clear_grad(set_to_zero=False)
    else:
        optimizer.clear_grad()
