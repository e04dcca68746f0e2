"""How a router chooses experts and keeps their loads together, and where the tokens' copies go; values and laws alone.

The layers stand in experts.py. No token is dropped: an expert gets what is sent to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from nebula.errors import BadInput

Counts = npt.NDArray[np.int64]
"""Copies of tokens for each expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How a router turns scores into a choice.

    Attributes:
        score: `softmax` over the experts, or `sigmoid` of each (DeepSeek-V3, arXiv 2412.19437, equation 15).
        normalised: whether the weights of a token's chosen experts are divided by their sum (its equation 13).
        speed: by how much the bias of an expert moves each optimizer step; 0: it never does.
    """

    score: Literal["softmax", "sigmoid"] = "softmax"
    normalised: bool = True
    speed: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in ("softmax", "sigmoid"):
            raise BadInput(f"router score {self.score!r} is none of softmax, sigmoid")
        if self.speed < 0:
            raise BadInput(f"balance speed {self.speed:g} is below 0, which would draw tokens to the busiest experts")


UNBALANCED = Routing()
"""Softmax scores, normalised, and no bias."""


def moved(balance: Counts, load: Counts) -> Counts:
    """The balance after a step: up for experts below the mean load, down for those above, by one move each.

    The bias that is added to scores for the choice alone is speed * balance (DeepSeek-V3, section 2.1.2). Whole moves
    are kept, so that every rank comes to the same bias whatever the order of its sums.

    Args:
        load: copies that each expert got in the global batch of the step.

    Example:
        >>> moved(np.array([0, 0, 2]), np.array([4, 1, 1])).tolist()
        [-1, 1, 3]
    """
    above: Counts = np.sign(load * len(load) - load.sum())
    return balance - above


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """Where the copies of one rank's tokens go, and what comes from the others of its expert group.

    Attributes:
        counts: copies for each expert of the model, of this rank's tokens.
        arriving: from each rank of the group (rows), copies for each expert that this rank holds (columns).
    """

    counts: Counts
    arriving: Counts

    @property
    def sent(self) -> list[int]:
        """Copies that go to each rank of the group; its experts follow each other."""
        return [int(n) for n in self.counts.reshape(len(self.arriving), -1).sum(axis=1)]

    @property
    def came(self) -> list[int]:
        """Copies that come from each rank of the group."""
        return [int(n) for n in self.arriving.sum(axis=1)]

    @property
    def by_expert(self) -> list[int]:
        """Copies that each expert of this rank gets."""
        return [int(n) for n in self.arriving.sum(axis=0)]


def alone(counts: Counts) -> Trip:
    """The trip of a rank that holds all experts."""
    return Trip(counts=counts, arriving=counts[np.newaxis])


def together(arriving: Counts) -> npt.NDArray[np.int64]:
    """For rows that come rank by rank, each rank's sorted by expert: their order with all rows of an expert together.

    Rows of one expert stay in the order of the ranks.

    Example:
        >>> together(np.array([[1, 2], [2, 0]])).tolist()
        [0, 3, 4, 1, 2]
    """
    experts = np.repeat(np.tile(np.arange(arriving.shape[1]), len(arriving)), arriving.reshape(-1))
    return np.argsort(experts, kind="stable")


def spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """[first, last) of runs of those sizes that follow each other.

    Example:
        >>> spans([2, 0, 1])
        [(0, 2), (2, 2), (2, 3)]
    """
    ends = np.cumsum([0, *sizes]).tolist()
    return list(pairwise(ends))
