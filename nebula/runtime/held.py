"""What a rank holds of a training, and where it belongs in the whole model: the same names and places under every plan.

Weights, buffers, optimizer states, fp32 copies of reduced weights, and what elements remember between steps. A tensor
is a box of the whole one (a tensor-parallel slice; of a matrix that is two in one, two boxes) or, under sharding stage
3, a range of that box flattened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.base import core

from nebula.checkpoint.boxes import Box, flat_boxes, overlap, whole
from nebula.checkpoint.shard_file import Part as SavedPart
from nebula.runtime.optimizers import trained_by
from nebula.runtime.parallelize import Step
from nebula.runtime.sharding import storage

MODEL, BUFFER, OPTIMIZER, MASTER, ROWS = "model/", "buffer/", "optimizer/", "master/", "rows/"
"""Begins of the keys under which a checkpoint keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tensor of this rank.

    Attributes:
        key: begins with what it is; ends with its name in the whole model.
        shape: of the whole tensor.
        box: what the rank has of it.
        flat: the range of the flattened box that the tensor holds, in its first elements; None: all of it.
        seam: the dim along which the second half of the box belongs to the second half of the whole; None: there is
            none, and the box is one.
    """

    key: str
    tensor: paddle.Tensor
    shape: tuple[int, ...]
    box: Box
    flat: tuple[int, int] | None = None
    seam: int | None = None

    @property
    def dtype(self) -> str:
        """Of the saved tensor."""
        return str(self.tensor.dtype).removeprefix("paddle.")

    @property
    def rests(self) -> bool:
        """Whether it lies in host memory, and nothing but an update of the optimizer changes it."""
        return self.key.startswith((MODEL, OPTIMIZER, MASTER)) and bool(self.tensor.place.is_cpu_place())

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Its elements as boxes of the whole tensor, in the order in which the tensor holds them."""
        return tuple(self._placed(piece) for box in self._held_boxes() for piece in self._at_seam(box))

    def _held_boxes(self) -> tuple[Box, ...]:
        """Its elements as boxes of its box."""
        return (whole(self.box.shape),) if self.flat is None else flat_boxes(self.box.shape, *self.flat)

    def _at_seam(self, box: Box) -> tuple[Box, ...]:
        """A box of its box, cut where the halves meet."""
        if self.seam is None:
            return (box,)
        shape, offset = list(self.box.shape), [0] * len(self.box.shape)
        shape[self.seam] //= 2
        offset[self.seam] = shape[self.seam]
        found = (overlap(box, Box(tuple(begin), tuple(shape))) for begin in ([0] * len(shape), offset))
        return tuple(piece for piece in found if piece is not None)

    def _placed(self, piece: Box) -> Box:
        """Where a box of its box, on one side of the seam, lies in the whole."""
        offset = list(self.box.offset)
        if self.seam is not None and piece.offset[self.seam] >= self.box.shape[self.seam] // 2:
            offset[self.seam] += (self.shape[self.seam] - self.box.shape[self.seam]) // 2
        return piece.moved(offset)

    def parts(self) -> Iterator[SavedPart]:
        """Its elements, copied to host memory."""
        array = self.tensor.numpy()
        begin = 0
        for box in self._held_boxes():
            content = array if self.flat is None else array[begin : begin + box.elements].reshape(box.shape)
            begin += box.elements
            for piece in self._at_seam(box):
                yield SavedPart(
                    key=self.key,
                    dtype=self.dtype,
                    shape=self.shape,
                    box=self._placed(piece),
                    array=content[(..., *piece.within(box))],
                )

    def fill(self, contents: list[npt.NDArray[Any]]) -> None:
        """Takes the elements of its boxes; memory that the tensor shares with others stays shared."""
        given = iter(contents)
        joined = []
        for box in self._held_boxes():
            pieces = [next(given) for _ in self._at_seam(box)]
            joined.append(pieces[0] if self.seam is None else np.concatenate(pieces, axis=self.seam))
        if self.flat is None:
            array = joined[0]
        else:
            array = self.tensor.numpy()
            flat = np.concatenate([content.reshape(-1) for content in joined]) if joined else array[:0]
            array[: flat.size] = flat
        put(self.tensor, array)


def put(tensor: paddle.Tensor, array: npt.NDArray[Any]) -> None:
    """Copies an array, in the carrier of the tensor's dtype, into the memory that the tensor has."""
    tensor.get_tensor().set(np.ascontiguousarray(array), _exactly(tensor.place))


def _exactly(place: Any) -> Any:
    """A tensor's place as the kinds of place that Paddle's setter takes."""
    if place.is_custom_place():
        return core.CustomPlace(place.custom_device_type(), place.custom_device_id())
    if place.is_gpu_place():
        return core.CUDAPlace(place.gpu_device_id())
    return core.XPUPlace(place.xpu_device_id()) if place.is_xpu_place() else core.CPUPlace()


