"""How ranks on unlike kinds of devices learn who is on which: a variable of their environment, told and read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from nebula.errors import BadInput
from nebula.plan.legality import DEVICE_KINDS

VARIABLE = "NEBULA_DEVICE_KINDS"
"""Names the kinds of the devices of a job's ranks in their order, such as `gpu*8,npu*8`; where all are alike, unset."""


def told(kinds: Sequence[str]) -> dict[str, str]:
    """The variable for ranks on devices of those kinds; nothing where all are of one.

    Example:
        >>> told(["emulated", "emulated", "cpu"])
        {'NEBULA_DEVICE_KINDS': 'emulated*2,cpu*1'}
    """
    runs = [f"{kind}*{len([*run])}" for kind, run in groupby(kinds)]
    return {VARIABLE: ",".join(runs)} if len(set(kinds)) > 1 else {}


def read(env: Mapping[str, str], ranks: int) -> tuple[str, ...]:
    """The kinds that an environment names for the ranks; empty where it names none.

    Raises:
        BadInput: an unknown kind, or another number of ranks.

    Example:
        >>> read({"NEBULA_DEVICE_KINDS": "gpu*2,npu"}, 3)
        ('gpu', 'gpu', 'npu')
    """
    text = env.get(VARIABLE, "")
    found: list[str] = []
    for word in text.split(",") if text else ():
        kind, star, count = word.strip().partition("*")
        if kind not in DEVICE_KINDS or not (count.isdigit() or not star):
            raise BadInput(
                f"{VARIABLE}={text}: {word!r} is no kind of device ({', '.join(DEVICE_KINDS)}), perhaps with *COUNT"
            )
        found += [kind] * int(count or 1)
    if text and len(found) != ranks:
        raise BadInput(f"{VARIABLE}={text} names {len(found)} devices, the plan has {ranks} ranks")
    return tuple(found)
