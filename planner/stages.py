"""Step times that no 1F1B step can beat: given one of its stages, and given no more than all work and the stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def stage_bound(
    forward_s: Floats, backward_s: Floats, before_s: Floats, behind_s: Floats, micro_batches: int, behind: int
) -> Floats:
    """A step time that no 1F1B step can beat, given one stage.

    The stage waits `before_s` for its first input and for the gradient to get back to the first stage, and is busy for
    m (f + b). From the end of its first forward to its first backward `behind_s` pass, in which it can run at most e
    further forwards, for e stages behind it; from the end of its last forward to its last backward again `behind_s`,
    in which it can run at most e backwards. Both times count where they do not overlap, for m >= e + 2:

        T >= before + m (f + b) + max(0, behind - e f) + max(0, behind - e b)

    and else one of them, with m - 1 in place of e. For equal stages this is the (m + p - 1)(f + b) of 1F1B (Narayanan
    et al., SC 2021, section 2.2), whichever stage is looked at.

    Args:
        forward_s: of one micro-batch on the stage; arrays cover many runs of layers.
        backward_s: likewise.
        before_s: one forward and one backward of all stages before.
        behind_s: one forward and one backward of all stages behind.
        micro_batches: of one step.
        behind: stages behind.

    Example: the first of two stages of 1 + 2 s, 4 micro-batches:
        >>> float(stage_bound(np.array(1.0), np.array(2.0), np.array(0.0), np.array(3.0), 4, 1))
        15.0
    """
    return Busy.of(forward_s, backward_s, before_s, micro_batches).bound(behind_s, micro_batches, behind)


class Busy(NamedTuple):
    """What the bound of stages does not owe to those behind them; one entry per run of layers.

    Attributes:
        own_s: what the stage waits for its first input, and is busy.
        shorter_s: of one forward and one backward the shorter.
        longer_s: and the longer.
    """

    own_s: Floats
    shorter_s: Floats
    longer_s: Floats

    @staticmethod
    def of(forward_s: Floats, backward_s: Floats, before_s: Floats, micro_batches: int) -> Busy:
        """The same for every number of stages behind; arguments as of stage_bound."""
        own_s = before_s + micro_batches * (forward_s + backward_s)
        return Busy(own_s, np.minimum(forward_s, backward_s), np.maximum(forward_s, backward_s))

    def of_runs(self, which: slice) -> Busy:
        """Some of the runs."""
        return Busy(*(field[which] for field in self))

    def bound(self, behind_s: Floats, micro_batches: int, behind: int) -> Floats:
        """The bound with so many stages behind; arguments as of stage_bound."""
        hidden = min(behind, micro_batches - 1)
        bound: Floats = self.own_s + np.maximum(0.0, behind_s - hidden * self.shorter_s)
        if micro_batches >= behind + 2:
            bound += np.maximum(0.0, behind_s - behind * self.longer_s)
        return bound


def geometric_bound(work_s: float, micro_batches: int, stages: int) -> float:
    """A step time that no deal of layers to stages can beat, whatever the schedule.

    Stage s does m w_s of work and waits for the earlier stages' share of the first micro-batch and, at the end, of the
    last: T >= sum of w_j over j < s + m w_s. The least T for which p such w_s can add up to W is W / (1 - (1 - 1/m)^p).

    Args:
        work_s: W, one forward and one backward of all layers.
        micro_batches: m.
        stages: p.

    Example:
        >>> geometric_bound(6.0, 4, 1)
        24.0
    """
    return work_s / (1.0 - (1.0 - 1.0 / micro_batches) ** stages)


def least_largest(weights: Floats) -> Floats:
    """The least that the largest part weighs of a chain cut into 1, 2, ... parts, at most one for each member.

    Example:
        >>> least_largest(np.array([1.0, 2.0, 3.0])).tolist()
        [6.0, 3.0, 3.0]
    """
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    parts = np.where(np.tri(len(ends), k=-1, dtype=bool), ends[:, None] - ends, np.inf)
    best, found, widest = parts[1:, 0], [float(parts[-1, 0])], float(weights.max())
    while len(found) < len(weights) and found[-1] > widest:
        # each of the parts before has a member at least
        count = len(found)
        best = np.maximum(best[:-1], parts[count + 1 :, count:-1]).min(axis=1)
        found.append(min(found[-1], float(best[-1])))
    return np.array(found + found[-1:] * (len(weights) - len(found)))
