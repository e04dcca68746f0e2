"""ZeRO stage 1: of replicas that share states, each keeps those of its weights, steps on these, and shares them out.

Weights are dealt whole, the largest first to who has least, as fleet deals them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import paddle
import paddle.distributed as dist

from nebula.plan.values import Plan
from nebula.runtime.executor.buckets import buckets
from nebula.runtime.executor.seats import Seat


def sharding_ranks(plan: Plan, seat: Seat) -> tuple[int, ...]:
    """The ranks that share states with a rank, itself among them; itself alone where none does."""
    return next(ranks for ranks in all_sharding_ranks(plan) if seat.rank in ranks)


def all_sharding_ranks(plan: Plan) -> Iterator[tuple[int, ...]]:
    """Every group of ranks that share states, those of one rank too, the same on all ranks."""
    for held in plan.homes:
        stage = plan.stages[held[0]]
        degree = stage.sharding.degree
        for first in range(0, stage.data, degree):
            yield from zip(*(replica.ranks for replica in stage.replicas[first : first + degree]), strict=True)


def dealt(sizes: Mapping[str, int], ranks: Sequence[int]) -> dict[str, int]:
    """The owner of each weight.

    Example:
        >>> dealt({"a": 3, "b": 5, "c": 2}, (4, 6))
        {'b': 4, 'a': 6, 'c': 6}
    """
    load = dict.fromkeys(ranks, 0)
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = min(load, key=lambda rank: (load[rank], rank))
        load[owners[name]] += sizes[name]
    return owners


class Shards:
    """This rank's share of the states of its replica's weights; making one makes the groups, on all ranks together."""

    def __init__(self, plan: Plan, seat: Seat, parameters: Mapping[str, paddle.Tensor]) -> None:
        made = {ranks: dist.new_group(list(ranks)) for ranks in all_sharding_ranks(plan) if len(ranks) > 1}
        self.ranks, self._parameters = sharding_ranks(plan, seat), parameters
        self.group = made.get(self.ranks)
        self.owners = dealt({name: parameter.size for name, parameter in parameters.items()}, self.ranks)
        self._rank = seat.rank

    def owns(self, name: str) -> bool:
        """Whether this rank keeps the states of a weight."""
        return self.owners[name] == self._rank

    @paddle.no_grad()
    def share_out(self) -> None:
        """Every owner sends its weights to the others."""
        for owner in self.ranks:
            held = [p for name, p in self._parameters.items() if self.owners[name] == owner and not p.stop_gradient]
            for bucket in buckets(held, key=lambda p: str(p.dtype), size=lambda p: p.size * p.element_size()):
                flat = paddle.concat([parameter.flatten() for parameter in bucket])
                dist.broadcast(flat, owner, group=self.group)
                if owner != self._rank:
                    parts = paddle.split(flat, [parameter.size for parameter in bucket])
                    for parameter, part in zip(bucket, parts, strict=True):
                        paddle.assign(part.reshape(parameter.shape), parameter)


class ShardedOptimizer:
    """An optimizer of the weights that this rank owns, which then get to all.

    Args:
        inner: of the owned weights alone.
    """

    def __init__(self, inner: Any, shards: Shards, parameters: Mapping[str, paddle.Tensor]) -> None:
        self._inner_opt, self._shards, self._all = inner, shards, tuple(parameters.values())

    def step(self) -> None:
        """One step on the owned weights."""
        self._inner_opt.step()
        self._shards.share_out()

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Drops the gradients of all weights, owned or not."""
        for parameter in self._all:
            parameter.clear_gradient(set_to_zero)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner_opt, name)
