"""Where the document half's recurrence memory lives between steps.

ERNIE-Doc's same-layer recurrence (arXiv 2012.15688, section 3.3): layer n of segment t+1 attends to the stopped output
of layer n of segment t. The slots are held here, outside of the layer, so that recomputing the layer sees the memory
which its first run saw; each micro-batch of a step has a slot of its own, so that pipelines stay exact.
"""

from __future__ import annotations

from collections.abc import Iterable

import paddle
from paddle import Tensor, nn

from nebula.models.attention import halves


class WithMemory(nn.Layer):
    """A chain element that remembers, for `layer(x, memory)`, the end of the last document segment.

    Training forwards count round the `micro_batches` slots; evaluation has one slot of its own. Recompute belongs
    around `layer`, which is a function of its inputs, and not around this element, which would advance twice.

    Attributes:
        layer: what computes.
    """

    def __init__(self, layer: nn.Layer, length: int, micro_batches: int = 1) -> None:
        super().__init__()
        self.layer = layer
        self.length = length
        self.micro_batches = micro_batches
        self._slots: dict[int, Tensor] = {}
        self._next = 0

    @property
    def recompute_target(self) -> nn.Layer:
        """What runtime.recompute wraps in place of this element."""
        return self.layer

    @property
    def row_state(self) -> list[Tensor]:
        """What is remembered of each row, a tensor [rows, length, hidden] per micro-batch; empty before a step."""
        return [self._slots[slot] for slot in range(self.micro_batches) if slot in self._slots]

    @row_state.setter
    def row_state(self, slots: list[Tensor]) -> None:
        self._slots, self._next = dict(enumerate(slots)), 0

    def swap(self, slot: int, kept: Tensor | None) -> Tensor | None:
        """Puts something into a slot, which the next training forward takes, and returns what was there."""
        before = self._slots.pop(slot, None)
        if kept is not None:
            self._slots[slot] = kept
        self._next = slot
        return before

    def forget(self) -> None:
        """Empties all slots: the next segments begin a document."""
        self._slots, self._next = {}, 0

    def forget_evaluation(self) -> None:
        """Empties the slot of evaluation alone."""
        self._slots.pop(-1, None)

    def forward(self, x: Tensor) -> Tensor:
        """[2 rows, s, hidden] -> [2 rows, s, hidden]; stores the end of the document half, gradient stopped."""
        slot = self._next if self.training else -1
        memory = self._slots.get(slot)
        if memory is None:
            memory = paddle.zeros([x.shape[0] // 2, self.length, x.shape[2]], dtype=x.dtype)
        y = self.layer(x, memory)
        if paddle.in_dynamic_mode():
            self._slots[slot] = halves(y)[1][:, -self.length :].detach()
            if self.training:
                self._next = (self._next + 1) % self.micro_batches
        return y


def memories(elements: Iterable[nn.Layer]) -> list[WithMemory]:
    """The elements that remember."""
    return [element for element in elements if isinstance(element, WithMemory)]


def set_micro_batches(elements: Iterable[nn.Layer], micro_batches: int) -> None:
    """Gives each memory one slot per micro-batch of a step and empties it."""
    for element in memories(elements):
        element.micro_batches = micro_batches
        element.forget()
