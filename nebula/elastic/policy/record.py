"""A job's state as plain data for a store, and back: JSON without infinities."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

from nebula.elastic.policy.values import Bounds, JobState, NodeState, Phase
from nebula.errors import BadInput

FORMAT = 1


def dumps(state: JobState, *, now_s: float) -> str:
    """A state as text; `now_s` is kept beside it, so that time does not run back after a restart.

    Of a thousand nodes few change between two texts: that of each is made once.
    """
    rest = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "nodes"}
    text = json.dumps(_finite({**rest, "bounds": asdict(state.bounds)}), allow_nan=False)
    nodes = ", ".join(f"{json.dumps(name)}: {_node_text(node)}" for name, node in state.nodes.items())
    return f'{{"format": {FORMAT}, "now_s": {now_s!r}, "state": {{"nodes": {{{nodes}}}, {text[1:]}}}'


def loads(text: str) -> tuple[JobState, float]:
    """A state and the time at which it was written.

    Raises:
        BadInput: it is of another version, or damaged.
    """
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise BadInput(f"the job's state has format {document['format']}, this version reads {FORMAT}")
        plain = document["state"]
        nodes = {name: _node(node) for name, node in plain["nodes"].items()}
        fixed = {
            "bounds": Bounds(**plain["bounds"]),
            "phase": Phase(plain["phase"]),
            "members": tuple(plain["members"]),
            "nodes": nodes,
            "planless": tuple(map(tuple, plain.get("planless", ()))),
            "gather_until_s": _infinite(plain["gather_until_s"]),
        }
        return JobState(**{**plain, **fixed}), float(document["now_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the job's state in the store cannot be read: {error!r}") from None


@lru_cache(maxsize=65536)
def _node_text(node: NodeState) -> str:
    return json.dumps(_finite(asdict(node)), allow_nan=False)


def _node(plain: dict[str, Any]) -> NodeState:
    fixed = {"back_by_s": _infinite(plain["back_by_s"]), "failures_s": tuple(plain["failures_s"])}
    return NodeState(**{**plain, **fixed})


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if value == math.inf else value
