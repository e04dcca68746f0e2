"""Keeps what an exploration found in a file, so that a later one of the same model, cluster and job goes on from it.

The best ways are priced again when the file is read, and rule out at once what is no better; the bound that was proved
goes on to hold. Sets of ways that were not opened are opened in the order of their bounds, those that were are not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebula import __version__
from nebula.errors import BadInput, shown
from nebula.plan.files import checksum, render
from nebula.plan.plain import Misfit, decode, encode
from nebula.planner.explore.search import NOTHING_LISTED, Explored
from nebula.planner.explore.waiting import Frontier
from nebula.planner.explore.ways import Way
from nebula.whole_file import write_whole

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.cluster.values import Cluster
    from nebula.plan.job import Objective

FORMAT = "nebula-search/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an exploration came to; by default nothing.

    Attributes:
        ways: the best, best first.
        bound_s: a step time that nothing in the space can beat.
        frontier: what was not looked at.
    """

    ways: tuple[Way, ...] = ()
    bound_s: float = 0.0
    frontier: Frontier = NOTHING_LISTED


def found_before(path: Path, subject: Subject) -> Found:
    """What the file holds; nothing where there is none yet.

    Raises:
        BadInput: it is no such file, was changed, or is of another model, cluster, job or version.
    """
    if not path.exists():
        return Found()
    value = _read(path)
    for what, asked in _asked(subject).items():
        if value.get(what) != asked:
            raise BadInput(f"{path} keeps a search for another {what}: {_difference(value.get(what), asked)}")
    try:
        found: Found = decode(Found, value["found"])
    except (Misfit, KeyError) as error:
        raise BadInput(f"{path}: no file of --resume ({error}); name another") from None
    return found


def goes_on(answer: Explored, before: Found) -> Explored:
    """The answer with the better of both bounds."""
    assert answer.plan.prediction is not None
    bound_s = min(max(answer.bound_s, before.bound_s), answer.plan.prediction.step_time_s)
    return replace(answer, bound_s=bound_s, plan=replace(answer.plan, bound_s=bound_s))


def keep(path: Path, subject: Subject, answer: Explored, before: Found) -> None:
    """Writes what was found, and what waits; after an interruption before the sets were listed what waited before.

    Raises:
        BadInput: it cannot be written.
    """
    from nebula.planner.explored_way import explored_way

    run = subject.run
    ways = tuple(explored_way(plan, run.cluster, run.objective.exclude) for plan in answer.candidates)
    frontier = answer.frontier if answer.frontier.opened else before.frontier
    found = Found(ways=ways, bound_s=answer.bound_s, frontier=frontier)
    value = {**_asked(subject), "found": encode(found)}
    write_whole(path, render({"format": FORMAT, "checksum": checksum(value), **value}) + "\n")


def _asked(subject: Subject) -> dict[str, Any]:
    """What a search depends on, as plain data."""
    from nebula.cluster.identity import cluster_hash
    from nebula.graph.identity import graph_hash

    run = subject.run
    return {
        "model": {"name": subject.graph.name, "hash": graph_hash(subject.graph)},
        "cluster": {"name": run.cluster.name, "hash": cluster_hash(run.cluster)},
        "job": {
            **encode(replace(run.job, tokens=0.0, steps=0)),
            "fixed degrees": _degrees(run.objective),
            "allowed": _allowed(run.objective),
        },
        "set of nodes": _health(run.cluster),
        "version of Nebula": __version__,
    }


def _degrees(objective: Objective) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(objective.fixed.items())) or "none"


def _allowed(objective: Objective) -> str:
    return ", ".join(sorted(set(objective.allow))) or "none"


def _health(cluster: Cluster) -> str:
    """Which nodes are left out or slow: what the hash of a cluster does not tell."""
    out = [f"{group.name}/{node}" for group in cluster.groups for node in sorted(group.excluded)]
    slow = [f"{group.name}/{node} slow × {factor:g}" for group in cluster.groups for node, factor in group.slow]
    return ", ".join([*(f"without {name}" for name in out), *slow]) or "all"


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a file, without format and checksum."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise BadInput(f"{path} is no file that --resume wrote, and stays as it is: name another")
    if value.pop("checksum", None) != checksum(value):
        raise BadInput(f"{path} was changed or damaged since --resume wrote it: delete it, or name another file")
    return value


def _difference(kept: Any, asked: Any) -> str:
    """What differs, in words."""
    label = ""
    if isinstance(kept, dict) and isinstance(asked, dict):
        name = next(name for name in (*asked, *kept) if kept.get(name) != asked.get(name))
        label, kept, asked = f"{name} ", kept.get(name), asked.get(name)
    return f"{label}{shown(kept)} there, {shown(asked)} here; name another file"
