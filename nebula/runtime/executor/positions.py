"""Which positions of the sequence a rank has where in its part of the chain, and the moves between.

A context group shares the sequence from the batch to the loss. Within it elements that run on shares of a tensor group
(nebula.runtime.shares) take and return these; others take and return all that their context rank has. What crosses a
border between stages is what a rank has where all replicas on both sides have the same degrees, and whole otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from nebula.errors import BadInput
from nebula.plan.values import Plan, Stage
from nebula.runtime.batch import leaves, map_leaves
from nebula.runtime.forward_backward import Loss
from nebula.runtime.parts import parameters_of
from nebula.runtime.sequence import Deal, Gather, Scatter
from nebula.runtime.shares import Run

SEQUENCE, TOKENS = -2, -1
"""The dims along which positions lie: of activations [..., s, width], and of ids and labels [..., s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """The moves of one rank.

    Attributes:
        runs: how this rank runs each element of the whole chain.
        tensor, context: how its groups deal the sequence; None where it is alone.
    """

    plan: Plan
    runs: Sequence[Run]
    tensor: Deal | None
    context: Deal | None

    def of_batch(self, inputs: Any) -> Any:
        """What this rank has of the inputs of the whole sequence, of which the first tells how long it is.

        Raises:
            BadInput: it cannot be told whether an input has positions.
        """
        deal = self.context
        if deal is None:
            return inputs
        first = next(leaves(inputs))

        def own(x: paddle.Tensor) -> paddle.Tensor:
            dim = dim_of_first(x) if x is first else dim_beside(x, first)
            return x if dim is None else deal.own(x, dim)

        return map_leaves(own, inputs)

    def enter(self, stage: int, layer: int, value: Any) -> Any:
        """What an element takes, of what the one before left or a border or the batch brought."""
        shared = layer > 0 and self.runs[layer - 1].leaves
        if 0 < layer == self.plan.stages[stage].layers[0]:
            shared = self._crosses_shared(stage - 1)
            if not self._alike(stage - 1):
                value = moved(value, Scatter, self.context)
        return self._in_tensor_group(value, shared, self.runs[layer].takes)

    def leave(self, stage: int, value: Any) -> Any:
        """What crosses the border behind a stage, or what the loss gets: all that the context rank has."""
        last = stage == len(self.plan.stages) - 1
        shared = self.runs[self.plan.stages[stage].layers[1] - 1].leaves
        value = self._in_tensor_group(value, shared, not last and self._crosses_shared(stage))
        return value if last or self._alike(stage) else moved(value, Gather, self.context)

    def _alike(self, stage: int) -> bool:
        """Whether the ranks on both sides of the border behind a stage hold the same positions."""
        return len({d for each in self.plan.stages[stage : stage + 2] for d in _dealt(each)}) == 1

    def _crosses_shared(self, stage: int) -> bool:
        """Whether shares of a tensor group cross the border behind a stage."""
        first = self.plan.stages[stage + 1].layers[0]
        return self._alike(stage) and self.runs[first - 1].leaves and self.runs[first].takes

    def _in_tensor_group(self, value: Any, shared: bool, wanted: bool) -> Any:
        return value if shared == wanted else moved(value, Scatter if wanted else Gather, self.tensor)


def dim_of_first(x: paddle.Tensor) -> int:
    """Along which the first input has positions: ids or numbers [..., s], or numbers [rows, ..., s, width].

    Raises:
        BadInput: it has rows alone, or is a mask.
    """
    masks = x.dtype == paddle.bool or (x.ndim > 3 and x.shape[-1] == x.shape[-2])
    if x.ndim < 2 or masks:
        told = "like a mask" if masks else "without positions"
        raise BadInput(
            f"the first input of the batch, {list(x.shape)} {told}, does not tell how long the sequence is that "
            "ranks share; begin with the ids"
        )
    return SEQUENCE if x.is_floating_point() and x.ndim > 2 else TOKENS


def dim_beside(x: paddle.Tensor, first: paddle.Tensor) -> int | None:
    """Along which another input has positions; None where every rank needs the whole of it.

    Whole are masks of all queries and keys [..., s, s] and what has no dim of that length. Cut are [rows, s], ids of
    the first one's shape, and numbers [rows, ..., s, width].

    Raises:
        BadInput: it may be a mask as well as anything else.
    """
    length, shape = first.shape[dim_of_first(first)], list(x.shape)
    if length not in shape[1:] or (x.ndim > 2 and shape[-2:] == [length, length]):
        return None
    if x.ndim == 2 or (shape == list(first.shape) and not x.is_floating_point()):
        return TOKENS
    if x.is_floating_point() and shape[SEQUENCE] == length:
        return SEQUENCE
    raise BadInput(
        f"an input of the batch has shape {shape}: it cannot be told which of it belongs to {length} positions that "
        f"ranks share; give what each token has as [rows, {length}], a mask as [rows, 1, {length}, {length}], or make "
        "masks from positions in the method that scores"
    )


def _dealt(stage: Stage) -> set[tuple[int, bool, int]]:
    """What its ranks' positions depend on, for each replica."""
    return {(stage.context, mirrored(stage), len(replica.ranks)) for replica in stage.replicas}


def mirrored(stage: Stage) -> bool:
    """Whether ranks of its context groups have a run of early positions and one of late ones."""
    return stage.context > 1 and stage.exchange == "ring"


def moved(value: Any, move: type[Scatter | Gather], deal: Deal | None) -> Any:
    """What an element takes or returns, scattered over a group or gathered.

    Its first tensor has positions, and all that need a gradient; others (masks) are the same for all shares.
    """
    if deal is None:
        return value
    alone = isinstance(value, paddle.Tensor)
    tensors = [value] if alone else value
    found = [
        move.apply(x, deal, SEQUENCE) if x.is_floating_point() and (index == 0 or not x.stop_gradient) else x
        for index, x in enumerate(tensors)
    ]
    return found[0] if alone else type(value)(found)


def whole_loss(loss: Loss, deal: Deal) -> Loss:
    """The same loss of outputs of which each rank has its positions, and of whole labels.

    One that takes `cross_entropy=` gets one that gathers the nats of all positions; another gathers the outputs.
    """
    asks = parameters_of(loss).get("cross_entropy")
    if asks is None:
        return lambda outputs, labels: loss(moved(outputs, Gather, deal), labels)
    own = asks.default

    def nats(logits: paddle.Tensor, labels: paddle.Tensor, *more: Any, **named: Any) -> paddle.Tensor:
        return Gather.apply(own(logits, deal.own(labels, TOKENS), *more, **named), deal, TOKENS)

    return functools.partial(loss, cross_entropy=nats)
