"""A matrix of plans that covers the space of splits by pairs: every two values that go together meet in some plan.

Plans are for the toy chains of 6 elements and 16 rows. No paddle here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, pairwise, product
from math import inf

import numpy as np
import numpy.typing as npt
import toy_plans

from nebula.errors import BadInput
from nebula.plan.job import EXCHANGES
from nebula.plan.layout import FLEET, ORDERS
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
    "sequence": (False, True),
    "context": ("none", *(f"2 by {way}" for way in EXCHANGES)),
    "expert": (1, 2, 4),
}
"""What decides whether a plan can be; values of each axis."""

ORDER_OF_NAME = {", ".join(order[:-1]): order for order in ORDERS}

VARIANTS = {
    "shards": ("all", "half"),
    "virtual stages": ("fewest", "more"),
    "order": tuple(ORDER_OF_NAME),
}
"""What some structures leave open: over how many replicas states are cut, stages on a device, numbers of ranks."""

TRAINING = {
    "recompute": ("none", "selective", "full", "full of one layer", "full of the first stage"),
    "optimizer": ("adamw", "momentum", "tied", "groups", "experts adamw", "experts momentum"),
}
"""What goes with most structures: how much is computed again, and who learns how."""

COARSE = {
    "data": lambda value: value > 1,
    "tensor": lambda value: value > 1,
    "pipeline": lambda value: value > 1,
    "schedule": lambda value: value != "1f1b",
    "sharding": bool,
    "unlike": lambda value: value != "nothing",
    "recompute": lambda value: value != "none",
    "shards": lambda value: value != "all",
    "virtual stages": lambda value: value != "fewest",
    "order": lambda value: ORDER_OF_NAME[value] != FLEET,
    "sequence": bool,
    "context": lambda value: value != "none",
    "expert": lambda value: value > 1,
    "optimizer": lambda value: value.removeprefix("experts ") in ("adamw", "momentum"),
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
        """What the plan is: of fleet's also how its ranks are numbered where that is not fleet's own way."""
        order = str(self.values["order"])
        numbered = f" · ranks by {order}" if ORDER_OF_NAME[order] != FLEET else ""
        return f"{self.plan.engine} · {self.plan.split}{numbered}"


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
    data, devices, unlike, expert = (values[key] for key in ("data", "pipeline", "unlike", "expert"))
    context = 1 if values["context"] == "none" else 2
    tensor = values["tensor"] * context
    schedule = SCHEDULES[values["schedule"]]
    chunks = schedule.chunks[0] + (values["virtual stages"] == "more")
    borders = CUTS.get(devices * chunks, {}).get(values["cut"])
    if borders is None or (unlike == "rows" and (data == 1 or ROWS // values["micro-batches"] // data < 2)):
        return None
    if unlike == "tensor degrees" and (devices == 1 or tensor == 1 or values["sharding"] or context * expert > 1):
        return None
    width, rows = data * tensor, ROWS // values["micro-batches"]
    found = []
    for index, layers in enumerate(pairwise(borders)):
        home = device_of(values["schedule"], index, devices, chunks)
        ranks = tuple(range(home * width, (home + 1) * width))
        count = width if unlike == "tensor degrees" and home % 2 == 0 else data
        degree = _degree(values, count)
        found.append(
            Stage(
                layers=layers,
                replicas=_replicas(ranks, count, rows, unlike),
                sharding=Sharding(stage=values["sharding"], degree=degree),
                context=context,
                exchange=values["context"].rpartition(" ")[2] if context > 1 else EXCHANGES[0],
                expert=expert,
            )
        )
    return tuple(found)


def _degree(values: Mapping[str, object], replicas: int) -> int:
    """Over how many of its replicas a stage cuts states."""
    return (replicas // 2 if values["shards"] == "half" else replicas) if values["sharding"] else 1


def _variants(values: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """What the structure leaves open, wherever that makes a difference."""
    data, pipeline, fleet = values["data"], values["pipeline"], values["engine"] == "fleet"
    open_ = {
        "shards": values["sharding"] and data == 4,
        "virtual stages": SCHEDULES[values["schedule"]].chunks == (2, inf) and pipeline == 2,
        "order": fleet and data > 1 and pipeline > 1,
    }
    for picked in product(*(VARIANTS[axis] if open_[axis] else VARIANTS[axis][:1] for axis in VARIANTS)):
        yield dict(zip(VARIANTS, picked, strict=True))


def _structure(values: Mapping[str, object]) -> Plan | None:
    """The plan of a structure; None where no engine runs one like it."""
    ranks = values["data"] * values["tensor"] * values["pipeline"]
    ranks *= 1 if values["context"] == "none" else 2
    if not 2 <= ranks <= 8 or (values["sharding"] and values["data"] == 1):
        return None
    if values["tensor"] == 4 and values["context"].endswith("ulysses"):  # the toys have 4 heads
        return None
    if values["pipeline"] == 1 and (values["cut"] != "even" or values["schedule"] != "1f1b"):
        return None
    if values["engine"] == "fleet":
        if values["sequence"] or values["context"] != "none" or values["expert"] > 1:
            return None
        borders = CUTS[values["pipeline"]].get(values["cut"])
        if borders is None or values["unlike"] != "nothing" or values["schedule"] != "1f1b":
            return None
        return toy_plans.plan(
            data=values["data"],
            tensor=values["tensor"],
            stages=borders,
            sharding=values["sharding"],
            degree=_degree(values, values["data"]),
            micro_batches=values["micro-batches"],
            order=ORDER_OF_NAME[values["order"]],
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
        like,
        stages=stages,
        ranks=places,
        schedule=values["schedule"],
        micro_batches=values["micro-batches"],
        sequence_parallel=values["sequence"],
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


def _dense(plan: Plan) -> bool:
    """Whether no stage deals experts."""
    return all(stage.expert == 1 for stage in plan.stages)


def _always(plan: Plan) -> bool:
    """Models with experts learn under every plan."""
    del plan
    return True


_LEARNS = {
    "adamw": _dense,
    "momentum": _dense,
    "tied": lambda plan: _dense(plan) and _ties(plan),
    "groups": lambda plan: _dense(plan) and _groups(plan),
}
"""Who can learn under which plans."""


def _again(plan: Plan, how: str) -> Plan:
    """The plan under a recompute policy."""
    policies = {"full of one layer": ("full", 1), "full of the first stage": ("full", 0)}
    policy, layers = policies.get(how, (how, 0))
    among = plan.stages[:1] if how == "full of the first stage" else plan.stages
    again = tuple(replace(stage, recompute=policy, recompute_layers=layers) for stage in among)
    return replace(plan, stages=again + plan.stages[len(again) :])


@cache
def every() -> tuple[tuple[Mapping[str, object], Plan], ...]:
    """All plans of the space with the values of their axes."""
    found = []
    for picked in product(*STRUCTURE.values()):
        values = dict(zip(STRUCTURE, picked, strict=True))
        for variant in _variants(values):
            plan = _structure(values | variant)
            if plan is not None and _runs(plan):
                found += _trained(values | variant, plan)
    return tuple(found)


def _trained(values: Mapping[str, object], plan: Plan) -> Iterator[tuple[Mapping[str, object], Plan]]:
    """The plan with all that may be computed again, under all optimizers that learn with it."""
    for recompute, optimizer in product(*TRAINING.values()):
        again = _again(plan, recompute)
        alone = len(plan.stages) == 1 and recompute == "full of the first stage"
        if not alone and _LEARNS.get(optimizer, _always)(again):
            yield values | {"recompute": recompute, "optimizer": optimizer}, again


def _pairs(values: Sequence[Mapping[str, object]]) -> npt.NDArray[np.int64]:
    """[plans, pairs of axes]: a number for what each two axes of a plan have, another one for each two values."""
    codes = [np.unique([str(own[axis]) for own in values], return_inverse=True)[1] for axis in values[0]]
    columns, before = [], 0
    for one, other in combinations(codes, 2):
        columns.append(before + one * (other.max() + 1) + other)
        before = columns[-1].max() + 1
    return np.stack(columns, axis=1)


def _covering(values: Sequence[Mapping[str, object]], least: int) -> Iterator[int]:
    """Indices of plans in which all pairs of values meet, the next always one with most new pairs.

    Where these are fewer than `least` others follow, in which pairs meet a second time, and so on.
    """
    ids = _pairs(values)
    met = np.zeros(ids.max() + 1, dtype=np.int64)
    times, found = 1, 0
    free = np.ones(len(ids), dtype=np.int64)
    while times == 1 or found < least:
        gains = (met[ids] < times).sum(axis=1) * free
        best = int(gains.argmax())
        if not gains[best]:
            times += 1
            continue
        met[ids[best]] += 1
        free[best], found = 0, found + 1
        yield best


@cache
def rows(count: int = 96) -> tuple[Row, ...]:
    """At least `count` plans: every pair of values that can meet does."""
    plans = sorted(every(), key=lambda pair: pair[1].world_size)  # of plans that add as much the smallest is taken
    chosen = _covering([own for own, _ in plans], count)
    return tuple(Row(f"m{place:02}", *plans[index]) for place, index in enumerate(chosen, 1))


@cache
def dozen() -> tuple[Row, ...]:
    """Plans on 2 and 4 ranks in which every two of COARSE meet, used and unused, where they can."""
    small = [(own, plan) for own, plan in every() if plan.world_size in (2, 4)]
    values = [{axis: used(own[axis]) for axis, used in COARSE.items()} for own, _ in small]
    return tuple(Row(f"d{place:02}", *small[index]) for place, index in enumerate(_covering(values, 12), 1))
