"""Which positions of the sequence a rank has where in its part of the chain, and the moves between.

Elements that run on shares (nebula.runtime.shares) take and return them; others take and return whole sequences. What
crosses a border between stages is a share where ranks at the same place of all replicas on both sides have the same
one, and whole otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from nebula.plan.values import Plan
from nebula.runtime.sequence import Gather, Scatter
from nebula.runtime.shares import Run

SEQUENCE = -2
"""The dim of activations [..., s, width] along which positions lie."""


class Positions:
    """The moves of one rank.

    Args:
        runs: how this rank runs each element of the whole chain.
        group: that shares the sequence.
    """

    def __init__(self, plan: Plan, runs: Sequence[Run], group: Any) -> None:
        self._stages, self._runs, self._group = plan.stages, runs, group

    def enter(self, stage: int, layer: int, value: Any) -> Any:
        """What an element takes, of what the one before left or a border or the batch brought."""
        if layer == self._stages[stage].layers[0]:
            shared = stage > 0 and self.crosses_shared(stage - 1)
        else:
            shared = self._runs[layer - 1].leaves
        return self._moved(value, shared, self._runs[layer].takes)

    def leave(self, stage: int, value: Any) -> Any:
        """What crosses the border behind a stage, or what the loss gets."""
        shared = stage < len(self._stages) - 1 and self.crosses_shared(stage)
        return self._moved(value, self._runs[self._stages[stage].layers[1] - 1].leaves, shared)

    def crosses_shared(self, stage: int) -> bool:
        """Whether shares cross the border behind a stage."""
        behind = self._stages[stage + 1]
        widths = {len(replica.ranks) for each in (self._stages[stage], behind) for replica in each.replicas}
        first = behind.layers[0]
        return len(widths) == 1 and self._runs[first - 1].leaves and self._runs[first].takes

    def _moved(self, value: Any, shared: bool, wanted: bool) -> Any:
        if shared == wanted:
            return value
        move = Scatter if wanted else Gather
        alone = isinstance(value, paddle.Tensor)
        tensors = [value] if alone else value
        moved = [
            move.apply(tensor, self._group, SEQUENCE) if runs_along_tokens(tensor, index) else tensor
            for index, tensor in enumerate(tensors)
        ]
        return moved[0] if alone else type(value)(moved)


def runs_along_tokens(tensor: paddle.Tensor, index: int) -> bool:
    """Whether tensor `index` of what an element takes or returns has positions: the first, and what needs gradients.

    Others (masks) are the same for all shares.
    """
    return tensor.is_floating_point() and (index == 0 or not tensor.stop_gradient)
