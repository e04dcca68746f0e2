"""What can happen to a job, as values; `decide` answers each."""

from __future__ import annotations

from dataclasses import dataclass

from nebula.elastic.policy.values import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A node's agent is there. `generation`: whose workers it runs; 0: none."""

    node: str
    slots: int
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A node's agent is not heard of."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A worker failed; `cause` says how, as after 'because'."""

    node: str
    rank: int
    generation: int
    fault: Fault
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """A node is `factor` times slower than the others; `cause` says how, else its work takes so much longer."""

    node: str
    factor: float
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """All members that are heard of have ended the workers of a generation."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """All ranks of a generation have done so many optimizer steps."""

    generation: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All workers of a generation have ended well."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A generation could not begin.

    Attributes:
        planless: there is no plan for its nodes; for others there may be one.
    """

    generation: int
    cause: str
    planless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleAsked:
    """Somebody wants other bounds."""

    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainAsked:
    """A node is to leave at the next step; `cause` says who wants it."""

    node: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerBack:
    """The controller was away and has read the state again; no node is connected yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""


Event = (
    Joined
    | Gone
    | Failed
    | Slow
    | Stopped
    | Stepped
    | Finished
    | Refused
    | ScaleAsked
    | DrainAsked
    | ControllerBack
    | Tick
)
