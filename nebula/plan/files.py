"""The plan file: JSON with a format version and a checksum, short lists on one line, written whole or not at all.

A file that was cut off, damaged, changed behind its checksum or written by a newer version is refused. A plan
written by hand leaves the checksum out. docs/plan-file.md explains the keys.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from nebula.errors import BadInput, shown
from nebula.plan.plain import Misfit, decode, encode
from nebula.plan.values import MadeFrom, Plan
from nebula.whole_file import write_whole

FORMAT = "nebula-plan/1"

_ORDER = ("made_from", "job", "because", "engine", "schedule", "micro_batches", "sequence_parallel", "stages")
_WIDTH = 120
MOST_BYTES = 64 * 2**20
"""A larger file is not read; the plan of 10,000 ranks takes one of them."""

_REMEDY = "make it again with `nebula plan`"


def dumps(plan: Plan) -> str:
    """The text of a plan file."""
    value = encode(plan)
    ordered = {key: value[key] for key in (*_ORDER, *(k for k in value if k not in _ORDER))}
    return render({"format": FORMAT, "checksum": checksum(ordered), **ordered}) + "\n"


def loads(text: str, source: str) -> Plan:
    """The plan in the text of a plan file; `source` names it in errors.

    Raises:
        BadInput: the text is damaged, of a newer version, changed behind its checksum, or holds an unknown key or a
            value of another type.
    """
    value = _json(text, source)
    _check_format(value, source)
    said = value.pop("checksum", None)
    del value["format"]
    value.setdefault("made_from", encode(MadeFrom(model="", model_hash="", cluster="", cluster_hash="")))
    if said is not None and said != checksum(value):
        changed = "the checksum does not match, so the file is damaged or was edited"
        raise BadInput(f"{source}: {changed}; {_REMEDY}, or delete the line `checksum` if the edit was yours")
    try:
        plan: Plan = decode(Plan, value)
        _check_filled(plan)
    except Misfit as misfit:
        raise _placed(text, source, misfit) from None
    return plan


def load_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        BadInput: the file cannot be read or is not a plan (see loads).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such plan file; make one with `nebula plan run.yaml`") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: cannot be read: it is damaged or no text") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_BYTES:
        raise BadInput(f"{path}: larger than {MOST_BYTES // 2**20} MiB, which no plan file is")
    return loads(text, str(path))


def save_plan(plan: Plan, path: Path, *, overwrite: bool = False) -> None:
    """Write the plan file, whole or not at all.

    Raises:
        BadInput: another plan or file is there and `overwrite` is false, or the folder cannot be written.
    """
    path, text = Path(path), dumps(plan)
    if path.is_file() and not overwrite:
        if path.read_bytes() == text.encode():
            return
        raise BadInput(f"{path} exists and holds something else; choose another name or allow to overwrite it")
    write_whole(path, text)


def check_made_for(plan: Plan, graph_hash: str, cluster_hash: str, *, model: str = "", cluster: str = "") -> None:
    """Refuse a plan that was made for another model or cluster than those of the given hashes and names.

    A plan written by hand that names no hash is taken for any.

    Raises:
        BadInput: with both names and hashes.
    """
    made = plan.made_from
    for what, name, made_hash, given, here in (
        ("model", made.model, made.model_hash, graph_hash, model),
        ("cluster", made.cluster, made.cluster_hash, cluster_hash, cluster),
    ):
        if made_hash and made_hash != given:
            both = f"{what} {name or '?'} ({made_hash}), this one is {here or '?'} ({given})"
            raise BadInput(f"the plan was made for {both}; plan again for this {what}")


def checksum(value: dict[str, Any]) -> str:
    """The checksum of a plan's plain data, whatever its layout in the file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = f"{source}:{error.lineno}:{error.colno}"
        raise BadInput(f"{place}: the plan file is damaged or cut off ({error.msg.lower()}); {_REMEDY}") from None
    except RecursionError:
        raise BadInput(f"{source}: the plan file is damaged (nested without end); {_REMEDY}") from None
    except ValueError as error:
        raise BadInput(f"{source}: the plan file is damaged ({error}); {_REMEDY}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{source}: no plan file: it holds no mapping; {_REMEDY}")
    return value


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping whose keys stand once; JSON alone would keep the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} stands twice; keep one")
    return value


def _check_format(value: dict[str, Any], source: str) -> None:
    found = value.get("format")
    if found == FORMAT:
        return
    kind, _, version = str(found).partition("/")
    if kind == FORMAT.partition("/")[0] and re.fullmatch(r"[0-9]{1,9}", version):
        age = "a newer" if int(version) > int(FORMAT.partition("/")[2]) else "an older"
        raise BadInput(f"{source}: written by {age} Nebula as {found}, this one reads {FORMAT}; update or plan again")
    raise BadInput(f'{source}: no plan file: its `format` is {shown(found)}, not "{FORMAT}"; {_REMEDY}')


def _check_filled(plan: Plan) -> None:
    """What every reader of a plan takes for granted."""
    if not plan.stages:
        raise Misfit(("stages",), "a plan needs at least one stage")
    if not plan.ranks:
        raise Misfit(("ranks",), "a plan needs at least one rank")
    for index, stage in enumerate(plan.stages):
        if not stage.replicas:
            raise Misfit(("stages", index, "replicas"), "a stage needs at least one replica")
        for place, replica in enumerate(stage.replicas):
            if not replica.ranks:
                raise Misfit(("stages", index, "replicas", place, "ranks"), "a replica needs at least one rank")


def _placed(text: str, source: str, misfit: Misfit) -> BadInput:
    """The error with line and caret; the text is read a second time for its marks."""
    # PyYAML is imported for an error only: every rank of a launch loads the plan
    from nebula.marked_yaml import parse, spell

    where = f"{spell(misfit.way)}: " if misfit.way else ""
    try:
        return parse(text, source).fault(misfit.way, where + misfit.sentence)
    except BadInput:
        return BadInput(f"{source}: {where}{misfit.sentence}")


def render(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON in which what fits on a line behind `before` characters stands on one, and lists of scalars fill lines."""
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or not value or (indent and indent + before + len(flat) < _WIDTH):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        keys = [json.dumps(key, ensure_ascii=False) + ": " for key in value]
        parts = [key + render(item, indent + 2, len(key)) for key, item in zip(keys, value.values(), strict=True)]
        opened, closed = "{", "}"
    else:
        opened, closed = "[", "]"
        scalars = not any(isinstance(item, dict | list) for item in value)
        parts = _filled([json.dumps(v) for v in value], indent) if scalars else [render(v, indent + 2) for v in value]
    return f"{opened}\n" + ",\n".join(inner + part for part in parts) + f"\n{' ' * indent}{closed}"


def _filled(items: list[str], indent: int) -> list[str]:
    """Items joined into lines of the width."""
    lines = [items[0]]
    for item in items[1:]:
        if indent + 4 + len(lines[-1]) + len(item) > _WIDTH:
            lines.append(item)
        else:
            lines[-1] += f", {item}"
    return lines
