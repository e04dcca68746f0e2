"""May this plan run on this rank's device? Asks the legality table, before anything is built."""

from __future__ import annotations

import os

from nebula.errors import BadInput
from nebula.plan.legality import DEVICE_KINDS, executable_by, violations
from nebula.plan.values import Plan
from nebula.runtime.serial import ALL_LAYERS


def check(plan: Plan, device: str, kinds: tuple[str, ...] = ()) -> None:
    """Refuses a plan that breaks a rule, or that its engine cannot execute on such a device.

    Args:
        device: in Paddle's words.
        kinds: of all ranks' devices, where they differ.

    Raises:
        BadInput: with the rule's sentence, numbers included.
    """
    layers = plan.stages[-1].layers[1]
    if layers == ALL_LAYERS:
        return
    broken = violations(plan, layers=layers, cluster=None)
    if broken:
        raise BadInput(f"the plan is not legal: {broken[0].sentence}")
    answer = executable_by(plan, kinds or (kind_of(device),))
    if answer.engine is None:
        raise BadInput(f"the plan cannot run here: {'; '.join(answer.missing)}")


def engine(plan: Plan, device: str, kinds: tuple[str, ...] = ()) -> str:
    """The engine that runs a plan which `check` lets through."""
    if plan.stages[-1].layers[1] == ALL_LAYERS:
        return "serial"
    answer = executable_by(plan, kinds or (kind_of(device),))
    assert answer.engine is not None
    return answer.engine


def kind_of(device: str) -> str:
    """The kind of device, one of legality.DEVICE_KINDS; what a vendor's plug-in brings is an NPU."""
    name = device.partition(":")[0]
    if name in ("cpu", "gpu", "xpu"):
        return name
    kind = "emulated" if "NEBULA_EMULATED_DEVICES" in os.environ else "npu"
    assert kind in DEVICE_KINDS
    return kind
