"""How many nodes are away for repair, and what a job makes of it: it takes a spare, goes on with fewer, or waits.

A birth-death chain over the number k of nodes in repair. Its stationary shares are those of Erlang's loss system
(`wait`) and of Engset's finite source (`continue`), so they hold for any distribution of the repair time with that mean
(insensitivity; Kelly 1979, Reversibility and Stochastic Networks, section 3.3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Away(NamedTuple):
    """What nodes in repair cost.

    Attributes:
        degraded: mean share of the job's capacity that is missing.
        uncovered_per_s: losses for which no spare stands by.
    """

    degraded: float
    uncovered_per_s: float


def away(*, nodes: int, spares: int, losses_per_s: float, repair_s: float, continues: bool) -> Away:
    """The mean over time of what is missing.

    Args:
        nodes: of the job.
        spares: nodes that stand by; nothing fails on them.
        losses_per_s: of the job while all its nodes work; fewer in proportion while some are missing.
        repair_s: mean time until a lost node is back.
        continues: whether the job goes on with fewer nodes, at a rate in proportion; else it waits for a full set.

    Example:
        >>> round(away(nodes=4, spares=0, losses_per_s=0.04, repair_s=1.0, continues=True).degraded, 4)
        0.0099
        >>> round(away(nodes=4, spares=0, losses_per_s=0.04, repair_s=1.0, continues=False).degraded, 4)  # Erlang B
        0.0385
    """
    if losses_per_s * repair_s <= 0:
        return Away(0.0, 0.0)
    most = spares + (nodes if continues else 1)
    missing = np.maximum(np.arange(most + 1) - spares, 0) / (nodes if continues else 1)
    ratios = losses_per_s * repair_s * (1.0 - missing[:-1]) / np.arange(1, most + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log(ratios))))
    weights = np.exp(logs - logs.max())
    shares = weights / weights.sum()
    without_spare = (shares * (1.0 - missing))[spares:].sum()
    return Away(float(shares @ missing), losses_per_s * float(without_spare))
