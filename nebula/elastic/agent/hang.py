"""Does a rank hang? Judged by its progress, against step times of its own job.

A rank that says nothing for max(2 s, 5 x the 99th percentile of the job's steps) hangs; all ranks are asked a little
before that, so that it is seen by then. While a process begins, loads or ends there are no steps to judge by, and
another, longer patience holds. Which of several ranks is to blame is judged where all are known
(nebula.elastic.policy.blame). Pure: time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nebula.runtime.progress import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a rank may say nothing.

    Attributes:
        least_s: whatever the steps take.
        times: the 99th percentile of the steps.
        early: the share of these after which all ranks are asked, so that one is blamed in time.
        load_s: in LOAD.
        begin_s: in BEGIN and the first step of a process, before the job has begun once: models are built, and
            communicators; infinite in END.
        least_begin_s: in these once it has, or `times` the longest begin so far.
    """

    least_s: float = 2.0
    times: float = 5.0
    early: float = 0.8
    load_s: float = 120.0
    begin_s: float = 1800.0
    least_begin_s: float = 30.0

    def seconds(self, section: Section, step_times: Sequence[float], begins_s: Sequence[float] = ()) -> float:
        """For a rank in a section.

        Args:
            step_times: seconds of the job's steps; none in the first step of a process.
            begins_s: seconds that workers took to their first step.

        Example:
            >>> Patience().seconds(Section.FORWARD, [0.1] * 50), Patience().seconds(Section.FORWARD, [1.0] * 50)
            (1.6, 4.0)
        """
        if section is Section.END:
            return math.inf
        if section is Section.LOAD:  # from the disk that takes longer than from memory
            return self.load_s
        if section is Section.BEGIN or not step_times:
            return max(self.least_begin_s, self.times * max(begins_s)) if begins_s else self.begin_s
        return self.early * max(self.least_s, self.times * long_step(step_times))


FEW, OF_MEDIAN = 100, 4.0


def long_step(step_times: Sequence[float]) -> float:
    """The 99th percentile; of fewer than 100 steps, where that is the longest, at most four times the median.

    >>> long_step([0.1] * 20 + [6.0]), long_step([0.1] * 200 + [6.0] * 3)
    (0.4, 6.0)
    """
    longest = percentile(step_times, 0.99)
    return longest if len(step_times) >= FEW else min(longest, OF_MEDIAN * percentile(step_times, 0.5))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed.

    >>> percentile([3.0, 1.0, 2.0, 4.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
