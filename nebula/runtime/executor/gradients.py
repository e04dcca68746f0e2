"""Sums of gradients over all holders of a slice, and the clip by a global norm that counts every slice once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime.executor.holdings import Holding, Owner, Slice, slices

BUCKET_BYTES = 128 * 2**20
"""Gradients that travel together; as large as fleet's fused buffers."""


class Gradients:
    """The gradients of one rank's parameters; making one makes the groups, which all ranks do together.

    Args:
        parameters: by name in the whole model, with what the rank holds of each.
        owner: the rank's replica.
    """

    def __init__(self, parameters: dict[str, tuple[paddle.Tensor, Holding]], owner: Owner) -> None:
        self.parameters = parameters
        mine = [holding for _, holding in parameters.values()]
        told: list[tuple[Owner, list[Holding]]] = []
        dist.all_gather_object(told, (owner, mine))
        owners: dict[int, Owner] = {rank: (home, replica) for rank, ((home, replica), _) in enumerate(told)}
        held = {rank: [Holding(*holding) for holding in holdings] for rank, (_, holdings) in enumerate(told)}
        everywhere, rank = slices(held, owners), dist.get_rank()
        made = {ranks: dist.new_group(list(ranks)) for ranks in _shared(everywhere)}
        self._groups = {ranks: group for ranks, group in made.items() if rank in ranks}
        self._parts = [(_Part(*parameters[piece.name], piece)) for piece in everywhere[rank]]

    @paddle.no_grad()
    def add_up(self) -> None:
        """Leaves in every parameter the sum of the gradients of all holders."""
        for ranks, parts in self._buckets():
            flat = paddle.concat([part.weighted() for part in parts])
            dist.all_reduce(flat, group=self._groups[ranks])
            for part, summed in zip(parts, paddle.split(flat, [part.size for part in parts]), strict=True):
                part.write(summed)

    @paddle.no_grad()
    def norm(self) -> paddle.Tensor:
        """The norm of all gradients of the model that are clipped, every slice counted once."""
        clipped = [p for p in self._parts if p.parameter.grad is not None and getattr(p.parameter, "need_clip", True)]
        square = paddle.zeros([1])
        if clipped:
            squares = paddle.concat([paddle._C_ops.squared_l2_norm(part.read()).reshape([1]) for part in clipped])
            shares = paddle.to_tensor([1.0 / part.slice.copies for part in clipped], dtype=squares.dtype)
            square = (squares * shares).sum().astype("float32").reshape([1])
        dist.all_reduce(square)
        return square.sqrt()

    def _buckets(self) -> list[tuple[tuple[int, ...], list[_Part]]]:
        """What is summed together, in the same order on all ranks of a group."""
        by_group: dict[tuple[tuple[int, ...], Any], list[list[_Part]]] = defaultdict(list)
        room: dict[tuple[tuple[int, ...], Any], int] = defaultdict(int)
        for part in sorted(self._parts, key=lambda part: part.slice[:4]):
            if len(part.slice.ranks) == 1:
                continue
            part.need_gradient()
            key = part.slice.ranks, str(part.parameter.grad.dtype)
            if room[key] < part.bytes:
                by_group[key].append([])
                room[key] = BUCKET_BYTES
            by_group[key][-1].append(part)
            room[key] -= part.bytes
        return [(ranks, parts) for (ranks, _), buckets in sorted(by_group.items()) for parts in buckets]


def _shared(everywhere: dict[int, list[Slice]]) -> list[tuple[int, ...]]:
    """All groups of several ranks that sum something."""
    return sorted({piece.ranks for pieces in everywhere.values() for piece in pieces if len(piece.ranks) > 1})


class _Part:
    """A slice of the gradient of a parameter."""

    def __init__(self, parameter: paddle.Tensor, holding: Holding, piece: Slice) -> None:
        self.parameter, self.slice = parameter, piece
        self._whole = holding.dim < 0 and piece.dim < 0
        offset = holding.first if holding.dim >= 0 else 0
        self._span = piece.first - offset, piece.last - offset
        self._whole |= piece.dim >= 0 and self._span == (0, parameter.shape[piece.dim])
        self.shape = list(parameter.shape)
        if not self._whole:
            self.shape[piece.dim] = piece.last - piece.first
        self.size = 1
        for length in self.shape:
            self.size *= length
        self.bytes = self.size * 4

    def need_gradient(self) -> None:
        """A parameter that no loss reached here has a gradient of zeros."""
        if self.parameter.grad is None:
            self.parameter.grad = paddle.zeros_like(self.parameter)

    def read(self) -> paddle.Tensor:
        """The slice, flat."""
        gradient = self.parameter.grad
        return (
            gradient if self._whole else paddle.slice(gradient, [self.slice.dim], *map(_list, self._span))
        ).flatten()

    def weighted(self) -> paddle.Tensor:
        """The slice as it counts in the sum."""
        return self.read() if self.slice.weight == 1.0 else self.read() * self.slice.weight

    def write(self, flat: paddle.Tensor) -> None:
        """Puts a flat slice back."""
        value = flat.reshape(self.shape)
        if self._whole:
            paddle.assign(value, self.parameter.grad)
            return
        index = tuple(slice(*self._span) if dim == self.slice.dim else slice(None) for dim in range(len(self.shape)))
        self.parameter.grad[index] = value


def _list(value: int) -> list[int]:
    return [value]


def clip_over_slices(optimizer: Any, gradients: Gradients) -> None:
    """Makes the optimizer's global-norm clip count every slice of the model once.

    Raises:
        BadInput: it clips each tensor by its own norm, of which a rank holds a part.
    """
    clip = optimizer._grad_clip
    if isinstance(clip, nn.ClipGradByNorm):
        raise BadInput(
            "the executor clips by global norm or by value, not by the norm of each tensor, which it may cut"
        )
    if isinstance(clip, nn.ClipGradByGlobalNorm):
        optimizer._grad_clip = _GlobalNorm(clip.clip_norm, gradients)


class _GlobalNorm:
    """The clip of an optimizer, by the norm over all ranks."""

    def __init__(self, clip_norm: float, gradients: Gradients) -> None:
        self.clip_norm, self._gradients = clip_norm, gradients

    @paddle.no_grad()
    def __call__(self, params_grads: list[tuple[paddle.Tensor, paddle.Tensor]]) -> list[Any]:
        """Scales the gradients in place so that their norm over all ranks is at most `clip_norm`."""
        scale = self.clip_norm / self._gradients.norm().clip(min=self.clip_norm)
        for parameter, gradient in params_grads:
            if gradient is not None and getattr(parameter, "need_clip", True):
                gradient.multiply_(scale.astype(gradient.dtype))
        return params_grads
