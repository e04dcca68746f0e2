"""How far is a training that goes on evenly? Steps as a straight line over time, from where it was taken up."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Steps that follow each other without a break.

    Attributes:
        begin_s: when the first of them begins.
        step: that was taken up.
        cost_s: of a step, with its part of saves.
        saving_s: that part.
        last: step that ends the training.
    """

    begin_s: float
    step: int
    cost_s: float
    saving_s: float
    last: int

    def done(self, now_s: float) -> int:
        """Steps that are done by then, in all."""
        return min(self.last, self.step + max(0, int((now_s - self.begin_s) / self.cost_s + 1e-9)))

    def at_s(self, step: int) -> float:
        """When so many steps are done."""
        return self.begin_s + (step - self.step) * self.cost_s

    def durable(self, now_s: float, every: int, durable_s: float) -> int:
        """The last step by then whose checkpoint was readable; 0 without one after the step that was taken up."""
        step = self.done(now_s - durable_s) // every * every
        return step if step > self.step else 0

    def changed(self, now_s: float, cost_s: float, saving_s: float) -> Pace:
        """The same training at another rate from now on; what is done of a step stays done."""
        done = self.done(now_s)
        part = max(0.0, now_s - self.at_s(done)) / self.cost_s
        return replace(self, begin_s=now_s - part * cost_s, step=done, cost_s=cost_s, saving_s=saving_s)
