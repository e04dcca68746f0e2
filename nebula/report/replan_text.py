"""What re-planning found, for a terminal and for machines: the way from plan to plan, its options, a family's index."""

from __future__ import annotations

import json
import math
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.plan.files import dumps
from nebula.plan.values import Plan
from nebula.planner.family import Member
from nebula.planner.moves import Moves
from nebula.planner.options import Option, Replanned, move_words
from nebula.planner.survivors import Survivors
from nebula.report.document import prediction_document
from nebula.units import format_bytes, format_seconds

INDEX_FORMAT = "nebula-family/1"


def moves_document(moves: Moves) -> dict[str, Any]:
    """The way to a plan; by_rank_bytes are of the new plan's ranks, for each level where something travels."""
    return {
        "seconds": moves.seconds,
        "network_s": moves.network_s,
        "storage_s": moves.storage_s,
        "total_bytes": moves.total_bytes,
        "weights_bytes": moves.weights_bytes,
        "master_bytes": moves.master_bytes,
        "moments_bytes": moves.moments_bytes,
        "lost_bytes": moves.lost_bytes,
        "rolls_back": moves.rolls_back,
        "levels": [
            {
                "name": level.name,
                "total_bytes": level.total_bytes,
                "seconds": level.seconds,
                "most_received_bytes": level.most_received_bytes,
                "most_sent_bytes": level.most_sent_bytes,
                "by_rank_bytes": list(level.by_rank_bytes),
            }
            for level in moves.levels
        ],
    }


def replanned_document(found: Replanned) -> dict[str, Any]:
    """What `nebula replan --json` prints."""
    assert found.options[0].plan.prediction is not None
    return {
        "plan": json.loads(dumps(found.plan)),
        "because": found.plan.because,
        "prediction": prediction_document(found.options[0].plan.prediction),
        "step_time_before_s": found.step_before_s,
        "lost": list(found.lost),
        "moves": moves_document(found.moves),
        "survivors": [survivors_document(stage) for stage in found.survivors],
        "break_even_steps": _finite(found.break_even_steps),
        "options": [_option_document(option) for option in found.options],
        "search": {"seconds": found.seconds, "looked": found.looked},
    }


def _option_document(option: Option) -> dict[str, Any]:
    return {
        "split": option.plan.split,
        "ranks": option.plan.world_size,
        "step_time_s": option.step_s,
        "effective_step_time_s": _finite(option.effective_step_s),
        "moved_bytes": option.moves.total_bytes,
        "moving_s": option.moves.seconds,
        "rolls_back": option.moves.rolls_back,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def survivors_document(left: Survivors) -> dict[str, Any]:
    """What is left of a stage of the old plan; ranks are those of the old plan."""
    return {
        "layers": list(left.layers),
        "ranks": list(left.ranks),
        "weights_copies": left.weights_copies,
        "states_copies": left.states_copies,
        "lost_shards": [list(shard) for shard in left.lost_shards],
    }


def replanned_text(found: Replanned) -> RenderableType:
    """The way to the new plan: what travels where, what else was weighed, when it is worth it."""
    moves = found.moves
    parts: list[RenderableType] = [Text(f"from the old plan: {move_words(moves)}", style="bold")]
    if moves.total_bytes:
        parts += [_kinds(moves), _levels(moves)]
    if len(found.options) > 1:
        parts += [Text("what was weighed", style="bold"), _options(found)]
    return Group(*parts)


def _kinds(moves: Moves) -> Text:
    named = (("weights", moves.weights_bytes), ("master copy", moves.master_bytes), ("moments", moves.moments_bytes))
    return Text("  " + ", ".join(f"{format_bytes(size)} of {name}" for name, size in named if size))


def _levels(moves: Moves) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("over", "in all", "most a rank receives", "most a device sends", "takes"):
        table.add_column(heading, justify="left" if heading == "over" else "right")
    for level in moves.levels:
        sizes = (level.total_bytes, level.most_received_bytes, level.most_sent_bytes)
        table.add_row(level.name, *map(format_bytes, sizes), format_seconds(level.seconds))
    return table


def _options(found: Replanned) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("plan", "step", "moves", "in"):
        table.add_column(heading, justify="left" if heading == "plan" else "right", no_wrap=heading != "plan")
    seen: set[str] = set()
    for option in found.options:
        elsewhere = " · on other devices" if option.plan.split in seen else ""
        seen.add(option.plan.split)
        moved = format_bytes(option.moves.total_bytes), format_seconds(option.moves.seconds)
        table.add_row(option.plan.split + elsewhere, format_seconds(option.step_s), *moved)
    return table


def index_document(base: Plan, members: list[tuple[str, Member]]) -> dict[str, Any]:
    """The index of a family: pairs of file name and member; a member for which nothing fits has no file."""
    made = base.made_from
    return {
        "format": INDEX_FORMAT,
        "model": {"name": made.model, "hash": made.model_hash},
        "cluster": {"name": made.cluster, "hash": made.cluster_hash},
        "members": [_member_document(file, member) for file, member in members],
    }


def _member_document(file: str, member: Member) -> dict[str, Any]:
    left = {"hash": member.left_hash, "nodes": member.nodes, "devices": member.devices}
    head = {"name": member.case.name, "missing": list(member.case.missing), "left": left}
    found = member.replanned
    if found is None:
        return {**head, "file": None, "infeasible": member.why_not}
    moves = moves_document(found.moves)
    for level in moves["levels"]:
        del level["by_rank_bytes"]
    return {
        **head,
        "file": file,
        "split": found.plan.split,
        "step_time_s": found.options[0].step_s,
        "because": found.plan.because,
        "from_base": moves,
    }


def index_text(members: list[tuple[str, Member]]) -> Table:
    """The family as a table."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("case", "devices", "plan", "step", "from the base plan"):
        table.add_column(heading, justify="right" if heading in ("devices", "step") else "left")
    for _, member in members:
        found = member.replanned
        if found is None:
            table.add_row(member.case.name, f"{member.devices:,}", f"none: {member.why_not}", "", "")
            continue
        step = format_seconds(found.options[0].step_s)
        table.add_row(member.case.name, f"{member.devices:,}", found.plan.split, step, move_words(found.moves))
    return table
