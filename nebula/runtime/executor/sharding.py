"""ZeRO stage 1: of replicas that share states, each keeps those of its weights, steps on these, and shares them out.

Ranks that share a sequence hold the same weights, and share their states too. Weights are dealt whole, the largest
first to who has least, as fleet deals them; a rank's slices of experts among those of them that hold the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

import paddle

from nebula.plan.laws import dealing_groups
from nebula.plan.values import Plan, Replica
from nebula.runtime import circles
from nebula.runtime.executor.buckets import buckets
from nebula.runtime.executor.seats import Seat


def sharding_ranks(plan: Plan, seat: Seat) -> tuple[int, ...]:
    """The ranks that share states with a rank, itself among them; itself alone where none does."""
    return next(ranks for ranks in all_sharding_ranks(plan) if seat.rank in ranks)


def all_sharding_ranks(plan: Plan) -> Iterator[tuple[int, ...]]:
    """Every group of ranks that share states, those of one rank too, the same on all ranks."""
    for held in plan.homes:
        stage = plan.stages[held[0]]
        degree, context = stage.sharding.degree, stage.context if stage.sharding.stage else 1
        for first in range(0, stage.data, degree):
            held_alike = [_held_alike(replica, context) for replica in stage.replicas[first : first + degree]]
            yield from (tuple(chain.from_iterable(same)) for same in zip(*held_alike, strict=True))


def same_heads(plan: Plan, ranks: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Of ranks that share states those at one place of their context groups: under Ulysses they have the same heads."""
    stage = next(stage for stage in plan.stages if ranks[0] in stage.ranks)
    context = stage.context if stage.sharding.stage else 1
    return tuple(ranks[place::context] for place in range(context))


def _held_alike(replica: Replica, context: int) -> list[tuple[int, ...]]:
    """The ranks of a replica by what they hold: those at one place of their tensor groups."""
    width = len(replica.ranks) // context
    return [replica.ranks[place::width] for place in range(width)]


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


def same_experts(plan: Plan, ranks: tuple[int, ...], degree: int) -> dict[int, tuple[int, ...]]:
    """Of ranks that share states those that hold the same experts, by their place in an expert group of `degree`."""
    (ordered,) = {stage.ranks for stage in plan.stages if ranks[0] in stage.ranks}
    places = {rank: place for group in dealing_groups(ordered, degree) for place, rank in enumerate(group)}
    found: dict[int, tuple[int, ...]] = {}
    for rank in ranks:
        found[places[rank]] = (*found.get(places[rank], ()), rank)
    return found


class Shards:
    """This rank's share of the states of its replica's weights; making one makes the groups, on all ranks together.

    Args:
        parameters: what the rank holds, by name in the whole model.
        dealt_over: for those that are slices of experts the size of the expert group.
        by_heads: those of which ranks that share a sequence hold different slices.
    """

    def __init__(
        self,
        plan: Plan,
        seat: Seat,
        parameters: Mapping[str, paddle.Tensor],
        dealt_over: Mapping[str, int] = MappingProxyType({}),
        by_heads: Collection[str] = (),
    ) -> None:
        self._parameters, self._rank = parameters, seat.rank
        self._circles = {ranks: circles.circle(ranks) for ranks in _groups(plan) if len(ranks) > 1}
        ranks = sharding_ranks(plan, seat)
        self._ranks = dict.fromkeys(parameters, ranks)
        for degree in set(dealt_over.values()):
            same = next(s for s in same_experts(plan, ranks, degree).values() if seat.rank in s)
            self._ranks |= {name: same for name in dealt_over if dealt_over[name] == degree}
        heads = next(same for same in same_heads(plan, ranks) if seat.rank in same)
        self._ranks |= dict.fromkeys(by_heads, heads)
        self.owners: dict[str, int] = {}
        for among in sorted(set(self._ranks.values())):
            self.owners |= dealt({n: p.size for n, p in parameters.items() if self._ranks[n] == among}, among)

    @property
    def any(self) -> bool:
        """Whether another rank keeps states of a weight that this one holds, or the other way round."""
        return any(len(ranks) > 1 for ranks in self._ranks.values())

    def ranks(self, name: str) -> tuple[int, ...]:
        """The ranks that share the states of a weight."""
        return self._ranks[name]

    def owns(self, name: str) -> bool:
        """Whether this rank keeps the states of a weight."""
        return self.owners[name] == self._rank

    @paddle.no_grad()
    def share_out(self) -> None:
        """Every owner sends its weights to the others."""
        for ranks in sorted(set(self._ranks.values())):
            for owner in ranks if len(ranks) > 1 else ():
                named = [name for name in self._parameters if (self._ranks[name], self.owners[name]) == (ranks, owner)]
                self._broadcast([self._parameters[name] for name in named], owner, self._circles[ranks])

    def _broadcast(self, parameters: Sequence[paddle.Tensor], owner: int, circle: circles.Circle) -> None:
        """The owner sends weights to a circle, those that are trained."""
        trained = [p for p in parameters if not p.stop_gradient]
        for bucket in buckets(trained, key=lambda p: str(p.dtype), size=lambda p: p.size * p.element_size()):
            flat = paddle.concat([parameter.flatten() for parameter in bucket])
            circle.broadcast(flat, owner)
            if owner != self._rank:
                parts = paddle.split(flat, [parameter.size for parameter in bucket])
                for parameter, part in zip(bucket, parts, strict=True):
                    paddle.assign(part.reshape(parameter.shape), parameter)


def _groups(plan: Plan) -> Iterator[tuple[int, ...]]:
    """All groups that share states of weights, each once, the same on all ranks."""
    found: dict[tuple[int, ...], None] = {}
    for ranks in all_sharding_ranks(plan):
        degrees = {stage.expert for stage in plan.stages if ranks[0] in stage.ranks}
        for degree in sorted({1, *degrees}):
            found |= dict.fromkeys(same_experts(plan, ranks, degree).values())
        found |= dict.fromkeys(same_heads(plan, ranks))
    yield from found


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
