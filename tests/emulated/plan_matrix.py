"""A matrix of plans that covers the space of splits by pairs: every two values that go together meet in some plan.

Plans are for the toy chains of 6 elements and 16 rows. No paddle here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, pairwise, product

import toy_plans

from nebula.errors import BadInput
from nebula.plan.legality import executable, violations
from nebula.plan.schedule import SCHEDULES, device_of
from nebula.plan.values import Plan, RankPlace, Replica, Sharding, Stage

LAYERS, ROWS = 6, 16
CUTS = {
    1: {"even": (0, 6)},
    2: {"even": (0, 3, 6), "uneven": (0, 2, 6)},
    3: {"even": (0, 2, 4, 6), "uneven": (0, 1, 3, 6)},
    4: {"uneven": (0, 1, 3, 4, 6)},
    6: {"even": tuple(range(7))},
}
"""Borders of that many stages."""

STRUCTURE = {
    "engine": ("fleet", "executor"),
    "data": (1, 2, 4),
    "tensor": (1, 2, 4),
    "pipeline": (1, 2, 3, 4),
    "cut": ("even", "uneven"),
    "schedule": tuple(name for name, schedule in SCHEDULES.items() if schedule.chains == 1),
    "sharding": (0, 1, 2, 3),
    "micro-batches": (2, 4),
    "unlike": ("nothing", "rows", "tensor degrees"),
}
"""What decides whether a plan can be; values of each axis."""

TRAINING = {
    "recompute": ("none", "selective", "full", "full of one layer"),
    "optimizer": ("adamw", "momentum", "tied", "groups"),
}
"""What goes with every structure, but for weights that a tensor group would have to cut twice."""

COARSE = {
    "data": lambda value: value > 1,
    "tensor": lambda value: value > 1,
    "pipeline": lambda value: value > 1,
    "schedule": lambda value: value != "1f1b",
    "sharding": bool,
    "unlike": lambda value: value != "nothing",
    "recompute": lambda value: value != "none",
    "optimizer": lambda value: value in ("adamw", "momentum"),
}
"""Axes of the dozen, each with whether something is used."""


@dataclass(frozen=True)
class Row:
    """One plan of the matrix: the values of its axes, and the optimizer that it trains with."""

    name: str
    values: Mapping[str, object]
    plan: Plan

    @property
    def optimizer(self) -> str:
        return str(self.values["optimizer"])

    @property
    def words(self) -> str:
        return f"{self.plan.engine} · {self.plan.split} · {self.optimizer}"


def _replicas(ranks: tuple[int, ...], count: int, rows: int, unlike: str) -> tuple[Replica, ...]:
    """`count` replicas of the ranks of a stage, which share `rows` evenly or 3 : 1 within each pair."""
    width = len(ranks) // count
    each = rows // count
    own = [each] * count
    if unlike == "rows":
        own = [(3 * each // 2 if index % 2 == 0 else each - each // 2) for index in range(count)]
    return tuple(
        Replica(ranks=ranks[i * width : (i + 1) * width], tensor_shares=(1,) * width, micro_batch_rows=own[i])
        for i in range(count)
    )


def _stages(values: Mapping[str, object]) -> tuple[Stage, ...] | None:
    """The stages of a plan that the executor runs; None where there are none like it."""
    data, tensor, devices, unlike = (values[key] for key in ("data", "tensor", "pipeline", "unlike"))
    schedule = SCHEDULES[values["schedule"]]
    chunks = schedule.chunks[0]
    borders = CUTS.get(devices * chunks, {}).get(values["cut"])
    if borders is None or (unlike == "rows" and (data == 1 or ROWS // values["micro-batches"] // data < 2)):
        return None
    if unlike == "tensor degrees" and (devices == 1 or chunks > 1 or tensor == 1 or values["sharding"]):
        return None
    width, rows = data * tensor, ROWS // values["micro-batches"]
    found = []
    for index, layers in enumerate(pairwise(borders)):
        home = device_of(values["schedule"], index, devices, chunks)
        ranks = tuple(range(home * width, (home + 1) * width))
        count = width if unlike == "tensor degrees" and home % 2 == 0 else data
        degree = count if values["sharding"] else 1
        found.append(
            Stage(
                layers=layers,
                replicas=_replicas(ranks, count, rows, unlike),
                sharding=Sharding(stage=values["sharding"], degree=degree),
            )
        )
    return tuple(found)


def _structure(values: Mapping[str, object]) -> Plan | None:
    """The plan of a structure; None where no engine runs one like it."""
    ranks = values["data"] * values["tensor"] * values["pipeline"]
    if not 2 <= ranks <= 8 or (values["sharding"] and values["data"] == 1):
        return None
    if values["pipeline"] == 1 and (values["cut"] != "even" or values["schedule"] != "1f1b"):
        return None
    if values["engine"] == "fleet":
        borders = CUTS[values["pipeline"]].get(values["cut"])
        if borders is None or values["unlike"] != "nothing" or values["schedule"] != "1f1b":
            return None
        return toy_plans.plan(
            data=values["data"],
            tensor=values["tensor"],
            stages=borders,
            sharding=values["sharding"],
            degree=values["data"] if values["sharding"] else 1,
            micro_batches=values["micro-batches"],
        )
    try:
        stages = _stages(values)
    except BadInput:
        return None
    if stages is None:
        return None
    places = tuple(RankPlace("host/0", rank) for rank in range(ranks))
    like = toy_plans.unlike(((0, 6), [((0,), ROWS)]), micro_batches=1)
    return replace(
        like, stages=stages, ranks=places, schedule=values["schedule"], micro_batches=values["micro-batches"]
    )


def _runs(plan: Plan) -> bool:
    """Whether the plan is legal and its own engine runs it."""
    try:
        lawful = not violations(plan, layers=LAYERS, cluster=None)
    except BadInput:
        return False
    return lawful and executable(plan, "emulated").engine == plan.engine


def _ties(plan: Plan) -> bool:
    """Whether its stages can share the embedding's table: no tensor group holds both users, fleet no border between."""
    first, last = plan.stages[0], plan.stages[-1]
    if first.sharding.stage == 2 and first.recompute != "none":
        return False
    if first.ranks == last.ranks:
        return max(len(replica.ranks) for replica in first.replicas) == 1
    return plan.engine == "executor"


