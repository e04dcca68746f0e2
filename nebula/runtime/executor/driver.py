"""A rank's part of a step: its actions in the order of the schedule, each with what it needs and what it hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.plan.values import Plan
from nebula.runtime import circles
from nebula.runtime.batch import on_device
from nebula.runtime.executor.gradients import Gradients
from nebula.runtime.executor.mail import Mail, check_cut, specs_of
from nebula.runtime.executor.positions import Positions
from nebula.runtime.executor.seats import Message, Seat, orders, rows_of
from nebula.runtime.executor.weight_gradients import Later
from nebula.runtime.forward_backward import Loss, Observer
from nebula.runtime.precision import Precision


@dataclass(slots=True, kw_only=True)
class Held:
    """What a forward leaves for its backward: tensors that came over the border, and where gradients start."""

    inputs: list[paddle.Tensor]
    outputs: list[paddle.Tensor]


class ByActions:
    """Runs the actions of one rank.

    Args:
        stages: the elements of each stage that the rank holds.
        positions: of the sequence that the elements work on.
        later: where the weight gradients of a split backward wait.
    """

    def __init__(
        self,
        plan: Plan,
        seat: Seat,
        stages: Mapping[int, Sequence[nn.Layer]],
        loss: Loss,
        *,
        precision: Precision,
        positions: Positions,
        mail: Mail,
        gradients: Gradients,
        later: Later,
    ) -> None:
        self.plan, self.seat, self.loss, self.precision = plan, seat, loss, precision
        self.observers: list[Observer] = []
        self.gradients = gradients
        self._stages, self._positions, self._mail, self._later = stages, positions, mail, later
        self._order = orders(plan)[seat.home]
        self._last = len(plan.stages) - 1
        self._rows = seat.rows[1] - seat.rows[0]
        self._losses: list[paddle.Tensor] = []
        self._held: dict[tuple[int, int], Held] = {}
        self._weights: dict[tuple[int, int], list[Callable[[], None]]] = {}

    def run(self, micro_batches: list[Any]) -> float:
        """Leaves the gradients of the global batch and returns this rank's share of its mean loss."""
        self._losses = []
        does = {"F": self._forward, "B": self._backward, "I": self._inputs_backward, "W": self._weights_backward}
        self._mail.begin()
        for kind, micro_batch, stage in self._order:
            self._tell(kind, micro_batch, "begin")
            does[kind](stage, micro_batch, micro_batches[micro_batch])
            self._tell(kind, micro_batch, "end")
        self._mail.end()
        self.gradients.add_up()
        share = self._rows / self.plan.job.global_batch
        return share * sum(float(loss) for loss in self._losses)

    def _forward(self, stage: int, micro_batch: int, rows: Any) -> None:
        inputs, labels = rows
        came: list[paddle.Tensor] = []
        if stage == 0:
            value = self._positions.of_batch(on_device(inputs))
        else:
            came, specs = self._mail.take(Message("F", stage, micro_batch))
            for tensor, spec in zip(came, specs, strict=True):
                tensor.stop_gradient = not spec.gradient
            value = came[0] if specs[0].alone else tuple(came)
        with self.precision.casting():
            for layer, element in enumerate(self._stages[stage], self.plan.stages[stage].layers[0]):
                value = element(self._positions.enter(stage, layer, value))
            value = self._positions.leave(stage, value)
            if stage == self._last:
                value = self.loss(value, on_device(labels))
        if stage == self._last:
            outputs = [_with_gradient(value)]
            self._losses.append(value.detach())
        else:
            outputs = self._hand_on(stage, micro_batch, value)
        needing = [tensor for tensor in outputs if not tensor.stop_gradient]
        self._held[stage, micro_batch] = Held(inputs=[t for t in came if not t.stop_gradient], outputs=needing)

    def _hand_on(self, stage: int, micro_batch: int, value: Any) -> list[paddle.Tensor]:
        """Sends what a stage returns, and tells from which tensors its backward starts."""
        layer = self._stages[stage][-1]
        specs = specs_of(value, self._rows, layer)
        outputs = [value] if specs and specs[0].alone else _distinct(value)
        if rows_of(self.plan.stages[stage]) != rows_of(self.plan.stages[stage + 1]):
            check_cut(specs, self._rows, f"layer {self.plan.stages[stage].layers[1] - 1} ({type(layer).__name__})")
        self._mail.send(Message("F", stage + 1, micro_batch), outputs, specs)
        return outputs

    def _backward(self, stage: int, micro_batch: int, _: Any) -> None:
        held = self._held.pop((stage, micro_batch))
        if stage == self._last:
            share = self._rows / self.plan.job.global_batch
            self.precision.scaled(held.outputs[0] * share).backward()
        else:
            gradients, _specs = self._mail.take(Message("B", stage, micro_batch))
            if held.outputs:
                paddle.autograd.backward(held.outputs, gradients)
        if stage > 0:
            back = [paddle.zeros_like(t) if t.grad is None else t.grad for t in held.inputs]
            self._mail.send_back(Message("B", stage - 1, micro_batch), back)

    def _inputs_backward(self, stage: int, micro_batch: int, rows: Any) -> None:
        self._later.keeps = True
        self._backward(stage, micro_batch, rows)
        self._later.keeps = False
        self._weights[stage, micro_batch] = self._later.collected()

    def _weights_backward(self, stage: int, micro_batch: int, _: Any) -> None:
        for work in self._weights.pop((stage, micro_batch)):
            work()

    def mean(self, share: float) -> float:
        """Of the global batch, on every rank: one rank of each replica of the last stage tells its share."""
        total = paddle.to_tensor([share if self.seat.place == 0 else 0.0], dtype="float32")
        circles.everyone(self.plan.world_size).all_reduce(total)
        return float(total)

    def _tell(self, kind: str, index: int, moment: str) -> None:
        for observer in self.observers:
            observer(kind, index, moment)


def _with_gradient(loss: paddle.Tensor) -> paddle.Tensor:
    if loss.stop_gradient:
        raise BadInput("the loss needs no gradient of any weight: is the whole model frozen, or the loss detached?")
    return loss


def _distinct(tensors: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
    """The tensors, one that comes again as a copy: a backward starts from each once."""
    ids = [id(tensor) for tensor in tensors]
    return [tensor if ids.index(id(tensor)) == index else tensor.clone() for index, tensor in enumerate(tensors)]
