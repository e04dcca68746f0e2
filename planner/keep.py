"""On which devices a new plan's ranks go so that little state moves: who holds a stage keeps as much of it as can be.

Tensor groups stay together: each group of the new plan gets the group of the old one whose state it shares most of, and
only then devices that were idle. Where the tensor degrees differ, devices are taken in the order of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nebula.cluster.values import Cluster
from nebula.plan.values import Plan, RankPlace, Stage
from nebula.planner.holdings import NOWHERE, Floats, Ints
from nebula.planner.moves import Sizes
from nebula.planner.pool import places


class Groups(NamedTuple):
    """Tensor groups, an entry for each.

    Attributes:
        stage: that the group holds.
        replica: of that stage.
        ranks: [groups, tensor] ranks.
    """

    stage: Ints
    replica: Ints
    ranks: Ints


def kept_order(
    before: Plan, found: Ints, stages: Sequence[Stage], pool: Sequence[int], sizes: Sizes
) -> tuple[int, ...]:
    """The device of every rank of new stages.

    Args:
        before: the plan that ran.
        found: the device of each of its ranks, NOWHERE for those that are lost.
        stages: the new ones, all of one tensor degree.
        pool: devices that may be used, in the order in which idle ones are taken.
        sizes: of the layers.
    """
    new, widths = _groups(stages), {len(replica.ranks) for stage in before.stages for replica in stage.replicas}
    if widths != {new.ranks.shape[1]}:
        return tuple(pool[: new.ranks.size])
    old = _groups(before.stages)
    # a device with several stages offers itself once
    first = np.isin(np.arange(len(old.ranks)), np.unique(found[old.ranks[:, 0]], return_index=True)[1])
    whole = np.isin(found[old.ranks], pool).all(axis=1) & first
    held = found[old.ranks][whole]
    spare = _idle(pool, held, new.ranks.shape[1])
    old = Groups(old.stage[whole], old.replica[whole], held)
    return _ordered(
        new,
        np.concatenate([held, spare]),
        _chosen(new, old, _worth(before.stages, stages, old, new, sizes), len(spare)),
    )


def _ordered(new: Groups, offered: Ints, chosen: Ints) -> tuple[int, ...]:
    devices = np.empty(new.ranks.size, dtype=np.int64)
    devices[new.ranks] = offered[chosen]
    return tuple(devices.tolist())


def _groups(stages: Sequence[Stage]) -> Groups:
    each = [(s, r, replica.ranks) for s, stage in enumerate(stages) for r, replica in enumerate(stage.replicas)]
    stage, replica, ranks = zip(*each, strict=True)
    return Groups(np.array(stage), np.array(replica), np.array(ranks))


def _idle(pool: Sequence[int], held: Ints, tensor: int) -> Ints:
    """[groups, tensor] devices of the pool that hold no whole group, in its order."""
    rest = np.array(pool)[~np.isin(pool, held)]
    return rest[: len(rest) // tensor * tensor].reshape(-1, tensor)


def _worth(before: Sequence[Stage], after: Sequence[Stage], old: Groups, new: Groups, sizes: Sizes) -> Floats:
    """[new, old] bytes that a new group finds on an old one."""
    weights, states = _layers_alike(before, after, sizes)
    of_states = _shards_alike(before, after, old, new, least=1)
    of_weights = _shards_alike(before, after, old, new, least=3)
    pair = np.ix_(new.stage, old.stage)
    worth: Floats = weights[pair] * of_weights + states[pair] * of_states
    return worth


def _layers_alike(before: Sequence[Stage], after: Sequence[Stage], sizes: Sizes) -> tuple[Floats, Floats]:
    """[after, before] bytes of weights and of states of the layers that stages have in common."""
    elements = np.add(sizes.cut, sizes.whole)
    sums = np.concatenate(
        [[[0.0], [0.0]], np.cumsum([elements * sizes.weights_bytes, elements * sizes.states_bytes], 1)], 1
    )
    (a_first, a_end), (b_first, b_end) = (np.array([s.layers for s in stages]).T for stages in (after, before))
    first = np.maximum(a_first[:, None], b_first)
    end = np.maximum(np.minimum(a_end[:, None], b_end), first)
    weights, states = sums[:, end] - sums[:, first]
    return weights, states


def _shards_alike(before: Sequence[Stage], after: Sequence[Stage], old: Groups, new: Groups, *, least: int) -> Floats:
    """[new, old] the part of a stage that both hold of what sharding cuts from stage `least` on."""
    (new_low, new_high), (old_low, old_high) = _shard(after, new, least), _shard(before, old, least)
    common: Floats = np.minimum(new_high[:, None], old_high) - np.maximum(new_low[:, None], old_low)
    return common.clip(min=0.0)


def _shard(stages: Sequence[Stage], groups: Groups, least: int) -> tuple[Floats, Floats]:
    degrees = np.array([s.sharding.degree if s.sharding.stage >= least else 1 for s in stages])[groups.stage]
    index = groups.replica % degrees
    return index / degrees, (index + 1) / degrees


def _chosen(new: Groups, old: Groups, worth: Floats, spares: int) -> Ints:
    """For each new group an old one or, behind these, an idle one: who may stay stays, then the most bytes first."""
    worth = np.hstack([worth, np.zeros((len(worth), spares))])
    own = {(s, r): k for k, (s, r) in enumerate(zip(old.stage.tolist(), old.replica.tolist(), strict=True))}
    stays = [own.get(place, NOWHERE) for place in zip(new.stage.tolist(), new.replica.tolist(), strict=True)]
    chosen, free = np.full(len(worth), NOWHERE), np.ones(worth.shape[1], dtype=bool)
    best = worth.max(axis=1)
    for group, at in enumerate(stays):
        if at != NOWHERE and worth[group, at] >= best[group] * (1 - 1e-12):
            chosen[group], free[at] = at, False
    for group in sorted(np.flatnonzero(chosen == NOWHERE).tolist(), key=lambda g: -best[g]):
        at = int(np.where(free, worth[group], -1.0).argmax())
        assert free[at], "more groups than devices"
        chosen[group], free[at] = at, False
    return chosen


def substituted(before: Plan, found: Ints, cluster: Cluster, pool: Sequence[int]) -> Iterator[Plan]:
    """The same plan with idle devices in the place of lost ones, where there are enough.

    What was on one node goes to one node as far as idle devices lie so.
    """
    lost, used = np.flatnonzero(~np.isin(found, pool)), set(found.tolist())
    idle = [device for device in pool if device not in used]
    if len(lost) > len(idle):
        return
    fresh = dict(zip(lost.tolist(), places(cluster, idle), strict=False))
    ranks: Iterator[RankPlace] = (fresh.get(rank, place) for rank, place in enumerate(before.ranks))
    yield replace(before, ranks=tuple(ranks))
