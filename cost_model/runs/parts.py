"""Where the predicted time of a step goes: the parts of its busiest device, which sum to the step."""

from __future__ import annotations

from nebula.cost_model.runs.predict import Predicted
from nebula.cost_model.step import StageTimes
from nebula.cost_model.step_parameters import DEFAULT

AXES = ("tensor", "context", "expert", "sharded")
"""Communication that nothing hides, of every micro-batch."""


def time_parts(predicted: Predicted) -> dict[str, float]:
    """Seconds of a step by part; empty where a layer alone was measured.

    `compute` and `recompute` are kernels, `tensor`, `context`, `expert` and `sharded` what is exposed of communication
    in the passes, `pipeline` waiting and sending between stages, `data` what is exposed of the communication of
    gradients and parameters around the passes, and waiting for the slowest node, `update` the optimizer, `host` what
    the host spends alone.
    """
    step = predicted.step
    if step is None:
        return {}
    devices: dict[int, list[StageTimes]] = {}
    for stage, times in zip(predicted.case.plan.stages, step.stages, strict=True):
        devices.setdefault(stage.replicas[0].ranks[0], []).append(times)
    turns = predicted.case.plan.micro_batches
    busiest = max(devices.values(), key=_busy)
    passes = {
        "compute": turns * sum(sum(t.compute_s) for t in busiest),
        "recompute": turns * sum(t.again_s for t in busiest),
        **{axis: turns * sum(getattr(t, f"{axis}_s") for t in busiest) for axis in AXES},
    }
    update_s = max(sum(t.update_s for t in own) for own in devices.values())
    around = {
        "pipeline": step.passes_s - turns * _busy(busiest),
        "data": step.step_s - step.passes_s - update_s - DEFAULT.step_host_s,
        "update": update_s,
        "host": DEFAULT.step_host_s,
    }
    return {name: seconds for name, seconds in {**passes, **around}.items() if abs(seconds) > 1e-9 * step.step_s}


def _busy(own: list[StageTimes]) -> float:
    return sum(t.forward_s + t.backward_s for t in own)
