"""Are the weights still numbers after a step? What is not finite must not get into copies and checkpoints.

All weights are looked at: what one bad gradient does to the others depends on the clip. By the global norm NaN spreads
to every weight, infinity to none, and without a clip neither does. Looked at where an agent can go on from the step
before: it costs a pass over the weights and a wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import paddle

from nebula.errors import RunFailed
from nebula.runtime.sharding import storage

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
        weights: that this rank holds, by name; those that are not trained stay as they are.
    """

    def __init__(self, weights: Mapping[str, paddle.Tensor]) -> None:
        self._trained = {name: weight for name, weight in weights.items() if not weight.stop_gradient}

    def before(self) -> None:
        """Spoils the gradient of the largest weight, if a test has asked for it."""
        spoilt = [weight for weight in self._trained.values() if weight.grad is not None] if SPOILT else []
        if spoilt:
            SPOILT.clear()
            gradient = max(spoilt, key=lambda weight: int(weight.size)).grad
            paddle.assign(gradient * float("inf") * 0.0, gradient)

    def after(self, step: int, loss: float) -> None:
        """Looks at the loss and the weights.

        Raises:
            RunFailed: they are not finite; with the first weight that is not.
        """
        odd = self._odd() if math.isfinite(loss) else "the loss"
        if odd:
            raise RunFailed(f"{odd} is not finite after step {step}: a faulty device, or a training that diverges")

    def _odd(self) -> str:
        """The first weight that is not finite; empty: all are. A sum is not finite where one of its terms is not."""
        held = {name: storage(weight) for name, weight in self._trained.items()}
        sums = [weight.sum().astype("float32") for weight in held.values()]
        if not sums or math.isfinite(float(paddle.stack(sums).sum())):
            return ""
        return next((name for name, weight in held.items() if not _finite(weight)), "")


def _finite(weight: paddle.Tensor) -> bool:
    """Whether all its elements are, whatever their sum is."""
    return bool(np.isfinite(weight.astype("float32").numpy()).all())
