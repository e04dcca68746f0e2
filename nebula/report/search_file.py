"""Keeps what a search went through beside its plan, so that a report written later still shows it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nebula.errors import BadInput
from nebula.planner.rejected import Rejection
from nebula.report.findings import Contender, Search, TimeCost


def save_search(search: Search, path: Path) -> None:
    """Writes the record as JSON."""
    path.write_text(json.dumps(asdict(search), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_search(path: Path) -> Search:
    """The record in a file, an empty one when there is no file.

    Raises:
        BadInput: the file holds something else.
    """
    if not path.is_file():
        return Search()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        contenders = tuple(
            Contender(**{**c, "parts_s": tuple((str(n), float(s)) for n, s in c["parts_s"])})
            for c in value.pop("contenders")
        )
        cut = tuple((str(rule), int(count)) for rule, count in value.pop("cut"))
        parts = {
            "contenders": contenders,
            "cut": cut,
            "notes": tuple(value.get("notes", ())),
            "rejections": tuple(map(_rejection, value.get("rejections", ()))),
            "time_costs": tuple(TimeCost(**each) for each in value.get("time_costs", ())),
        }
        return Search(**{**value, **parts})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: not the record of a search ({error})") from error


def _rejection(value: dict[str, Any]) -> Rejection:
    return Rejection(**{**value, "facts": tuple(value["facts"]), "remedies": tuple(value["remedies"])})
