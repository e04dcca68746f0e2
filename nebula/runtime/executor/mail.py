"""Messages between ranks: tensors of a border, cut by rows, each ordered pair of ranks over a group of its own.

A group per direction gives each a stream of its own, so that no order of sends and receives of two neighbours can block
both. Receives are posted in the order in which the other side sends. A rank that holds both stages of a border hands
over without sending.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle

from nebula.errors import BadInput
from nebula.plan.executor_limits import UNDERWAY
from nebula.plan.values import Plan
from nebula.runtime import circles
from nebula.runtime.executor.seats import Message, Seat, Share, channels, gives, seat_of, sent, takes

DTYPES = ("float32", "bfloat16", "float16", "int64", "int32", "bool", "float64", "uint8", "int8", "int16")
TENSORS, DIMS = 16, 8
"""The most tensors of a border, and the most dims of one."""


class Spec(NamedTuple):
    """One tensor of a border.

    Attributes:
        gradient: whether a gradient comes back for it.
        per_row: its first dim counts so many for each row; 0: it has no rows and travels whole.
        alone: whether the layer returned it on its own rather than in a tuple.
    """

    dtype: str
    shape: tuple[int, ...]
    gradient: bool
    per_row: int
    alone: bool = False


class Mail:
    """What one rank sends and receives; making one makes the groups, which all ranks do together."""

    def __init__(self, plan: Plan, seat: Seat) -> None:
        self._plan, self._seat = plan, seat
        wires = {pair: circles.wire(*pair) for pair in channels(plan)}
        self._wires = {pair: wire for pair, wire in wires.items() if seat.rank in pair}
        self._meet()
        self._specs: dict[tuple[int, int], list[Spec]] = {}
        self._returning: dict[int, list[Spec]] = {}
        self._underway: dict[int, deque[tuple[Any, paddle.Tensor]]] = defaultdict(deque)
        self._told: dict[int, list[Spec]] = {}
        self.begin()

    def _meet(self) -> None:
        """Opens every channel, all in one order: the first message over each blocks until both sides are there."""
        for (giver, _), wire in self._wires.items():
            word = paddle.zeros([1])
            (wire.send if giver == self._seat.rank else wire.receive)(word).wait()

    def begin(self) -> None:
        """A new step: nothing is on its way."""
        here = self._seat.rank
        givers = sorted({giver for giver, taker in self._wires if taker == here})
        self._coming = {giver: deque(sent(self._plan, seat_of(self._plan, giver), here)) for giver in givers}
        self._arrived: dict[tuple[Message, int], list[paddle.Tensor]] = {}

    def end(self) -> None:
        """Waits until everything that was sent has left."""
        for queue in self._underway.values():
            while queue:
                queue.popleft()[0].wait()

    def send(self, message: Message, tensors: Sequence[paddle.Tensor], specs: Sequence[Spec]) -> None:
        """Sends to each rank that works on some of these rows its part of every tensor."""
        stage = message.stage + (1 if message.kind == "B" else -1)
        if message.kind == "F":
            self._returning[stage] = [spec for spec in specs if spec.gradient]
            self._check_same(stage, specs)
            first = stage not in self._told
            self._told[stage] = list(specs)
        width = len(self._plan.stages[stage].replicas[self._seat.replica].ranks)
        for share in gives(self._seat, width, self._plan.stages[message.stage]):
            parts = [_part(tensor, spec, share) for tensor, spec in zip(tensors, specs, strict=True)]
            if share.peer == self._seat.rank:
                self._arrived[message, share.peer] = parts
                if message.kind == "F":  # gradients are of fewer tensors
                    self._specs[share.peer, message.stage] = list(specs)
                continue
            if message.kind == "F" and first:
                self._post(share.peer, paddle.to_tensor(_written(parts, specs)))
            for part in parts:
                self._post(share.peer, part)

    def _check_same(self, stage: int, specs: Sequence[Spec]) -> None:
        """Refuses activations unlike those of the first micro-batch, of which alone the other side was told."""
        for index, (now, told) in enumerate(zip(specs, self._told.get(stage, specs), strict=False)):
            if now != told:
                raise BadInput(
                    f"stage {stage} hands on tensor {index} as {_words(now)}, and as {_words(told)} at first: what "
                    "crosses a border has one shape in all micro-batches; pad the rows of all batches to one length"
                )
        if len(specs) != len(self._told.get(stage, specs)):
            raise BadInput(f"stage {stage} hands on {len(specs)} tensors, and {len(self._told[stage])} at first")

    def take(self, message: Message) -> tuple[list[paddle.Tensor], list[Spec]]:
        """The tensors of a message, this rank's rows of them, and what they are."""
        giver = self._plan.stages[message.stage + (1 if message.kind == "B" else -1)]
        shares = list(takes(giver, self._seat))
        for share in shares:
            if share.peer != self._seat.rank:
                self._receive_up_to(message, share)
        pieces = [self._arrived.pop((message, share.peer)) for share in shares]
        specs = self._specs_of(message, shares[0].peer)
        return [_joined([piece[i] for piece in pieces], spec) for i, spec in enumerate(specs)], specs

    def _specs_of(self, message: Message, peer: int) -> list[Spec]:
        return self._specs[peer, message.stage] if message.kind == "F" else self._returning[message.stage]

    def send_back(self, message: Message, gradients: Sequence[paddle.Tensor]) -> None:
        """Sends the gradients of the tensors that came over the border above a stage."""
        peer = next(takes(self._plan.stages[message.stage], self._seat)).peer
        specs = [spec for spec in self._specs[peer, message.stage + 1] if spec.gradient]
        self.send(message, gradients, specs)

    def _post(self, peer: int, tensor: paddle.Tensor) -> None:
        queue = self._underway[peer]
        task = self._wires[self._seat.rank, peer].send(tensor)
        queue.append((task, tensor))
        while len(queue) > UNDERWAY:
            queue.popleft()[0].wait()

    def _receive_up_to(self, message: Message, share: Share) -> None:
        """Takes what the peer sends up to the message, in the peer's order."""
        coming = self._coming[share.peer]
        while (message, share.peer) not in self._arrived:
            following = coming.popleft()
            self._arrived[following, share.peer] = self._received(following, share)

    def _received(self, message: Message, share: Share) -> list[paddle.Tensor]:
        wire = self._wires[share.peer, self._seat.rank]
        if message.kind == "F" and (share.peer, message.stage) not in self._specs:
            header = paddle.empty([_HEADER], dtype="int64")
            wire.receive(header).wait()
            self._specs[share.peer, message.stage] = _read(header.numpy())
        specs = self._specs_of(message, share.peer)
        tensors = [paddle.empty(_shape(spec, share), dtype=spec.dtype) for spec in specs]
        for task in [wire.receive(tensor) for tensor in tensors]:
            task.wait()
        return tensors


