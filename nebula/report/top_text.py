"""A running job on one screen: how it stands, its nodes, where its time goes, and what happened last."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nebula.elastic.goodput import Category
from nebula.elastic.protocol import control_pb2 as wire
from nebula.report.job_text import event_line, goodput
from nebula.report.table import bar
from nebula.units import format_seconds

LATEST, CELLS = 8, 24


def top_text(reply: wire.StatusReply, events: Sequence[wire.Event]) -> Group:
    """For a terminal; the same without colour."""
    took = f" · {format_seconds(reply.step_s)} a step" if reply.step_s else ""
    head = Text.assemble(
        (f"{reply.job} ", "bold"),
        (reply.phase, "bold green" if reply.phase == "running" else "bold yellow"),
        f" · step {reply.step}{took} · generation {reply.generation} · {reply.restarts} restarts · {reply.split}",
    )
    lines = [line for event in events[-LATEST:] for line in event_line(event).splitlines()[:1]]
    return Group(head, Text(reply.why), Text(), _nodes(reply), _account(reply), Text(), *map(Text, lines))


def _nodes(reply: wire.StatusReply) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("node", "state", "step", "slots", "spares", ""):
        table.add_column(name, justify="right" if name in ("step", "slots", "spares") else "left")
    for one in reply.nodes:
        table.add_row(one.node, one.state, str(one.step), str(one.slots), f"{100 * one.warm:.0f} %", one.detail)
    return table


def _account(reply: wire.StatusReply) -> Table:
    wall_s = sum(reply.account_s.values())
    grid = Table.grid(padding=(0, 2))
    grid.add_row("goodput", f"{100 * goodput(reply):.1f} %", bar(goodput(reply), CELLS), format_seconds(wall_s))
    spent = [(spent_s, name) for name, spent_s in reply.account_s.items() if name != Category.PRODUCTIVE.value]
    for spent_s, name in sorted(spent, reverse=True):
        if spent_s >= 0.05:
            share = spent_s / wall_s
            grid.add_row(name, f"{100 * share:.1f} %", bar(share, CELLS), format_seconds(spent_s))
    return grid
