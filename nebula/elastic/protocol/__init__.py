"""What controller, agents and users say to each other: control.proto and what is generated from it.

Both sides name the number of the protocol; another one is refused with a sentence that says which side to update.
"""

from __future__ import annotations

from nebula import __version__

VERSION = 3
"""Raise it when a message changes its meaning."""


def misfit(protocol: int, who: str) -> str:
    """Why a peer that speaks so cannot be talked to; empty where it can.

    >>> misfit(VERSION, "the agent of a")
    ''
    """
    if protocol == VERSION:
        return ""
    older = "there" if protocol < VERSION else "here"
    return (
        f"{who} speaks version {protocol} of the protocol, this side (nebula {__version__}) version {VERSION}: "
        f"install the same nebula on all nodes; the older one is {older}"
    )
