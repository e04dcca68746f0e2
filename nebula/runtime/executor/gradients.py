"""Sums of gradients over all holders of a slice, and the clip by a global norm that counts every slice once."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime.executor.buckets import buckets
from nebula.runtime.executor.holdings import Holding, Owner, Slice, slices
from nebula.runtime.executor.sharding import Shards


class Gradients:
    """The gradients of one rank's parameters; making one makes the groups, which all ranks do together.

    Args:
        parameters: by name in the whole model, with what the rank holds of each.
        owner: the rank's replica.
        shards: who keeps which states.
    """

    def __init__(self, parameters: dict[str, tuple[paddle.Tensor, Holding]], owner: Owner, shards: Shards) -> None:
        self.parameters, self._shards = parameters, shards
        mine = [holding for _, holding in parameters.values()]
        told: list[tuple[Owner, list[Holding]]] = []
        dist.all_gather_object(told, (owner, mine))
        owners: dict[int, Owner] = {rank: (home, replica) for rank, ((home, replica), _) in enumerate(told)}
        held = {rank: [Holding(*holding) for holding in holdings] for rank, (_, holdings) in enumerate(told)}
        everywhere, self._rank = slices(held, owners), dist.get_rank()
        made = {ranks: dist.new_group(list(ranks)) for ranks in _shared(everywhere)}
        self._groups = {ranks: group for ranks, group in made.items() if self._rank in ranks}
        self._parts = [(_Part(*parameters[piece.name], piece)) for piece in everywhere[self._rank]]

    @paddle.no_grad()
    def add_up(self) -> None:
        """Leaves in every parameter that this rank steps on the sum of the gradients of all holders."""
        for bucket in self._buckets():
            ranks, to = bucket[0].slice.ranks, self._to(bucket[0])
            flat = paddle.concat([part.weighted() for part in bucket])
            if to is None:
                dist.all_reduce(flat, group=self._groups[ranks])
            else:
                dist.reduce(flat, to, group=self._groups[ranks])
            if to in (None, self._rank):
                for part, summed in zip(bucket, paddle.split(flat, [part.size for part in bucket]), strict=True):
                    part.write(summed)

    @paddle.no_grad()
    def norm(self) -> paddle.Tensor:
        """The norm of all gradients of the model that are clipped, every slice counted once."""
        clipped = [
            part
            for part in self._parts
            if self._shards.owns(part.slice.name)
            and part.parameter.grad is not None
            and getattr(part.parameter, "need_clip", True)
        ]
        square = paddle.zeros([1])
        if clipped:
            squares = paddle.concat([paddle._C_ops.squared_l2_norm(part.read()).reshape([1]) for part in clipped])
            # of the copies in a group that shares states one counts: the owner's
            shares = [len(self._shards.ranks) / part.slice.copies for part in clipped]
            square = (squares * paddle.to_tensor(shares, dtype=squares.dtype)).sum().astype("float32").reshape([1])
        dist.all_reduce(square)
        return square.sqrt()

    def _to(self, part: _Part) -> int | None:
        """The rank that alone gets a slice's sum: its owner, where all that sum it share states; None: all get it."""
        sharing = part.slice.ranks == tuple(sorted(self._shards.ranks))
        return self._shards.owners[part.slice.name] if sharing else None

    def _buckets(self) -> list[list[_Part]]:
        """What is summed together, in the same order on all ranks of a group."""
        parts = sorted((p for p in self._parts if len(p.slice.ranks) > 1), key=lambda part: part.slice[:4])
        for part in parts:
            part.need_gradient()
        found = buckets(
            parts,
            key=lambda p: (p.slice.ranks, str(p.parameter.grad.dtype), self._to(p)),
            size=lambda p: p.size * p.parameter.grad.element_size(),
        )
        return sorted(found, key=lambda bucket: bucket[0].slice.ranks)


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
