"""Which parameters rows determine, which they do not tell apart, and which rows would.

Rows determine a direction in the space of the parameters when they alone narrow it below its plausible range: when the
singular value of the weighted slopes, in halves of the range over the spread of residuals, is above 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nebula.cost_model.calibration.parameters import Parameter, remedy
from nebula.cost_model.calibration.problem import Floats

SHARE = 0.1
"""Of a direction's square, from which on a parameter takes part in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undetermined:
    """Parameters that rows do not determine.

    Attributes:
        parameters: those that no row depends on; or one that rows say too little of; or several that the rows do not
            tell apart, the one that is told least first.
        rows: how many rows any of them moves.
    """

    parameters: tuple[Parameter, ...]
    rows: int

    @property
    def sentence(self) -> str:
        """What is wrong, and what would help."""
        names = [p.name for p in self.parameters]
        help_ = "; ".join(dict.fromkeys(remedy(p) for p in self.parameters))
        if not self.rows:
            return f"no row depends on {', '.join(names)}; add {help_}"
        rows = "the one row that depends" if self.rows == 1 else f"the {self.rows} rows that depend"
        if len(names) == 1:
            return f"{rows} on {names[0]} say less than its plausible range; add {help_}"
        return f"{rows} on them cannot tell {', '.join(names[:-1])} and {names[-1]} apart; add {help_}, or fit fewer"


def undetermined(parameters: Sequence[Parameter], slopes: Floats, weights: Floats, noise: float) -> list[Undetermined]:
    """The directions that rows do not determine, the worst first; empty when they determine all.

    Args:
        parameters: k.
        slopes: of n residuals, per half of a range [n, k].
        weights: of the rows [n].
        noise: spread of the residuals.
    """
    if not parameters:
        return []
    # as many rows of nothing, so that there is a direction for every parameter
    scaled = np.vstack([slopes * np.sqrt(weights)[:, None] / noise, np.zeros((len(parameters),) * 2)])
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    moved = (slopes != 0.0) & (weights[:, None] > 0.0)
    found = []
    unmoved = ~moved.any(axis=0)
    if unmoved.any():
        found.append(Undetermined(parameters=tuple(parameters[i] for i in np.flatnonzero(unmoved)), rows=0))
    for value, direction in sorted(zip(values, directions, strict=True), key=lambda pair: float(pair[0])):
        shares = direction**2
        part = (shares > SHARE) & ~unmoved
        if value < 1.0 and part.any():
            hit = [int(i) for i in np.argsort(-shares) if part[i]]
            rows = int(moved[:, hit].any(axis=1).sum())
            found.append(Undetermined(parameters=tuple(parameters[i] for i in hit), rows=rows))
    return found


def determining_rows(slopes: Floats, weights: Floats) -> tuple[int, ...]:
    """For each parameter how many rows have a say in it: that it moves by a hundredth of a range's half or more."""
    counts = ((np.abs(slopes) > 1e-3) & (weights[:, None] > 0.0)).sum(axis=0)
    return tuple(int(c) for c in counts)
