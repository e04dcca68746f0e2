"""How much of the time that a job lasts is progress: checkpoints, lost work, restarts and nodes in repair counted.

Failures are a Poisson process, and one of them sends the whole job back to its last checkpoint (Daly 2006: A higher
order estimate of the optimum checkpoint interval for restart dumps, FGCS 22). Correlated failures and silent
corruption are not modelled. All functions are pure; times are in seconds, rates per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A job as failures see it.

    Attributes:
        failures_per_s: of the whole job.
        save_s: by which a save holds up training.
        durable_s: from the end of a save's hold-up until the checkpoint can be restored: 0 for synchronous saves, the
            background write for asynchronous ones.
        restart_s: from a failure to the next step, loading included.
        least_interval_s: the shortest work between saves, above 0: a step.
        interval_s: the interval that the user decided; 0: the best one.
        degraded: share of capacity that nodes in repair take (nebula.cost_model.repair).
        planned_restarts_per_s: restarts that nothing failed for, to take repaired nodes back.
        planned_restart_s: how long one takes.
    """

    failures_per_s: float
    save_s: float
    restart_s: float
    least_interval_s: float
    durable_s: float = 0.0
    interval_s: float = 0.0
    degraded: float = 0.0
    planned_restarts_per_s: float = 0.0
    planned_restart_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """Where the time of a job goes; the five shares sum to 1.

    Attributes:
        useful: goodput: the share of time, at the full rate, that is progress. 0 where nothing gets through: where
            failures come much faster than an interval and a restart pass.
        checkpointing: training held up by saves that became checkpoints.
        lost_work: work and saves done since the last checkpoint, and done again.
        restart: from failures, and from the return of repaired nodes, to the next step.
        degraded: capacity that nodes in repair take.
        interval_s: of work between two saves; infinite when nothing fails.
        failures_per_s: of the whole job.
    """

    useful: float
    checkpointing: float
    lost_work: float
    restart: float
    degraded: float
    interval_s: float
    failures_per_s: float

    @property
    def mtbf_s(self) -> float:
        """Mean time between failures of the job; infinite when nothing fails."""
        return 1 / self.failures_per_s if self.failures_per_s else math.inf


def goodput(job: Exposure) -> Goodput:
    """Where the time goes.

    For a failure rate λ, an interval τ, a hold-up δ, a background write W and a restart R, Daly's expected time of an
    interval becomes e^(λ(R+W)) (e^(λ(τ+δ)) − 1) / λ: with background writes a checkpoint stands only once it has been
    failure-free for W more, which multiplies by e^(λW), as the renewal argument for the two states "the last
    checkpoint is written" and "it is not" shows. The share of restarts in it is 1 − e^(−λR), whatever the interval.
    Nodes in repair and planned restarts scale what is left.

    Example:
        >>> job = Exposure(failures_per_s=1 / 86400, save_s=300, restart_s=600, least_interval_s=10)
        >>> round(goodput(job).interval_s / 60), round(goodput(job).useful, 3)
        (117, 0.913)
    """
    rate, interval_s = job.failures_per_s, chosen_interval_s(job)
    running = math.exp(-rate * job.restart_s)
    committed = running * math.exp(-rate * job.durable_s) * _unbroken(rate * (interval_s + job.save_s))
    work = 1.0 if math.isinf(interval_s) else interval_s / (interval_s + job.save_s)
    kept = 1.0 / (1.0 + job.planned_restarts_per_s * job.planned_restart_s)
    scale = kept * (1.0 - job.degraded)
    return Goodput(
        useful=scale * committed * work,
        checkpointing=scale * committed * (1.0 - work),
        lost_work=scale * max(0.0, running - committed),
        restart=(1.0 - job.degraded) * (1.0 - kept * running),
        degraded=job.degraded,
        interval_s=interval_s,
        failures_per_s=rate,
    )


def chosen_interval_s(job: Exposure) -> float:
    """The user's interval, or the best one that leaves a background write time to end and holds at least a step."""
    least_s = max(job.least_interval_s, job.durable_s - job.save_s)
    if job.interval_s:
        return max(job.interval_s, least_s)
    if job.failures_per_s == 0:
        return math.inf
    return max(best_interval_s(job.save_s, 1 / job.failures_per_s), least_s)


def young_interval_s(save_s: float, mtbf_s: float) -> float:
    """The first-order optimum √(2 δ M) (Young 1974, CACM 17(9)).

    Example:
        >>> young_interval_s(5.0, 1440.0)
        120.0
    """
    return math.sqrt(2 * save_s * mtbf_s)


def daly_interval_s(save_s: float, mtbf_s: float) -> float:
    """The higher-order optimum (Daly 2006, equation 37).

    Example:
        >>> round(daly_interval_s(5.0, 24 * 60)), round(daly_interval_s(5.0, 6 * 60))  # minutes; Daly's figures 3 and 4
        (117, 57)
    """
    part = save_s / (2 * mtbf_s)
    if part >= 1:
        return mtbf_s
    return math.sqrt(2 * save_s * mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - save_s


def best_interval_s(save_s: float, mtbf_s: float) -> float:
    """The interval of least expected time, which equation 37 approximates.

    With u = −ln(1 − τ/M), setting the derivative of Daly's expected time to 0 gives u − 1 + e^(−u) = δ/M. The left
    side is convex and grows, so Newton's method from the right falls to the root. Where δ/M is so small that the left
    side is all rounding, equation 37 is exact to rounding.
    """
    part = save_s / mtbf_s
    if part < 1e-9:
        return daly_interval_s(save_s, mtbf_s)
    u = part + math.sqrt(2 * part)
    for _ in range(12):
        u -= (u + math.expm1(-u) - part) / -math.expm1(-u)
    return -mtbf_s * math.expm1(-u)


def expected_s(work_s: float, interval_s: float, *, save_s: float, restart_s: float, mtbf_s: float) -> float:
    """Expected time of so much work: M e^(R/M) (e^((τ+δ)/M) − 1) · work/τ (Daly 2006, equation 20).

    With restart_s = R + W for a background write W. Infinite where it exceeds what a float holds.

    Example:
        >>> round(expected_s(500.0, 117 / 60, save_s=5 / 60, restart_s=1 / 6, mtbf_s=24.0) / 500, 3)  # hours
        1.096
    """
    exponent = (interval_s + save_s) / mtbf_s
    if exponent + restart_s / mtbf_s > 700:
        return math.inf
    return mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(exponent) * work_s / interval_s


def expected_first_order_s(
    work_s: float, interval_s: float, *, save_s: float, restart_s: float, mtbf_s: float
) -> float:
    """Expected time to first order in 1/M: work and saves, and for each failure a restart and half of an interval.

    Young's model, with the restart that Daly (2006, section 2) adds: work · (1 + δ/τ) (1 + (R + (τ+δ)/2) / M).

    Example:
        >>> round(expected_first_order_s(500.0, 117 / 60, save_s=5 / 60, restart_s=1 / 6, mtbf_s=24.0) / 500, 3)
        1.094
    """
    per_failure_s = restart_s + (interval_s + save_s) / 2
    return work_s * (1 + save_s / interval_s) * (1 + per_failure_s / mtbf_s)


def _unbroken(x: float) -> float:
    """x / (e^x − 1), which is 1 at 0: what a stretch of x mean times between failures keeps of the time spent on it."""
    return x * math.exp(-x) / -math.expm1(-x) if x > 0 else 1.0
