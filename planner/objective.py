"""What a search asks of an objective, and the one that asks for nothing but a short step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Objective(Protocol):
    """The `objective` section of a run file, as far as a search reads it."""

    @property
    def minimise(self) -> str:
        """What to minimise; `step_time`."""

    @property
    def fixed(self) -> Mapping[str, object]:
        """Degrees that must be as given (`{"tensor": 8}`)."""

    @property
    def exclude(self) -> Sequence[str]:
        """Nodes and groups that must not be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestStep:
    """The shortest step, under fixed degrees and without some nodes where these are given."""

    minimise: str = "step_time"
    fixed: Mapping[str, object] = field(default_factory=dict)
    exclude: Sequence[str] = ()
