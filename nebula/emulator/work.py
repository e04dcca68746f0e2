"""What the ranks of a run did on their emulated devices, in the order in which each did it, as work.cc writes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nebula.emulator import RECORD
from nebula.errors import BadInput

_FIRST_LINE = b"nebula-emulated-work 1"
_FIELDS: list[Any] = [(name, "<i4") for name in ("act", "thread", "stream", "peer", "batch", "spare")]
_FIELDS += [("id", "<u8"), *((name, "<f8") for name in ("seconds", "bytes", "other"))]
_DEED = np.dtype(_FIELDS)


class Act(IntEnum):
    """What a rank did; work.h says what goes with each."""

    RUN = 0
    HOST = 1
    NOTE = 2
    AWAIT = 3
    JOIN = 4
    JOIN_EVENT = 5
    JOIN_ALL = 6
    SEND = 7
    RECEIVE = 8
    COLLECTIVE = 9
    ROUND = 10
    STEP = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One rank's record.

    Attributes:
        groups: id of each group that it joined -> ranks of the members.
        deeds: structured array with the fields of work.h's Deed.
    """

    groups: dict[int, tuple[int, ...]]
    deeds: npt.NDArray[Any]


def read_work(folder: Path, ranks: int) -> list[Work]:
    """The records of all ranks of a run.

    Raises:
        BadInput: one is missing, which a rank that was killed does not write, or is damaged.
    """
    return [_read(folder / f"work.{rank}") for rank in range(ranks)]


def _read(path: Path) -> Work:
    try:
        content = path.read_bytes()
    except OSError:
        raise BadInput(f"{path} is not there: its rank did not end by itself, or {RECORD} was not set") from None
    head, gap, deeds = content.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    if first != _FIRST_LINE or not gap or len(deeds) % _DEED.itemsize:
        raise BadInput(f"{path} is no whole record of an emulated device's work; run again")
    words = [line.split() for line in lines if line]
    groups = {int(word[1]): tuple(map(int, word[2:])) for word in words}
    return Work(groups=groups, deeds=np.frombuffer(deeds, dtype=_DEED))
