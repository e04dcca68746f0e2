"""How do others carry a plan out? One module per format of Paddle's tools; refuses what a format has no words for."""

from __future__ import annotations

from collections.abc import Callable

from nebula.emit import auto_parallel, auto_tuner, fleet, launching, paddleformers, rank_table
from nebula.emit.expressible import Inexpressible
from nebula.emit.values import Config as Config
from nebula.emit.values import Decided as Decided
from nebula.emit.values import Emitted as Emitted
from nebula.emit.values import Options as Options
from nebula.errors import BadInput, closest, shown
from nebula.plan.legality import violations

FORMATS: dict[str, Callable[[Decided, Options], Emitted]] = {
    "fleet": fleet.emit,
    "auto-parallel": auto_parallel.emit,
    "auto-tuner": auto_tuner.emit,
    "paddleformers": paddleformers.emit,
    "launch": launching.emit,
    "rank-table": rank_table.emit,
}
"""What a plan can be written as."""


def check_format(name: str) -> None:
    """Refuses a format that does not exist.

    Raises:
        BadInput: with the closest one.
    """
    if name not in FORMATS:
        raise BadInput(f"there is no format {shown(name)}; {closest(name, FORMATS)}")


def emit(name: str, decided: Decided, options: Options) -> Emitted:
    """The first candidate in a format.

    Raises:
        BadInput: there is no such format, the plan is not legal, or the format cannot express it; where it can express
            another candidate, the sentence names that one.
    """
    check_format(name)
    broken = violations(decided.plan, layers=len(decided.graph.layers), cluster=decided.cluster)
    if broken:
        raise BadInput("the plan is not legal: " + "; ".join(violation.sentence for violation in broken))
    try:
        return FORMATS[name](decided, options)
    except Inexpressible as error:
        raise Inexpressible(name, error.sentence + _remedy(name, decided, options)) from None


def _remedy(name: str, decided: Decided, options: Options) -> str:
    """Which other candidate the format can express, if one can."""
    best = decided.plan.prediction
    for place, plan in enumerate(decided.candidates[1:], 2):
        later = Decided(graph=decided.graph, cluster=decided.cluster, candidates=decided.candidates[place - 1 :])
        try:
            FORMATS[name](later, options)
        except Inexpressible:
            continue
        assert best is not None
        assert plan.prediction is not None
        slower = plan.prediction.step_time_s / best.step_time_s - 1
        return (
            f"; it can express candidate {place}, {plan.split} ({slower:.1%} slower): take it with --candidate {place}"
        )
    return ""
