"""Refits parameters to measured runs: what moved, how sure that is, and what it does to the errors.

Parameters that were asked for and that the rows do not determine are refused; where none was asked for they stay as
they are, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nebula.cost_model.calibration.determined import Undetermined, determining_rows, undetermined
from nebula.cost_model.calibration.fit import Fitted, Start, fit, start
from nebula.cost_model.calibration.leave_out import LeftOut, leave_out
from nebula.cost_model.calibration.parameters import Parameter, chosen, parameters
from nebula.cost_model.calibration.problem import Floats, Problem
from nebula.cost_model.calibration.runs import Run
from nebula.cost_model.runs.score import Errors, errors_of
from nebula.errors import BadInput

EXPECTED = 0.05
"""Spread of a good model's errors, by which it is judged what rows determine: with few rows the residuals of a fit do
not tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One parameter that was fitted.

    Attributes:
        after: its new value.
        error: one standard error of it.
        rows: how many rows have a say in it.
        sources: how many sources those are of.
    """

    parameter: Parameter
    after: float
    error: float
    rows: int
    sources: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """What a calibration came to.

    Attributes:
        runs: that were fitted.
        moved: the parameters that were fitted.
        kept: those that the rows do not determine.
        before: error of each run with the numbers that the model has, in percent.
        after: with the fitted ones.
        left_out: each source predicted without its rows; empty when that was not asked for.
    """

    runs: tuple[Run, ...]
    moved: tuple[Moved, ...]
    kept: tuple[Undetermined, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(sorted({run.source for run in self.runs}))

    def errors(self, percents: Sequence[float]) -> dict[str, Errors]:
        """Errors of all runs under the name "", and of each source."""
        own = {s: [p for run, p in zip(self.runs, percents, strict=True) if run.source == s] for s in self.sources}
        return {"": errors_of(percents), **{s: errors_of(of) for s, of in own.items()}}

    @property
    def unseen(self) -> tuple[float, ...]:
        """Error of each run predicted without its source, in percent; empty when none was left out."""
        found = {row: r for one in self.left_out for row, r in zip(one.rows, percents(one.residuals), strict=True)}
        return tuple(found[i] for i in range(len(self.runs))) if found else ()


def percents(residuals: Floats) -> tuple[float, ...]:
    """Errors in percent of log(predicted / measured)."""
    return tuple(100.0 * math.expm1(float(r)) for r in residuals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of a calibration.

    Attributes:
        names: parameters to fit, or groups of them; empty: all that the rows determine.
        leave_out: whether every source is predicted without its rows too.
        tell: hears what is being done.
    """

    names: tuple[str, ...] = ()
    leave_out: bool = False
    tell: Callable[[str], None] = field(default=lambda _: None)


def calibrate(runs: Sequence[Run], wish: Wish | None = None) -> Refit:
    """Refits parameters to runs.

    Args:
        runs: each with a measured time, all of which the model can price.
        wish: which parameters, and whether to leave sources out.

    Raises:
        BadInput: there are no runs, a parameter does not exist, or the rows do not determine one that was asked for.
    """
    wish = wish or Wish()
    runs = [run for run in runs if run.measured_s > 0]
    if not runs:
        raise BadInput("no run has a measured time; add `measured: {step_time_s: ...}` to the rows")
    known = parameters(run.cluster for run in runs)
    asked = chosen(wish.names, known)
    wish.tell(f"slopes of {len(runs)} runs by {len(asked)} parameters")
    whole = Problem(runs, asked, known)
    begin = start(whole)
    taken, kept = _determined(whole, begin, strict=bool(wish.names))
    problem, begin = _only(runs, known, whole, begin, taken)
    wish.tell(f"fitting {len(taken)} parameters")
    every = np.ones(len(runs), dtype=bool)
    before = problem.residuals(problem.present)
    fitted = fit(problem, begin, every, exact=1)
    left: tuple[LeftOut, ...] = ()
    if wish.leave_out:
        left = tuple(leave_out(problem, begin, lambda source: wish.tell(f"fitting without {source}")))
    return Refit(
        runs=tuple(runs),
        moved=_moved(problem, fitted),
        kept=tuple(kept),
        before=percents(before),
        after=percents(fitted.residuals),
        left_out=left,
    )


def _determined(problem: Problem, begin: Start, *, strict: bool) -> tuple[list[int], list[Undetermined]]:
    """Indices of the parameters that rows determine, and why others are not.

    Of several that cannot be told apart the one that takes the largest part stays as it is, until the rest is told.
    """
    taken, kept = list(range(len(problem.parameters))), []
    while taken:
        some = [problem.parameters[i] for i in taken]
        found = undetermined(some, begin.slopes[:, taken], problem.weights, EXPECTED)
        if not found:
            break
        if strict:
            raise BadInput(f"the rows do not determine what is to be fitted: {found[0].sentence}")
        kept.append(found[0])
        gone = found[0].parameters if not found[0].rows else found[0].parameters[:1]
        taken = [i for i in taken if problem.parameters[i] not in gone]
    return taken, kept


def _only(
    runs: Sequence[Run], known: Sequence[Parameter], whole: Problem, begin: Start, taken: Sequence[int]
) -> tuple[Problem, Start]:
    """The problem of fewer parameters; the others stay as the model has them."""
    if len(taken) == len(whole.parameters):
        return whole, begin
    problem = Problem(runs, [whole.parameters[i] for i in taken], known)
    residuals = problem.residuals(problem.priors)
    slopes = begin.slopes[:, list(taken)]
    return problem, Start(scaled=problem.priors, residuals=residuals, slopes=slopes)


def _moved(problem: Problem, fitted: Fitted) -> tuple[Moved, ...]:
    values = problem.values(fitted.scaled)
    says = np.abs(fitted.slopes) > 1e-3
    counts = determining_rows(fitted.slopes, fitted.weights)
    return tuple(
        Moved(
            parameter=p,
            after=values[p.name],
            error=(p.at(u + e) - p.at(u - e)) / 2.0,
            rows=count,
            sources=len(set(problem.sources[says[:, i]].tolist())),
        )
        for i, (p, u, e, count) in enumerate(zip(problem.parameters, fitted.scaled, fitted.errors, counts, strict=True))
    )
