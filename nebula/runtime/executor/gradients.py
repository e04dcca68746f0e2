"""Sums of gradients over all holders of a slice, and the clip by a global norm that counts every slice once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime import circles
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
        told: list[tuple[Owner, list[Holding]]] = circles.from_all((owner, mine), dist.get_world_size())
        owners: dict[int, Owner] = {rank: (home, replica) for rank, ((home, replica), _) in enumerate(told)}
        held = {rank: [Holding(*holding) for holding in holdings] for rank, (_, holdings) in enumerate(told)}
        everywhere, self._rank = slices(held, owners), dist.get_rank()
        made = {ranks: circles.circle(ranks) for ranks in _shared(everywhere)}
        self._circles = {ranks: circle for ranks, circle in made.items() if self._rank in ranks}
        self._everyone = circles.everyone(len(told))
        self._parts = [(_Part(*parameters[piece.name], piece)) for piece in everywhere[self._rank]]
        self._norms: paddle.Tensor | None = None

    @paddle.no_grad()
    def add_up(self) -> None:
        """Leaves in every parameter that this rank steps on the sum of the gradients of all holders."""
        self._norms = None
        for bucket in self._buckets():
            ranks, to = bucket[0].slice.ranks, self._to(bucket[0])
            flat = paddle.concat([part.weighted() for part in bucket])
            if to is None:
                self._circles[ranks].all_reduce(flat)
            else:
                self._circles[ranks].reduce(flat, to)
            if to in (None, self._rank):
                for part, summed in zip(bucket, paddle.split(flat, [part.size for part in bucket]), strict=True):
                    part.write(summed)

    @paddle.no_grad()
    def norms(self, groups: Mapping[str, int]) -> paddle.Tensor:
        """For each group of the optimizer the norm of its gradients that are clipped, every slice counted once.

        All ranks ask once a step, whichever groups they hold weights of.

        Args:
            groups: name of a weight that is trained -> index of its group.
        """
        if self._norms is None:
            mine = [part for part in self._parts if self._shards.owns(part.slice.name)]
            trained = [part for part in mine if part.slice.name in groups and part.clipped]
            count = 1 + max(groups.values(), default=0)
            squares = [self._square(p for p in trained if groups[p.slice.name] == index) for index in range(count)]
            self._norms = squares[0] if count == 1 else paddle.concat(squares)
            self._everyone.all_reduce(self._norms)
            self._norms = self._norms.sqrt()
        return self._norms

    def _square(self, parts: Iterable[_Part]) -> paddle.Tensor:
        """This rank's share of the square of the norm of some slices, shape [1]."""
        clipped = list(parts)
        if not clipped:
            return paddle.zeros([1])
        squares = paddle.concat([paddle._C_ops.squared_l2_norm(part.read()).reshape([1]) for part in clipped])
        # of the copies in a group that shares states one counts: the owner's
        shares = [len(self._shards.ranks(part.slice.name)) / part.slice.copies for part in clipped]
        return (squares * paddle.to_tensor(shares, dtype=squares.dtype)).sum().astype("float32").reshape([1])

    def _to(self, part: _Part) -> int | None:
        """The rank that alone gets a slice's sum: its owner, where all that sum it share states; None: all get it."""
        sharing = part.slice.ranks == tuple(sorted(self._shards.ranks(part.slice.name)))
        return self._shards.owners[part.slice.name] if sharing else None

    def _buckets(self) -> list[list[_Part]]:
        """What is summed together, in the same order on all ranks of a group; frozen weights have no gradient."""
        shared = (p for p in self._parts if len(p.slice.ranks) > 1 and not p.parameter.stop_gradient)
        parts = sorted(shared, key=lambda part: part.slice[:4])
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

    @property
    def clipped(self) -> bool:
        """Whether a clip by norm scales it."""
        return self.parameter.grad is not None and getattr(self.parameter, "need_clip", True)

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


def check_clips(optimizer: Any) -> None:
    """Refuses clips of a whole optimizer, before it is cut, that ranks cannot carry out together.

    Raises:
        BadInput: a clip needs whole tensors, of which a rank holds a part, or only some groups clip by a norm.
    """
    clips = [group["grad_clip"] for group in _grouped(optimizer)] or [optimizer._grad_clip]
    for clip in clips:
        if clip is not None and type(clip) not in (nn.ClipGradByGlobalNorm, nn.ClipGradByValue):
            raise BadInput(
                f"the executor clips by global norm or by value, not by {type(clip).__name__}: it may cut a tensor"
            )
    if len({_by_norm(clip) for clip in clips}) > 1:
        raise BadInput(
            "the executor clips all groups of an optimizer by global norm or none: give each group such a clip"
        )


def clip_over_slices(optimizer: Any, gradients: Gradients, groups: Mapping[str, int]) -> None:
    """Makes the optimizer's global-norm clips, one for each of its groups, count every slice of the model once.

    Args:
        optimizer: of this rank's parameters.
        groups: name of a weight of the whole model that is trained -> index of its group; the same on all ranks.
    """

    def spread(clip: Any, index: int) -> Any:
        return _GlobalNorm(clip.clip_norm, gradients, groups, index) if _by_norm(clip) else clip

    for index, group in enumerate(_grouped(optimizer)):
        group["grad_clip"] = spread(group["grad_clip"], index)
    optimizer._grad_clip = spread(optimizer._grad_clip, 0)


def _by_norm(clip: Any) -> bool:
    return isinstance(clip, nn.ClipGradByGlobalNorm)


def _grouped(optimizer: Any) -> list[dict[str, Any]]:
    """The optimizer's groups of parameters; none where it has one list of them."""
    return [group for group in optimizer._param_groups if isinstance(group, dict)]


class _GlobalNorm:
    """The clip of a group of an optimizer, by the norm over all ranks."""

    def __init__(self, clip_norm: float, gradients: Gradients, groups: Mapping[str, int], index: int) -> None:
        self.clip_norm, self._gradients, self._groups, self._index = clip_norm, gradients, groups, index

    @paddle.no_grad()
    def __call__(self, params_grads: list[tuple[paddle.Tensor, paddle.Tensor]]) -> list[Any]:
        """Scales the gradients in place so that their norm over all ranks is at most `clip_norm`."""
        norm = self._gradients.norms(self._groups)[self._index : self._index + 1]
        scale = self.clip_norm / norm.clip(min=self.clip_norm)
        for parameter, gradient in params_grads:
            if gradient is not None and getattr(parameter, "need_clip", True):
                gradient.multiply_(scale.astype(gradient.dtype))
        return params_grads
