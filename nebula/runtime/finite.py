"""Are the weights still numbers after a step? What is not finite must not get into copies and checkpoints.

One gradient that is not finite makes the global norm such, and a clip by it then every weight on every rank, so the
smallest weight tells. Looked at where an agent can go on from the step before: it costs a wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import paddle

from nebula.errors import RunFailed

SPOILT: list[str] = []
"""What a test asks the next gradient to be, `nan`; taken once."""


class Look(Protocol):
    """Looks at a step's weights."""

    def before(self) -> None:
        """All gradients of the step are there."""

    def after(self, step: int, loss: float) -> None:
        """The step is done."""


class NoLook:
    """Trusts."""

    def before(self) -> None:
        """Looks at nothing."""

    def after(self, step: int, loss: float) -> None:
        """Looks at nothing."""


class Finite:
    """Stops the process where weights are no numbers any longer.

    Args:
        weights: that this rank trains.
    """

    def __init__(self, weights: Iterable[paddle.Tensor]) -> None:
        every = list(weights)
        trained = [weight for weight in every if not weight.stop_gradient]
        self._smallest = min(trained or every, key=lambda weight: int(weight.size))

    def before(self) -> None:
        """Spoils a gradient, if a test has asked for it."""
        if SPOILT and self._smallest.grad is not None:
            SPOILT.clear()
            paddle.assign(self._smallest.grad * float("inf") * 0.0, self._smallest.grad)

    def after(self, step: int, loss: float) -> None:
        """Looks at the smallest weight and the loss.

        Raises:
            RunFailed: they are not finite.
        """
        if not math.isfinite(loss) or not math.isfinite(float(self._smallest.astype("float32").sum())):
            what = "the loss is" if not math.isfinite(loss) else "the weights are"
            raise RunFailed(f"{what} not finite after step {step}: a faulty device, or a training that diverges")
