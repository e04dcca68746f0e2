"""How an elastic job stands and what has happened to it, for people and for machines."""

from __future__ import annotations

import datetime
from typing import Any

from nebula.elastic.goodput import Category
from nebula.elastic.protocol import control_pb2 as wire
from nebula.units import format_seconds


def status_document(reply: wire.StatusReply) -> dict[str, Any]:
    """A status for machines."""
    return {
        "job": reply.job,
        "phase": reply.phase,
        "epoch": reply.epoch,
        "generation": reply.generation,
        "step": reply.step,
        "step_s": reply.step_s,
        "restarts": reply.restarts,
        "because": reply.why,
        "goodput": goodput(reply),
        "account_s": dict(reply.account_s),
        "lost_steps": reply.lost_steps,
        "nodes_allowed": [reply.least_nodes, reply.most_nodes],
        "split": reply.split,
        "controller": reply.controller,
        "nodes": [
            {"node": one.node, "state": one.state, "step": one.step, "slots": one.slots, "warm": one.warm}
            for one in reply.nodes
        ],
    }


def goodput(reply: wire.StatusReply) -> float:
    """The share of the job's time that was progress at the full rate."""
    wall_s = sum(reply.account_s.values())
    return reply.account_s[Category.PRODUCTIVE.value] / wall_s if wall_s else 1.0


def badput_words(reply: wire.StatusReply) -> str:
    """What else the time went into, the most first."""
    spent = {name: spent_s for name, spent_s in reply.account_s.items() if name != Category.PRODUCTIVE.value}
    largest = sorted(spent, key=lambda name: -spent[name])
    return "".join(f", {name} {format_seconds(spent[name])}" for name in largest if spent[name] >= 0.05)


def status_text(reply: wire.StatusReply) -> str:
    """A status for people."""
    took = f", {format_seconds(reply.step_s)} each" if reply.step_s else ""
    lines = [
        f"{reply.job} is {reply.phase} · step {reply.step}{took} · generation {reply.generation} · "
        f"{reply.restarts} restart{'s' * (reply.restarts != 1)}",
        f"because   {reply.why}",
        f"split     {reply.split}",
        f"leads     {reply.controller}, epoch {reply.epoch}",
        f"goodput   {100 * goodput(reply):.1f} % of {format_seconds(sum(reply.account_s.values()))}"
        f"{badput_words(reply)} · {reply.lost_steps} step{'s' * (reply.lost_steps != 1)} lost",
        f"nodes     {len(reply.nodes)} of {reply.least_nodes} to {reply.most_nodes}",
    ]
    for one in reply.nodes:
        spare = "spare ready" if one.warm >= 1 else "no spare yet"
        detail = f" · {one.detail}" if one.detail else ""
        lines.append(f"  {one.node:20} {one.state:10} step {one.step} · {spare}{detail}")
    return "\n".join(lines)


def event_document(event: wire.Event) -> dict[str, Any]:
    """An event for machines."""
    return {
        "number": event.number,
        "ts": event.wall_s,
        "event": event.kind,
        "node": event.node,
        "rank": event.rank if event.rank >= 0 else None,
        "trace": event.trace,
        "epoch": event.epoch,
        "generation": event.generation,
        "step": event.step,
        "because": event.because,
        "last_lines": list(event.last_lines),
        "seconds": dict(event.seconds),
    }


def event_line(event: wire.Event) -> str:
    """An event for people."""
    at = datetime.datetime.fromtimestamp(event.wall_s).strftime("%H:%M:%S.%f")[:-3]
    lines = [f"{at}  {event.kind:10} {event.because}"]
    lines += [f"{'':14}| {line}" for line in event.last_lines]
    return "\n".join(lines)
