"""One step's gradients: the micro-batches of a rank run forward and backward, in a row or through a pipeline.

A driver leaves the sum of the micro-batches' gradients, each divided by their number, in the parameters of its rank and
returns the mean loss of its replica. Observers hear of every forward and backward of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import paddle
from paddle import nn

from nebula.runtime.batch import on_device
from nebula.runtime.precision import Precision

Loss = Callable[..., paddle.Tensor]
"""(outputs, labels) -> scalar."""
Observer = Callable[[str, int, str], None]
"""Called with `F` or `B` and the micro-batch, or `update` and -1, and `begin` or `end`."""


class Driver(Protocol):
    """Runs the micro-batches of one step."""

    observers: list[Observer]
    precision: Precision

    def run(self, micro_batches: list[Any]) -> Any:
        """Accumulates gradients and returns the replica's mean loss, left on the device where it is there."""


class InARow:
    """All micro-batches one after the other through the whole model.

    Gradients leave the rank with the last micro-batch alone where `model` can hold them back (`no_sync`), beside its
    backward. Paddle's reducer looks for weights that get no gradient in the graph of the outputs, where those that only
    recomputed regions use are not to be found, and takes a gradient for whole when it comes first, also one that comes
    in parts. So a model that recomputes holds all gradients back until they are there, and `reduce` sends them.
    """

    def __init__(
        self, model: nn.Layer, loss: Loss, precision: Precision, reduce: Callable[[], None] | None = None
    ) -> None:
        self.model, self.loss, self.precision, self._reduce = model, loss, precision, reduce
        self.observers: list[Observer] = []

    def run(self, micro_batches: list[Any]) -> paddle.Tensor:
        """Accumulates gradients and returns the mean loss."""
        count, losses = len(micro_batches), []
        for index, (inputs, labels) in enumerate(map(on_device, micro_batches)):
            last = index == count - 1
            held = nullcontext if last and self._reduce is None else getattr(self.model, "no_sync", nullcontext)
            with held():
                self._tell("F", index, "begin")
                with self.precision.casting():
                    value = self.loss(self.model(inputs), labels)
                self._tell("F", index, "end")
                self._tell("B", index, "begin")
                self.precision.scaled(value / count if count > 1 else value).backward()
                if last and self._reduce is not None:
                    self._reduce()
                self._tell("B", index, "end")
            losses.append(value.detach().astype("float32"))
        return paddle.stack(losses).mean() if count > 1 else losses[0]

    def _tell(self, kind: str, index: int, moment: str) -> None:
        for observer in self.observers:
            observer(kind, index, moment)


class Through1F1B:
    """fleet's one-forward-one-backward pipeline over this rank's stage."""

    def __init__(self, pipeline: Any, precision: Precision) -> None:
        from paddle.distributed.fleet.meta_parallel import pipeline_parallel as fleet_pipeline

        self.pipeline, self.precision = pipeline, precision
        self.observers: list[Observer] = []
        # fleet keeps one list of callbacks for all pipelines of a process; this pipeline gets its own
        pipeline.callbacks = fleet_pipeline.PipelineParallelMicroStepCallback()
        self._seen = {"F": 0, "B": 0}
        at = fleet_pipeline.PipelineParallelMicroStepLocations
        pipeline.register_hook(at.FORWARD_BEGIN, self._teller("F", "begin"))
        pipeline.register_hook(at.BACKWARD_BEGIN, self._teller("B", "begin"))
        pipeline.register_hook(at.BACKWARD_END, self._teller("B", "end"))
        if pipeline.is_pipeline_last_stage(ignore_virtual=True):
            # here a forward pass ends with the loss, which fleet computes after its hook
            losses = pipeline._layers._loss_fn
            losses[:] = [_then(loss, self._teller("F", "end")) for loss in losses]
        else:
            pipeline.register_hook(at.FORWARD_END, self._teller("F", "end"))

    def _teller(self, kind: str, moment: str) -> Callable[..., None]:
        def tell(**_: Any) -> None:
            for observer in self.observers:
                observer(kind, self._seen[kind], moment)
            self._seen[kind] += moment == "end"

        return tell

    def run(self, micro_batches: list[Any]) -> paddle.Tensor:
        """Accumulates gradients and returns the mean loss, which the last stage tells the others."""
        self._seen = {"F": 0, "B": 0}
        self.pipeline.set_virtual_pipeline_rank(0)
        self.pipeline._layers.train()
        with self.precision.casting():  # fleet leaves it for its backward passes
            loss: paddle.Tensor = self.pipeline.forward_backward_pipeline(
                self._feed(micro_batches), self.precision.scaler
            )
            return loss

    def _feed(self, micro_batches: list[Any]) -> Iterator[Any]:
        """What fleet asks for: a first stage the inputs, a last stage the labels; others never ask."""
        first = self.pipeline.is_pipeline_first_stage(ignore_virtual=True)
        last = self.pipeline.is_pipeline_last_stage(ignore_virtual=True)
        for inputs, labels in micro_batches:
            yield on_device(inputs) if first else None, on_device(labels) if last else None


def _then(loss: Loss, tell: Callable[..., None]) -> Loss:
    """The same loss, which says when it is done."""

    def run(outputs: Any, labels: Any) -> paddle.Tensor:
        value = loss(outputs, labels)
        tell()
        return value

    return run