def held(step: Step) -> list[Held]:
    """Everything that this rank holds; the optimizer's states once it has made them."""
    weights = [_weight(step, name, parameter) for name, parameter in step.part.weights.items()]
    states = _states(step, {weight.tensor.name: weight for weight in weights})
    return [*weights, *_buffers(step), *states, *_rows(step)]


def make_states(step: Step) -> None:
    """Makes the optimizer's states before its first step, so that they can be filled."""
    optimizer = innermost(step.optimizer)
    block = paddle.base.framework.default_main_program().global_block()
    optimizer._create_accumulators(block, [storage(parameter) for parameter in _stepped_here(step)])


def innermost(optimizer: Any) -> Any:
    """Paddle's optimizer inside of fleet's wrappers; that of sharding stage 3 names itself as what it wraps."""
    inner = vars(optimizer).get("_inner_opt") or vars(optimizer).get("_optim")
    return optimizer if inner in (None, optimizer) else innermost(inner)


def _stepped_here(step: Step) -> list[paddle.Tensor]:
    """The parameters whose states this rank keeps: all, or its share under sharding stages 1 and 2."""
    trained = [p for p in step.part.weights.values() if not p.stop_gradient]
    ranks = getattr(step.optimizer, "param2rank", None)  # of stage 2
    if ranks is not None:
        return [p for p in trained if ranks[p.name] == step.place.shard]
    if step.plan.stages[step.place.stage].sharding.stage == 1:
        mine = {p.name for p in trained_by(innermost(step.optimizer))}
        return [p for p in trained if p.name in mine]
    return trained


def _weight(step: Step, name: str, parameter: paddle.Tensor) -> Held:
    dim, local = step.part.cut.dims.get(id(parameter)), list(parameter.shape)
    shape, offset = list(local), [0] * len(local)
    seam = dim if id(parameter) in step.part.cut.halves else None
    if dim is not None:
        member = step.part.cut.members[id(parameter)]
        shape[dim], offset[dim] = local[dim] * member.degree, local[dim] * member.rank // (1 if seam is None else 2)
    tensor, flat = storage(parameter), None
    if tensor is not parameter:
        size, elements = int(tensor.shape[0]), int(np.prod(local))
        flat = (min(step.place.shard * size, elements), min((step.place.shard + 1) * size, elements))
    box = Box(tuple(offset), tuple(local))
    return Held(key=MODEL + name, tensor=tensor, shape=tuple(shape), box=box, flat=flat, seam=seam)


def _states(step: Step, by_name: Mapping[str, Held]) -> Iterator[Held]:
    """Moments and the like, which are cut as their weight is, and numbers beside them, which are not."""
    optimizer = innermost(step.optimizer)
    kinds = {f"{OPTIMIZER}{kind}/": states for kind, states in optimizer._accumulators.items()}
    kinds[MASTER] = getattr(optimizer, "_master_weights", {})
    for begin, states in kinds.items():
        for name, tensor in states.items():
            weight = by_name[name]
            key = begin + weight.key.removeprefix(MODEL)
            if list(tensor.shape) == list(weight.tensor.shape):
                yield Held(
                    key=key, tensor=tensor, shape=weight.shape, box=weight.box, flat=weight.flat, seam=weight.seam
                )
            else:
                yield Held(key=key, tensor=tensor, shape=tuple(tensor.shape), box=whole(tensor.shape))


def _buffers(step: Step) -> Iterator[Held]:
    """Running statistics and the like; replicas that differ in them are saved as one of them is."""
    for name, tensor in step.part.buffers.items():
        yield Held(key=BUFFER + name, tensor=tensor, shape=tuple(tensor.shape), box=whole(tensor.shape))


def _rows(step: Step) -> Iterator[Held]:
    """What elements remember of each row between steps."""
    for key, element in remembering(step).items():
        tensors = element.row_state
        total = global_rows(step, sum(int(tensor.shape[0]) for tensor in tensors))
        boxes = row_boxes(step, total, tensors[0].shape[1:]) if tensors else []
        for tensor, box in zip(tensors, boxes, strict=True):
            yield Held(key=key, tensor=tensor, shape=(total, *box.shape[1:]), box=box)


def remembering(step: Step) -> dict[str, Any]:
    """The elements that remember something of each row, by key: their `row_state` is a tensor per micro-batch."""
    named = zip(step.part.prefixes, step.part.elements, strict=True)
    return {ROWS + prefix: element for prefix, element in named if hasattr(element, "row_state")}


def row_boxes(step: Step, total: int, rest: Sequence[int]) -> list[Box]:
    """Where the rows of this rank's micro-batches lie among the `total` of the global batch."""
    rows, count = list(step.place.rows) or list(range(total)), step.plan.micro_batches
    size = len(rows) // count
    firsts = rows[::size]
    assert rows == [first + i for first in firsts for i in range(size)], "a micro-batch's rows lie apart"
    return [Box((first, *(0 for _ in rest)), (size, *rest)) for first in firsts]


def global_rows(step: Step, here: int) -> int:
    """Rows of an optimizer step over all replicas; those that are `here` where one process has no plan."""
    return step.plan.job.global_batch or here
