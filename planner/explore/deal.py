"""Which layers lie on which virtual stage: of all deals the one whose slowest stage takes least.

Of deals that are equally fast the one whose last stage holds most, since the first ones hold more micro-batches at
once; and the stages before it are dealt by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


DIGITS = 11
"""Of the share of all layers to which runs are told apart."""


def runs(layer_s: Floats) -> Floats:
    """[end, first]: seconds of each run of layers [first, end), infinite where it holds none.

    Args:
        layer_s: [layers].
    """
    sums = np.concatenate([[0.0], np.cumsum(layer_s)])
    # runs of equal layers take equally long, whatever rounding says
    found: Floats = np.round((sums[:, None] - sums[None, :]) / sums[-1], DIGITS) * sums[-1]
    found[np.triu_indices(len(sums))] = np.inf
    return found


def balanced(run_s: Sequence[Floats]) -> tuple[int, ...]:
    """First layers of stages, and the number of layers: the deal whose slowest stage takes least.

    Args:
        run_s: for each stage what `runs` gives for its device.

    Example:
        >>> balanced([runs(np.array([1.0, 1.0, 1.0]))] * 2)
        (0, 1, 3)
    """
    choices = _choices(run_s)
    bounds = [len(run_s[0]) - 1]
    for choice in reversed(choices):
        bounds.append(int(choice[bounds[-1]]))
    return tuple(reversed(bounds))


def every_balanced(run_s: Floats, most: int) -> Ints:
    """[most + 1, most + 1]: in row n the boundaries that `balanced` gives for n equal stages, then the last again.

    Example:
        >>> every_balanced(runs(np.array([1.0, 1.0, 1.0])), 2)[1:].tolist()
        [[0, 3, 3], [0, 1, 3]]
    """
    choices, layers = _choices([run_s] * most), len(run_s) - 1
    found = np.full((most + 1, most + 1), layers)
    found[:, 0] = 0
    at = np.full(most + 1, layers)
    for stage in range(most, 0, -1):
        found[stage:, stage] = at[stage:]
        at[stage:] = choices[stage - 1][at[stage:]]
    return found


def _choices(run_s: Sequence[Floats]) -> list[Ints]:
    """For each stage and each end of it the first layer, where the stages before are dealt as well as can be."""
    layers = len(run_s[0]) - 1
    best, choices = np.full(layers + 1, np.inf), []
    best[0] = 0.0
    rows = np.arange(layers + 1)
    worst = np.empty_like(run_s[0])
    for index, own in enumerate(run_s):
        np.maximum(own, best, out=worst)
        choice = worst.argmin(axis=1)
        choices.append(choice)
        best = worst[rows, choice]
        best[: index + 1] = np.inf
    return choices


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The layers of a model as one rank of one pool runs them, groups packed as well as can be.

    Attributes:
        forward_s, backward_s: [layers], nothing of data communication or of messages between stages.
        border_bytes: [layers] that go on behind each.
        common: a layer of the most common kind.
        weighed: the layers as deals weigh them, where they may take less than that; None: as they are here.
    """

    forward_s: Floats
    backward_s: Floats
    border_bytes: Floats
    common: int
    weighed: Chain | None = None

    @cached_property
    def before_s(self) -> Floats:
        """[2, layers + 1]: forward and backward of the layers before each."""
        return np.concatenate([np.zeros((2, 1)), np.cumsum([self.forward_s, self.backward_s], axis=1)], axis=1)

    @cached_property
    def common_s(self) -> float:
        """Both passes of a layer of the most common kind."""
        return float(self.forward_s[self.common] + self.backward_s[self.common])

    @cached_property
    def run_s(self) -> Floats:
        """What `runs` gives for both passes, as deals weigh them."""
        return self.weighed.run_s if self.weighed else runs(self.forward_s + self.backward_s)

    @cached_property
    def pass_s(self) -> float:
        """Both passes of all layers."""
        return float((self.forward_s + self.backward_s).cumsum()[-1])

    @cached_property
    def widest_s(self) -> float:
        """Both passes of the slowest layer."""
        return float((self.forward_s + self.backward_s).max())

    @cached_property
    def least_s(self) -> Floats:
        """[layers]: both passes of the 1, 2, ... quickest layers together."""
        found: Floats = np.sort(self.forward_s + self.backward_s).cumsum()
        return found

    @cached_property
    def forward_share(self) -> float:
        """The least share that the forward has in both passes of a layer."""
        return float((self.forward_s / (self.forward_s + self.backward_s)).min())

    @cached_property
    def deals(self) -> Ints:
        """[stages, ...]: the boundaries for every number of equal stages, as `every_balanced` gives them."""
        return every_balanced(self.run_s, len(self.forward_s))
