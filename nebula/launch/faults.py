"""Faults of emulated devices as people write them: `slow:1:1.5@3`, `fail:2@4`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nebula.emulator.table import LAST_STEP, Fault
from nebula.errors import BadInput

_SLOW = re.compile(r"slow:(\d{1,6}):(\d{1,9}(?:\.\d{1,9})?)(?:@(\d{1,9})(?:-(\d{1,9}))?)?")
_FAIL = re.compile(r"fail:(\d{1,6})@(\d{1,9})")


def fault(text: str) -> Fault:
    """One fault: `slow:RANK:FACTOR[@FIRST[-LAST]]` or `fail:RANK@STEP`, steps counted from 1.

    Raises:
        BadInput: it is neither, or a factor or step is 0.

    Example:
        >>> fault("slow:1:1.5@3").factor
        1.5
    """
    slow, fail = _SLOW.fullmatch(text), _FAIL.fullmatch(text)
    if slow:
        rank, factor, first, last = slow.groups()
        steps = int(first or 1) - 1, int(last) - 1 if last else LAST_STEP
        if float(factor) > 0 and steps[0] <= steps[1]:
            return Fault(rank=int(rank), factor=float(factor), first_step=steps[0], last_step=steps[1])
    if fail:
        return Fault(rank=int(fail[1]), first_step=int(fail[2]) - 1)
    raise BadInput(
        f"fault {text!r} is neither slow:RANK:FACTOR@STEP (from that step on; @FIRST-LAST for some) nor "
        "fail:RANK@STEP; steps count from 1, and a factor is above 0"
    )


def faults(texts: Iterable[str], ranks: int) -> tuple[Fault, ...]:
    """The faults of a run of so many ranks.

    Raises:
        BadInput: one cannot be read, or names a rank that there is not.
    """
    found = tuple(map(fault, texts))
    for one in found:
        if one.rank >= ranks:
            raise BadInput(f"a fault of rank {one.rank}: the plan has ranks 0 to {ranks - 1}")
    return found
