"""Runs and the parameters to fit, as residuals and slopes: what least squares needs, with no more pricing than needed.

A residual is the logarithm of predicted over measured. A slope is per half of a parameter's plausible range, so that
slopes compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.calibration.parameters import Parameter
from nebula.cost_model.calibration.runs import Run, by_type

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

STEP = 0.05
"""Of half a range, over which a slope is taken."""

SOURCE_ROWS = 15.0
"""As many independent rows one source counts at most: its other rows repeat what is peculiar to it."""


class Problem:
    """Residuals of n runs as a function of k parameters.

    Attributes:
        runs: n.
        parameters: k.
        weights: of each run [n]; those of a source sum to SOURCE_ROWS at most.
    """

    def __init__(self, runs: Sequence[Run], parameters: Sequence[Parameter], known: Sequence[Parameter] = ()) -> None:
        """Takes the runs.

        Args:
            runs: all with a measured time.
            parameters: to be fitted.
            known: all that there are; those that are not fitted stay as the model has them.
        """
        self.runs, self.parameters = tuple(runs), tuple(parameters)
        self._known = (*known, *parameters)
        self._measured = np.array([run.measured_s for run in self.runs])
        self._touched = np.array([[run.touched(p) for p in self.parameters] for run in self.runs], dtype=bool)
        self._touched = self._touched.reshape(len(self.runs), len(self.parameters))
        sources = [run.source for run in self.runs]
        self.sources = np.array(sources)
        self.weights = np.array([min(1.0, SOURCE_ROWS / sources.count(s)) for s in sources])

    @property
    def priors(self) -> Floats:
        """What is assumed of each parameter, [k] on the fitted scale."""
        return np.zeros(len(self.parameters))

    @property
    def present(self) -> Floats:
        """What the model has, [k] on the fitted scale."""
        return np.array([p.scaled(p.value) for p in self.parameters])

    def values(self, scaled: Floats) -> dict[str, float]:
        """By name, from [k] on the fitted scale."""
        return {p.name: p.at(float(u)) for p, u in zip(self.parameters, scaled, strict=True)}

    def kept_in_range(self, scaled: Floats) -> Floats:
        """The same, no value beyond its plausible range."""
        return np.array([p.scaled(p.at(float(u))) for p, u in zip(self.parameters, scaled, strict=True)])

    def residuals(self, scaled: Floats, rows: Mask | None = None) -> Floats:
        """log(predicted / measured), [n]; 0 for rows that are not asked for."""
        named = by_type(self.values(scaled), self._known)
        found = np.zeros(len(self.runs))
        for i in np.flatnonzero(self._all() if rows is None else rows):
            found[i] = self._residual(int(i), named)
        return found

    def slopes(self, scaled: Floats, at: Floats, rows: Mask | None = None) -> Floats:
        """Slopes of the residuals, [n, k]; `at` has the residuals there."""
        rows = self._all() if rows is None else rows
        found = np.zeros(self._touched.shape)
        for column, parameter in enumerate(self.parameters):
            # inward from the ends of the range
            step = -STEP if scaled[column] > 0 else STEP
            moved = scaled.copy()
            moved[column] += step
            moved_by = parameter.scaled(parameter.at(float(moved[column]))) - scaled[column]
            named = by_type(self.values(moved), self._known)
            for i in np.flatnonzero(rows & self._touched[:, column]):
                found[i, column] = (self._residual(int(i), named) - at[i]) / moved_by
        return found

    def moving(self, slopes: Floats) -> Mask:
        """Which row may move with which parameter, [n, k]: as here, and a host may become what a row waits for."""
        host = np.array([p.group == "host" for p in self.parameters], dtype=bool)
        found: Mask = (slopes != 0.0) | (self._touched & host)
        return found

    def _residual(self, row: int, named: Mapping[str, float]) -> float:
        return float(np.log(self.runs[row].seconds(named) / self._measured[row]))

    def _all(self) -> Mask:
        return np.ones(len(self.runs), dtype=bool)