def _groups(plan: Plan) -> bool:
    """Whether an optimizer may have groups."""
    return plan.engine == "executor" or plan.stages[0].sharding.stage in (0, 2)


def _again(plan: Plan, how: str) -> Plan:
    """The plan under a recompute policy."""
    policy, layers = ("full", 1) if how == "full of one layer" else (how, 0)
    return replace(
        plan, stages=tuple(replace(stage, recompute=policy, recompute_layers=layers) for stage in plan.stages)
    )


@cache
def every() -> tuple[tuple[Mapping[str, object], Plan], ...]:
    """All plans of the space with the values of their axes."""
    found = []
    for picked in product(*STRUCTURE.values()):
        values = dict(zip(STRUCTURE, picked, strict=True))
        plan = _structure(values)
        if plan is None or not _runs(plan):
            continue
        for recompute, optimizer in product(*TRAINING.values()):
            again = _again(plan, recompute)
            if (optimizer != "tied" or _ties(again)) and (optimizer != "groups" or _groups(again)):
                found.append((values | {"recompute": recompute, "optimizer": optimizer}, again))
    return tuple(found)


def _tuples(values: Mapping[str, object], size: int) -> frozenset[object]:
    """What of `size` values meets in a plan."""
    return frozenset(combinations(sorted(values.items()), size))


def _covering(values: list[Mapping[str, object]], size: int, chosen: list[int], enough: float) -> Iterator[int]:
    """Indices of plans, each of which adds most tuples of `size` values to those of `chosen`; the first of several."""
    holds = [_tuples(own, size) for own in values]
    missing = frozenset.union(*holds) - frozenset().union(*(holds[i] for i in chosen))
    gains = {index: len(held) for index, held in enumerate(holds)}
    while missing and enough > 0:
        best, most = -1, 0
        for index in sorted(gains, key=gains.__getitem__, reverse=True):  # gains only shrink: old ones are bounds
            if gains[index] <= most:
                break
            gains[index] = len(holds[index] & missing)
            if gains[index] > most:
                best, most = index, gains[index]
        missing -= holds[best]
        enough -= 1
        yield best


@cache
def rows(count: int = 64) -> tuple[Row, ...]:
    """At least `count` plans: every pair of values that can meet does, then as many triples as fit."""
    plans = sorted(every(), key=lambda pair: pair[1].world_size)  # of plans that add as much the smallest is taken
    values = [own for own, _ in plans]
    chosen = list(_covering(values, 2, [], float("inf")))
    chosen += _covering(values, 3, chosen, count - len(chosen))
    return tuple(Row(f"m{place:02}", *plans[index]) for place, index in enumerate(chosen, 1))


@cache
def dozen() -> tuple[Row, ...]:
    """Plans on 2 and 4 ranks in which every two of COARSE meet, used and unused, where they can."""
    small = [(own, plan) for own, plan in every() if plan.world_size in (2, 4)]
    values = [{axis: used(own[axis]) for axis, used in COARSE.items()} for own, _ in small]
    return tuple(Row(f"d{place:02}", *small[i]) for place, i in enumerate(_covering(values, 2, [], float("inf")), 1))
