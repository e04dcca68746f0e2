"""Which engine runs a split, and what keeps every engine from running it, by the legality table."""

from __future__ import annotations

from nebula.planner.space import Split


def engine_of(split: Split) -> str:
    """The engine that a plan with this split names."""
    return "serial" if split.ranks == 1 else "fleet"
