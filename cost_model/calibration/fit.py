"""Robust least squares on the logarithms of times: Gauss-Newton with damping, slopes corrected as rows answer.

Rows far off count little (Cauchy's weights), rows of one source together as much as a few, and every parameter is held
to what is assumed of it as strongly as its plausible range says. Nothing here knows what a parameter means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nebula.cost_model.calibration.problem import Floats, Mask, Problem

PRIOR_SPREAD = 0.5
"""Standard deviation of what is assumed, in halves of the plausible range: the range holds 95 of 100."""

NOISE = (0.005, 0.2)
"""Least and largest spread of residuals that rows are weighed by: below, formulas are not exact."""

ITERATIONS = 12
LONGEST = 0.5
"""Step of one iteration, in halves of a range."""

CLOSE = 1e-2
"""A step that is shorter ends the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Parameters that fit best.

    Attributes:
        scaled: [k], on the fitted scale.
        residuals: of all rows that were fitted [n]; 0 elsewhere.
        slopes: there [n, k].
        noise: spread of the residuals.
        weights: of each row, its robustness included [n].
    """

    scaled: Floats
    residuals: Floats
    slopes: Floats
    noise: float
    weights: Floats

    @property
    def information(self) -> Floats:
        """What the rows alone tell of the parameters, [k, k]: the inverse of their covariance."""
        weighted = self.slopes * (self.weights[:, None] / self.noise**2)
        return weighted.T @ self.slopes

    @property
    def errors(self) -> Floats:
        """Standard errors [k] on the fitted scale, what is assumed included."""
        k = len(self.scaled)
        if not k:
            return np.zeros(0)
        return np.sqrt(np.diag(np.linalg.inv(self.information + np.eye(k) / PRIOR_SPREAD**2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A point with its residuals and slopes, from which several fits can begin."""

    scaled: Floats
    residuals: Floats
    slopes: Floats


def start(problem: Problem) -> Start:
    """What is assumed of every parameter: it knows no measurement."""
    scaled = problem.priors
    residuals = problem.residuals(scaled)
    return Start(scaled=scaled, residuals=residuals, slopes=problem.slopes(scaled, residuals))


def fit(problem: Problem, begin: Start, rows: Mask, *, exact: int = 2) -> Fitted:
    """The parameters under which the rows are met best.

    Args:
        problem: residuals by parameters.
        begin: where to begin.
        rows: those that count [n].
        exact: how often slopes are taken anew; between, each row corrects its own by what it did (Schubert's form of
            Broyden's update, Math. Comp. 24 (1970), which keeps zeros).
    """
    at, slopes = begin.scaled, np.where(rows[:, None], begin.slopes, 0.0)
    residuals = np.where(rows, begin.residuals, 0.0)
    at, residuals, slopes = _descend(problem, at, residuals, slopes, rows)
    for _ in range(exact):
        at, residuals, slopes = _descend(problem, at, residuals, problem.slopes(at, residuals, rows), rows)
    noise = _noise(residuals, problem.weights, rows)
    return Fitted(
        scaled=at, residuals=residuals, slopes=slopes, noise=noise, weights=_weights(residuals, noise, problem, rows)
    )


def _descend(
    problem: Problem, at: Floats, residuals: Floats, slopes: Floats, rows: Mask
) -> tuple[Floats, Floats, Floats]:
    """Steps until they are short; one that does not help is halved, and slopes learn from both."""
    damping, moves = 0.0, problem.moving(slopes) & rows[:, None]
    for _ in range(ITERATIONS):
        noise = _noise(residuals, problem.weights, rows)
        step = _step(problem, at, residuals, slopes, rows, noise, damping)
        there = problem.kept_in_range(at + step)
        step = there - at
        if not len(step) or np.abs(step).max() < CLOSE:
            break
        moved = problem.residuals(there, rows)
        slopes = _corrected(slopes, moves, step, moved - residuals)
        if _loss(problem, there, moved, rows, noise) < _loss(problem, at, residuals, rows, noise):
            at, residuals, damping = there, moved, damping / 4.0
        else:
            damping = max(4.0 * damping, 1.0)
    return at, residuals, slopes


def _step(
    problem: Problem, at: Floats, residuals: Floats, slopes: Floats, rows: Mask, noise: float, damping: float
) -> Floats:
    """Gauss-Newton on weighted rows and on what is assumed, damped after Levenberg and Marquardt."""
    weights = _weights(residuals, noise, problem, rows)
    k = len(at)
    scale = np.sqrt(weights) / noise
    matrix = np.vstack([slopes * scale[:, None], np.eye(k) / PRIOR_SPREAD, np.sqrt(damping) * _diagonal(slopes, scale)])
    target = np.concatenate([-residuals * scale, -at / PRIOR_SPREAD, np.zeros(k)])
    step: Floats = np.linalg.lstsq(matrix, target, rcond=None)[0]
    return np.clip(step, -LONGEST, LONGEST)


def _diagonal(slopes: Floats, scale: Floats) -> Floats:
    return np.diag(np.sqrt(((slopes * scale[:, None]) ** 2).sum(axis=0)) + 1.0)


def _corrected(slopes: Floats, moves: Mask, step: Floats, change: Floats) -> Floats:
    """Slopes under which every row would have moved as it did, changed the least and only where they are not 0."""
    own = moves * step
    length = (own**2).sum(axis=1)
    off = change - slopes @ step
    share = np.divide(off, length, out=np.zeros_like(off), where=length > 1e-12)
    corrected: Floats = slopes + own * share[:, None]
    return corrected


def _noise(residuals: Floats, weights: Floats, rows: Mask) -> float:
    """Spread of the residuals from their weighted median amount; of normal ones the standard deviation."""
    if not rows.any():
        return NOISE[1]
    order = np.argsort(np.abs(residuals[rows]))
    amounts, shares = np.abs(residuals[rows])[order], np.cumsum(weights[rows][order])
    middle = amounts[min(int(np.searchsorted(shares, shares[-1] / 2.0)), len(amounts) - 1)]
    return float(np.clip(1.4826 * middle, *NOISE))


def _weights(residuals: Floats, noise: float, problem: Problem, rows: Mask) -> Floats:
    found: Floats = np.where(rows, problem.weights / (1.0 + (residuals / noise) ** 2), 0.0)
    return found


def _loss(problem: Problem, at: Floats, residuals: Floats, rows: Mask, noise: float) -> float:
    """Cauchy's, with the prior: what the steps lower."""
    rough = np.where(rows, problem.weights * np.log1p((residuals / noise) ** 2), 0.0)
    return float(rough.sum() + (at**2).sum() / PRIOR_SPREAD**2)
