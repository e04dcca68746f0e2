"""Predicts every source with parameters that were fitted without its rows: what a model is worth on runs it never saw.

A device that occurs nowhere else keeps the usual share of its kind, and a parameter that only that source tells keeps
the middle of its plausible range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nebula.cost_model.calibration.fit import Start, fit
from nebula.cost_model.calibration.problem import Floats, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """One source that was left out.

    Attributes:
        source: its name.
        rows: indices of its runs.
        residuals: of them, log(predicted / measured).
        values: the parameters that the other sources gave.
        alone: names of parameters that no other source moves.
    """

    source: str
    rows: tuple[int, ...]
    residuals: Floats
    values: dict[str, float]
    alone: tuple[str, ...]


def leave_out(problem: Problem, begin: Start, tell: Callable[[str], None] = lambda _: None) -> Iterator[LeftOut]:
    """Every source, left out in turn.

    Args:
        problem: all runs.
        begin: where fits begin; it must not depend on measurements.
        tell: hears which source is left out.
    """
    for source in sorted(set(problem.sources.tolist())):
        tell(source)
        own = problem.sources == source
        fitted = fit(problem, begin, ~own, exact=0)
        rows = np.flatnonzero(own)
        unmoved = ~((begin.slopes != 0.0) & ~own[:, None]).any(axis=0)
        yield LeftOut(
            source=source,
            rows=tuple(int(i) for i in rows),
            residuals=problem.residuals(fitted.scaled, own)[rows],
            values=problem.values(fitted.scaled),
            alone=tuple(p.name for p, alone in zip(problem.parameters, unmoved, strict=True) if alone),
        )
