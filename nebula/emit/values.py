"""What is written for other tools, and what it is written from. Values only: no file is read or written here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nebula.cluster.values import Cluster
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision with what it was made for.

    Attributes:
        candidates: plans, best first; the first is the one that is written. A plan file has one.
    """

    graph: DistributedGraph
    cluster: Cluster
    candidates: tuple[Plan, ...]

    @property
    def plan(self) -> Plan:
        """The plan that is written."""
        return self.candidates[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A file of another tool's user, which is to be changed: its name, for errors, and its text."""

    source: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user says beside the format.

    Attributes:
        to: the file that the text goes to, as the user named it; empty: it is printed.
        into: the file that the format `paddleformers` changes; None: what to set is printed.
        script: what every rank runs.
        master: `HOST:PORT` of the first node's rendezvous; empty: the reader puts it in.
    """

    to: str = ""
    into: Config | None = None
    script: str = "train.py"
    master: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """A plan in a format of others.

    Attributes:
        text: what the other tool or a person reads.
        document: the same for machines.
        beside: files that the text names: path and text of each.
        notes: sentences for the person who takes it: what is left to fill in, what was left out.
    """

    text: str
    document: dict[str, Any]
    beside: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