_FACTS = 5
_HEADER = 1 + TENSORS * (_FACTS + DIMS)


def specs_of(value: Any, rows: int, layer: Any) -> list[Spec]:
    """What each tensor of a border is.

    A tensor that needs a gradient leads with rows, or some of each (two sequences, heads). Of the others those do whose
    first dim is as long as there are rows, but for those that the layer's attribute `whole_outputs` names by position.

    Args:
        value: a tensor, or a tuple or list of them.
        rows: of the micro-batch at the sender.
        layer: that made them.

    Raises:
        BadInput: something is no tensor, or the border is wider than a message.
    """
    alone = not isinstance(value, (tuple, list))
    tensors = [value] if alone else value
    for index, tensor in enumerate(tensors):
        if not isinstance(tensor, paddle.Tensor) or _dtype(tensor) not in DTYPES:
            what = f"of {_dtype(tensor)}" if isinstance(tensor, paddle.Tensor) else f"a {type(tensor).__name__}"
            raise BadInput(
                f"{type(layer).__name__} hands on, as value {index}, {what}: tensors of {', '.join(DTYPES)} alone "
                "cross a border between stages"
            )
    if len(tensors) > TENSORS or any(tensor.ndim > DIMS for tensor in tensors):
        name = type(layer).__name__
        raise BadInput(f"{name} hands on {len(tensors)} tensors; {TENSORS} of at most {DIMS} dims can cross a border")
    whole = getattr(layer, "whole_outputs", ())
    found = []
    for index, tensor in enumerate(tensors):
        per_row, rest = divmod(tensor.shape[0] if tensor.ndim else 0, rows)
        has_rows = index not in whole and rest == 0 and (per_row == 1 or not tensor.stop_gradient)
        gradient, counted = not tensor.stop_gradient, per_row if has_rows else 0
        found.append(Spec(_dtype(tensor), tuple(tensor.shape), gradient, counted, alone))
    return found


def _dtype(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")


def _words(spec: Spec) -> str:
    return f"{spec.dtype} {list(spec.shape)}{'' if spec.gradient else ' without gradient'}"


def check_cut(specs: Sequence[Spec], rows: int, where: str) -> None:
    """Refuses to part a tensor that needs a gradient and has no rows.

    Raises:
        BadInput: with its shape.
    """
    for index, spec in enumerate(specs):
        if spec.gradient and not spec.per_row:
            raise BadInput(
                f"{where}: the stages part the {rows} rows of a micro-batch differently, and tensor {index} of shape "
                f"{list(spec.shape)} does not lead with them: give the replicas of both stages equal rows"
            )


def _written(parts: Sequence[paddle.Tensor], specs: Sequence[Spec]) -> np.ndarray:
    """What the parts of a message are, as one array of a fixed length."""
    header = np.zeros(_HEADER, dtype=np.int64)
    header[0] = len(parts)
    for index, (part, spec) in enumerate(zip(parts, specs, strict=True)):
        at = 1 + index * (_FACTS + DIMS)
        sizes = at + _FACTS
        header[at:sizes] = DTYPES.index(spec.dtype), spec.gradient, spec.per_row, spec.alone, part.ndim
        header[sizes : sizes + part.ndim] = part.shape
    return header


def _read(header: np.ndarray) -> list[Spec]:
    specs = []
    for index in range(int(header[0])):
        at = 1 + index * (_FACTS + DIMS)
        sizes = at + _FACTS
        dtype, gradient, per_row, alone, dims = (int(value) for value in header[at:sizes])
        shape = tuple(int(size) for size in header[sizes : sizes + dims])
        specs.append(Spec(DTYPES[dtype], shape, bool(gradient), per_row, bool(alone)))
    return specs


def _shape(spec: Spec, share: Share) -> list[int]:
    """Of the part of a tensor that a share is."""
    return [spec.per_row * (share.last - share.first), *spec.shape[1:]] if spec.per_row else list(spec.shape)


def _part(tensor: paddle.Tensor, spec: Spec, share: Share) -> paddle.Tensor:
    """The share's rows of a tensor, on their own."""
    first, last = share.first * spec.per_row, share.last * spec.per_row
    whole = not spec.per_row or (first, last) == (0, tensor.shape[0])
    return (tensor if whole else tensor[first:last]).detach().contiguous()


def _joined(pieces: list[paddle.Tensor], spec: Spec) -> paddle.Tensor:
    """One tensor of the pieces, which follow each other by rows; a tensor without rows is the same in all."""
    return pieces[0] if len(pieces) == 1 or not spec.per_row else paddle.concat(pieces)
