"""Keeps the conditions of a run beside its plan, so that a report written later rests on the same ones."""

from __future__ import annotations

import json
from pathlib import Path

from nebula.errors import BadInput
from nebula.plan.conditions import Conditions
from nebula.plan.plain import Misfit, decode, encode


def save_conditions(conditions: Conditions, path: Path) -> None:
    """Writes the conditions as JSON."""
    path.write_text(json.dumps(encode(conditions), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_conditions(path: Path) -> Conditions:
    """The conditions in a file, the defaults when there is no file.

    Raises:
        BadInput: the file holds something else.
    """
    if not path.is_file():
        return Conditions()
    try:
        found: Conditions = decode(Conditions, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, Misfit, BadInput) as error:
        raise BadInput(f"{path}: not the conditions of a run ({error}); delete it to use the defaults") from None
    return found
