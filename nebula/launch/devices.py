"""How the ranks of a job that agents start get their devices: the variables that Paddle's launcher would set.

Plain CPUs talk over gloo. Emulated devices all live on this host, one for each rank, with the links of the plan that
the job begins with. Refuses a cluster of several kinds of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nebula.cluster.values import Cluster
from nebula.emulator import DEVICE
from nebula.errors import BadInput
from nebula.launch.command import device_types
from nebula.launch.emulate import device_table
from nebula.plan.values import Plan

SELECTS = {"gpu": "FLAGS_selected_gpus", "xpu": "FLAGS_selected_xpus", "npu": "FLAGS_selected_npus"}
"""Kind of device -> the variable that names a rank's own."""
TABLE = "devices.table"


def of_processes(cluster: Cluster, plan: Plan, folder: Path) -> Mapping[str, str]:
    """What every process of a job finds, also before it has a rank.

    Args:
        plan: that the job begins with.
        folder: of the run; receives the table of emulated devices.

    Raises:
        BadInput: the cluster has several kinds of devices.
    """
    kind = _kind(cluster, plan)
    if kind == "cpu":
        return {"PADDLE_DISTRI_BACKEND": "gloo"}
    if kind != DEVICE:
        return {}
    from nebula import emulator

    of_device = {"PADDLE_DISTRI_BACKEND": "xccl", "PADDLE_XCCL_BACKEND": DEVICE}
    return {**emulator.environment(device_table(cluster, plan, folder / TABLE)), **of_device}


def of_ranks(cluster: Cluster, plan: Plan) -> Callable[[int, int], Mapping[str, str]]:
    """What gives a rank its device: a function of the rank and of the device's number on its node.

    Args:
        plan: that the job begins with.
    """
    kind = _kind(cluster, plan)
    if kind == "cpu":
        return lambda _rank, _device: {}
    if kind == DEVICE:
        return lambda rank, _device: {f"FLAGS_selected_{DEVICE}s": str(rank)}
    return lambda _rank, device: {SELECTS[kind]: str(device)}


def _kind(cluster: Cluster, plan: Plan) -> str:
    """`cpu`, `gpu`, ..., or the emulated device."""
    kinds = sorted({DEVICE if one.emulated else one.kind for one in device_types(cluster, plan)})
    if len(kinds) > 1 or kinds[0] not in ("cpu", DEVICE, *SELECTS):
        raise BadInput(f"agents start workers on one kind of device, the plan takes {', '.join(kinds)}")
    return kinds[0]
