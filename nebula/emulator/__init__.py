"""How does a plan run without the hardware? On an emulated accelerator, a PaddlePaddle device named `sim_npu`.

Its kernels and collectives compute what real ones compute; its memory is limited and its time is virtual, so that
neither depends on this machine's load. It is switched on for one launch by environment() and never installed as a
device that other processes would see. It shows schedule, waits, network, memory and numbers; it cannot show how
fast a real kernel is.
"""

from __future__ import annotations

import os
from pathlib import Path

DEVICE = "sim_npu"

RECORD = "NEBULA_EMULATED_WORK"
"""Names a folder in which every rank of a launch leaves a record of its work, for nebula.emulator.replay."""


def environment(table: Path) -> dict[str, str]:
    """Returns the variables that give a launch the devices of a table; the plug-in is built if it has to be.

    Args:
        table: a file written by nebula.emulator.table.write_table.

    Raises:
        EmulatorUnavailable: this machine or its PaddlePaddle cannot build the device; the subclass says why.
    """
    from nebula.emulator.build import library

    return {
        "CUSTOM_DEVICE_ROOT": str(library().parent),
        "NEBULA_EMULATED_DEVICES": os.path.abspath(table),
    }
