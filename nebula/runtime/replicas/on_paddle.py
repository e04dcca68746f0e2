"""A member's model in Paddle: gradients of shards, optimizer steps that are the same on all members, and its state.

The plan is that of one process whose micro-batches are the shards, so that a checkpoint of any member is that of a
serial run, and plans of any kind can go on from it. Random numbers depend on seed, step and shard alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle

from nebula.errors import BadInput, RunFailed
from nebula.models.experts import Router
from nebula.runtime import finite
from nebula.runtime.batch import on_device
from nebula.runtime.held import ROWS, held, innermost, make_states, put
from nebula.runtime.optimizers import clear_gradients
from nebula.runtime.parallelize import Step
from nebula.runtime.replicas.tree import Array

Rows = Callable[[int, range], Any]
"""(step, rows of the global batch) -> a batch of these rows."""


class OnPaddle:
    """What one member computes.

    Args:
        step: of a serial plan with as many micro-batches as there are shards.
        batch: makes any rows of any step's batch.
        after: called once a step is applied, such as the schedule of a learning rate.

    Raises:
        BadInput: the training cannot be parted into shards.
    """

    def __init__(self, step: Step, batch: Rows, *, seed: int = 0, after: Callable[[], None] = lambda: None) -> None:
        self.step, self.loss = step, float("nan")
        self._batch, self._seed, self._after = batch, seed, after
        self._shards = step.plan.micro_batches
        self._rows = step.plan.job.global_batch // self._shards
        self._trained = [p for p in step.part.weights.values() if not p.stop_gradient]
        self._remembering = [e for e in step.part.elements if hasattr(e, "row_state")]
        self._routers = _routers(step)
        if step.plan.world_size > 1:
            raise BadInput(f"a member of a group of replicas is one process, the plan has {step.plan.world_size} ranks")
        if step.plan.job.global_batch % self._shards:
            raise BadInput(f"global_batch {step.plan.job.global_batch} is not cut evenly by {self._shards} shards")
        if step.precision.scaler is not None:
            raise BadInput("precision fp16 scales losses by what one process has seen: use bf16 or fp32 with replicas")
        frozen = {name: weight for name, weight in step.part.weights.items() if weight.stop_gradient}
        self._still = frozen | step.part.buffers
        make_states(step)

    def gradient(self, step: int, shard: int) -> tuple[Array, Any]:
        """A shard's share of the gradient, with its share of the loss at the end, and what its rows leave behind.

        Raises:
            RunFailed: it is not finite, twice.
        """
        found = self._gradient(step, shard)
        if _is_finite(found[0]):
            return found
        print(f"the gradient of shard {shard} of step {step + 1} is not finite; it is worked out again", flush=True)
        found = self._gradient(step, shard)
        if not _is_finite(found[0]):
            raise RunFailed(
                f"the gradient of shard {shard} of step {step + 1} is not finite, twice: a faulty device, or a "
                "training that diverges"
            )
        return found

    def _gradient(self, step: int, shard: int) -> tuple[Array, Any]:
        for router in self._routers:
            router.load = np.zeros_like(router.load)
        paddle.seed(zlib.crc32(f"{self._seed} {step} {shard}".encode()))
        with self._nothing_moves():
            loss, memory = self._with_memory(step, shard)
        gradients = [np.zeros(p.size, np.float32) if p.grad is None else _flat(p.grad) for p in self._trained]
        clear_gradients(self.step.optimizer)
        left = {
            "memory": memory,
            "loads": [router.load for router in self._routers],
        }
        if finite.SPOILT:
            finite.SPOILT.clear()
            gradients[0][:] = np.nan
        return np.concatenate([*gradients, np.array([loss], np.float32)]), left

    @contextmanager
    def _nothing_moves(self) -> Iterator[None]:
        """Refuses, in the first step, a model whose forward changes more than its gradients."""
        before = {name: tensor.numpy().copy() for name, tensor in self._still.items()}
        yield
        for name, array in before.items():
            if not np.array_equal(array, self._still[name].numpy(), equal_nan=array.dtype.kind == "f"):
                raise BadInput(f"{name} changes as rows pass, as a batch norm's statistics do: unlike on each replica")
        self._still = {}

    def _with_memory(self, step: int, shard: int) -> tuple[float, list[Any]]:
        """The shard's loss, and what its rows leave behind; what is remembered of them stays until the step is done."""
        before = [element.swap(shard, None) for element in self._remembering]
        for element, kept in zip(self._remembering, before, strict=True):
            element.swap(shard, kept)
        loss = self._backward(step, shard)
        left = [element.swap(shard, kept) for element, kept in zip(self._remembering, before, strict=True)]
        return loss, [slot.numpy() for slot in left]

    def _backward(self, step: int, shard: int) -> float:
        """Leaves the gradients of a shard's share of the mean loss, and returns that share."""
        driver: Any = self.step.driver
        rows = range(shard * self._rows, (shard + 1) * self._rows)
        inputs, labels = on_device(self._batch(step, rows))
        with driver.precision.casting():
            value = driver.loss(driver.model(inputs), labels) / self._shards
        value.backward()
        return float(value)

    def apply(self, total: Array, memory: Mapping[int, Any]) -> None:
        """Does the optimizer step with the whole gradient."""
        begin = 0
        for parameter in self._trained:
            piece = total[begin : begin + parameter.size].reshape(parameter.shape)
            parameter.grad = paddle.to_tensor(piece, place=parameter.place).astype(parameter.dtype)
            begin += parameter.size
        self.loss = float(total[-1])
        self._go_on(memory)
        for index, router in enumerate(self._routers):
            router.move(sum(left["loads"][index] for left in memory.values()))
        self.step.precision.update(self.step.optimizer)
        clear_gradients(self.step.optimizer)
        self._after()

    def _go_on(self, memory: Mapping[int, Any]) -> None:
        for index, element in enumerate(self._remembering):
            slots = [memory[shard]["memory"][index] for shard in range(self._shards)]
            element.row_state = [paddle.to_tensor(slot, place=self._trained[0].place) for slot in slots]

    def state(self) -> list[Array]:
        """A text of what follows, and weights, buffers, optimizer states and memories."""
        pieces = held(self.step)
        rate = innermost(self.step.optimizer)._learning_rate
        facts = {
            "keys": [piece.key for piece in pieces if not piece.key.startswith(ROWS)],
            "memory": [[list(slot.shape) for slot in element.row_state] for element in self._remembering],
            "dtype": next((str(s.numpy().dtype) for e in self._remembering for s in e.row_state), "float32"),
            "rate": rate.state_dict() if hasattr(rate, "state_dict") else None,
        }
        text = np.frombuffer(json.dumps(facts, default=float).encode(), np.uint8)
        arrays = [piece.tensor.numpy() for piece in pieces if not piece.key.startswith(ROWS)]
        slots = [slot.numpy() for element in self._remembering for slot in element.row_state]
        return [text, *arrays, *slots]

    def load(self, arrays: Sequence[bytes]) -> None:
        """Takes another member's state.

        Raises:
            BadInput: it is that of another model or optimizer.
        """
        facts = json.loads(arrays[0])
        pieces = {piece.key: piece for piece in held(self.step) if not piece.key.startswith(ROWS)}
        if list(pieces) != facts["keys"]:
            odd = sorted({*pieces} ^ {*facts["keys"]})[:3]
            raise BadInput(f"the others train another model or optimizer: {', '.join(odd) or 'in another order'}")
        given = iter(arrays[1:])
        for piece in pieces.values():
            own = piece.tensor.numpy()
            put(piece.tensor, np.frombuffer(next(given), own.dtype).reshape(own.shape))
        for element, shapes in zip(self._remembering, facts["memory"], strict=True):
            slots = [np.frombuffer(next(given), facts["dtype"]).reshape(shape) for shape in shapes]
            element.row_state = [paddle.to_tensor(slot, place=self._trained[0].place) for slot in slots]
        rate = innermost(self.step.optimizer)._learning_rate
        if facts["rate"] is not None:
            rate.set_state_dict(facts["rate"])


def _is_finite(array: Array) -> bool:
    """In one pass, and without an array of truth values."""
    return bool(np.isfinite(np.dot(array, array))) or bool(np.isfinite(array).all())


def _flat(gradient: paddle.Tensor) -> Array:
    array: Array = gradient.astype("float32").numpy().reshape(-1)
    return array


def _routers(step: Step) -> list[Router]:
    layers = [layer for element in step.part.elements for layer in element.sublayers(include_self=True)]
    return list({id(layer): layer for layer in layers if isinstance(layer, Router)}.values())
