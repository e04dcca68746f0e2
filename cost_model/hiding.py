"""What communication adds to a step under an execution that hides some of it behind kernels.

What is hidden is worked out against the kernels that run meanwhile, and what runs at once is slowed.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.execution import Hidden
from nebula.cost_model.passes import Pass
from nebula.cost_model.step_parameters import StepParameters
from nebula.cost_model.traffic import Axes, seconds_by_axis

Floats: TypeAlias = NDArray[np.float64]
Seconds: TypeAlias = float | Floats


class Hiding(NamedTuple):
    """Which collectives run beside kernels, and how much the two delay one another."""

    hidden: Hidden
    parameters: StepParameters

    def beside(self, work_s: float, wire_s: float) -> float:
        """What communication adds to kernels that run meanwhile: what is longer, and what both delay one another."""
        return max(0.0, wire_s - work_s) + self.parameters.contention * min(work_s, wire_s)

    def _beside_products(self, part: Pass, axes: Axes, slow: float) -> float:
        """Seconds of what goes on beside products that these hide.

        A gather goes on beside the product that gives the gradient of the input, the sum of that beside the one that
        gives the weight's. About half of a layer's products read what is gathered, the others what is summed.
        """
        if not part.beside:
            return 0.0
        gathers = [w for w in part.beside if w.kind == "all_gather"]
        sums = [w for w in part.beside if w.kind != "all_gather"]
        weight_s = part.weight_products_s / 2
        input_s = part.products_s / 2 - weight_s
        saved_s = 0.0
        for wires, work_s in ((gathers, input_s), (sums, weight_s)):
            wire_s = seconds_by_axis(wires, axes, self.parameters).get("tensor", 0.0)
            saved_s += wire_s - self.beside(slow * work_s, wire_s)
        return saved_s

    def delay(self, work_s: Seconds, wire_s: Seconds) -> Floats:
        """By how much kernels and communication that run at once delay one another."""
        return self.parameters.contention * np.minimum(work_s, wire_s)

    def around(self, work_s: Floats, wire_s: Floats) -> tuple[Floats, Floats]:
        """Of messages to other stages that follow such work: what keeps the sender busy, and what then travels beside.

        Of those that travel beside kernels the sender is busy with as much as the two delay one another.
        """
        busy_s = self.delay(work_s, wire_s) if self.hidden.pipeline else wire_s
        return busy_s, wire_s - busy_s

    def behind_data(self, work_s: float, wire_s: float) -> float:
        """What traffic of sharded parameters adds to kernels."""
        return self.beside(work_s, wire_s) if self.hidden.data else wire_s

    def exposed(self, part: Pass, axes: Axes, slow: float, *, forward: bool) -> tuple[float, float, float]:
        """Seconds of a layer's communication along tensor, context and expert axes that nothing hides.

        Each is hidden behind kernels of its own kind, those of experts behind all kernels and what others still show,
        so that faster kernels never make a layer slower. Collectives of two axes that run at once are taken not to slow
        each other.
        """
        if not part.wires:
            return 0.0, 0.0, 0.0
        hidden = self.hidden
        behind = () if forward else ("all_reduce", "reduce_scatter")
        early = [w for w in part.wires if w.axis == "tensor" and w.kind in behind]
        rest = [w for w in part.wires if w not in early]
        seconds = seconds_by_axis(rest, axes, self.parameters)
        early_s = seconds_by_axis(early, axes, self.parameters).get("tensor", 0.0)
        tensor_s = seconds.get("tensor", 0.0)
        if hidden.tensor:
            total_s = tensor_s + early_s
            tensor_s = total_s - self.parameters.pipelined_share * min(total_s, slow * part.products_s)
        else:
            tensor_s += self.beside(slow * part.weight_products_s, early_s) if hidden.gradients else early_s
            tensor_s -= self._beside_products(part, axes, slow)
        context_s = seconds.get("context", 0.0)
        rings = [w for w in part.wires if w.kind == "ring_exchange"]
        if rings:
            ring_s = seconds_by_axis(rings, axes, self.parameters).get("context", 0.0)
            context_s += self.beside(slow * part.attention_s, ring_s) - ring_s
        idle_s = slow * part.idle_s
        meanwhile_s = min(tensor_s, idle_s)
        tensor_s -= meanwhile_s
        context_s -= min(context_s, idle_s - meanwhile_s)
        expert_s = seconds.get("expert", 0.0) + seconds.get("expert_tensor", 0.0)
        if hidden.expert:
            expert_s = self.beside(slow * part.kernels_s + tensor_s + context_s, expert_s)
        return tensor_s, context_s, expert_s
