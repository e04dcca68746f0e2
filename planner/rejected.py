"""What a search left out, rule by rule: how many, and the smallest change that would admit one of them.

Counts are those of the search; numbers of replicas that do not divide the batch it never lists, so they are counted
here. Changes are computed, not guessed: the leanest split that does not fit, the next batch, node or cluster size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from nebula.errors import BadInput, Infeasible
from nebula.plan.values import Sharding
from nebula.planner.contradiction import multiples
from nebula.planner.engines import FEW, missing
from nebula.planner.fullest import changes, fullest
from nebula.planner.infeasible import describe
from nebula.planner.leanest import cutting, leanest_above, shape_fault
from nebula.planner.search import Answer
from nebula.planner.setting import Setting
from nebula.planner.sites import site_words
from nebula.planner.space import RULES, Split, divisors, tensor_degrees
from nebula.units import format_seconds

WIDEST_NODE = 8
"""Nodes of up to so many times their devices are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The candidates that one rule left out.

    Attributes:
        rule: of nebula.planner.space.RULES.
        count: how many.
        counted: what was counted: `splits`, `tensor degrees`, `numbers of replicas`, `fixed degrees`.
        meaning: of the rule.
        facts: sentences about those nearest to being admitted.
        remedies: the smallest changes that would admit one; none where no change of what was given does.
    """

    rule: str
    count: int
    counted: str
    meaning: str
    facts: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()

    @property
    def amount(self) -> str:
        """`1,759 splits`, `1 number of replicas`."""
        return f"{self.count:,} {self.counted if self.count != 1 else _SINGULAR[self.counted]}"


def rejections(setting: Setting, answer: Answer, *, search: bool = True) -> tuple[Rejection, ...]:
    """A row for each rule that left something out, most first.

    Args:
        search: whether to search for the best plan without each fixed degree; each takes a search.
    """
    if answer.plan.engine == "executor":
        return _of_sets(answer)
    fixed, unlisted = setting.objective.fixed, _undividing(setting)
    counts = {
        **({"batch": len(unlisted)} if unlisted else {}),
        **({"fixed": len(fixed)} if fixed else {}),
        **answer.cut,
    }
    rows = []
    for rule, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        about = _ABOUT if search else {**_ABOUT, "fixed": _fixed_only}
        facts, remedies = about.get(rule, _unexplained)(setting, answer)
        rows.append(
            Rejection(
                rule=rule,
                count=count,
                counted=_COUNTED.get(rule, "splits") if rule != "fixed" or rule in answer.cut else "fixed degrees",
                meaning=RULES.get(rule, rule),
                facts=tuple(facts),
                remedies=tuple(remedies),
            )
        )
    return tuple(rows)


def _of_sets(answer: Answer) -> tuple[Rejection, ...]:
    """What a search of the executor's space left out: sets of ways, of which each is counted once."""
    return tuple(
        Rejection(rule=rule, count=count, counted="sets of ways", meaning=RULES.get(rule, rule))
        for rule, count in sorted(answer.cut.items(), key=lambda pair: -pair[1])
    )


Words = tuple[list[str], list[str]]
"""Facts and remedies."""


def _devices(setting: Setting, answer: Answer) -> Words:
    """The next number of devices with which a larger split can be laid out."""
    del answer
    limits, job = setting.limits, setting.prices.job
    data = sorted({d for d in divisors(job.global_batch) if limits.allows("data", d)})
    found: tuple[int, int, int, int] | None = None
    for tensor in cutting(setting):
        for d in data:
            pipeline = limits.devices // (tensor * d) + 1
            if pipeline <= limits.layers and limits.allows("pipeline", pipeline):
                one = (tensor * d * pipeline, d, tensor, pipeline)
                found = min(found or one, one)
    if found is None:
        return [], []
    ranks, d, tensor, pipeline = found
    more = ranks - limits.devices
    return [], [
        f"{more:,} more device{'s' if more > 1 else ''} ({ranks:,}) would admit data {d}, tensor {tensor}, "
        f"pipeline {pipeline}"
    ]


def _node(setting: Setting, answer: Answer) -> Words:
    """The next size of nodes whose devices a further tensor degree divides."""
    del answer
    limits = setting.limits
    here = limits.devices_per_node
    left = [t for t in range(2, here) if here % t and not shape_fault(setting, t)]
    uncut = [t for t in range(2, here) if here % t and t not in left]
    facts = [f"the model cannot be cut by tensor {_listed(uncut)} either"] if uncut else []
    for size in range(here + 1, WIDEST_NODE * here + 1):
        new = [t for t in divisors(size) if here % t and t <= size and not shape_fault(setting, t)]
        if new:
            facts.append(f"objective.fixed.tensor={new[0]} prices it all the same, over several nodes if it must")
            return facts, [f"nodes of {size} devices would admit tensor {new[0]}"]
    return facts, []


def _shape(setting: Setting, answer: Answer) -> Words:
    """What the partition says of the smallest degree that does not divide, and which degrees do."""
    del answer
    facts = []
    for tensor in tensor_degrees(setting.limits, Counter()):
        fault = shape_fault(setting, tensor)
        if fault:
            facts.append(fault)
            break
    allowed = ", ".join(str(t) for t in cutting(setting))
    return facts, [f"a model whose sizes the degree divides; here these do: tensor {allowed}"]


def _batch(setting: Setting, answer: Answer) -> Words:
    """The nearest global batch that admits a number of replicas beside the plan's tensor and pipeline degrees."""
    first, job = answer.plan.stages[0], setting.prices.job
    pipeline = len(answer.plan.stages)
    room = setting.limits.devices // (first.tensor * pipeline)
    undividing = _undividing(setting)
    small = [d for d in undividing if d <= room] or undividing[:1]
    data = room if room in undividing else min(small, key=lambda d: (_nearest(job.global_batch, d)[1], -d))
    batch, _ = _nearest(job.global_batch, data)
    kept = f", which fit beside tensor {first.tensor} and pipeline {pipeline}" if data <= room else ""
    return [], [f"job.global_batch={batch} would admit {data} replicas{kept}"]


def _fixed(setting: Setting, answer: Answer) -> Words:
    """What each fixed degree costs: the best plan without it."""
    remedies = []
    assert answer.plan.prediction is not None
    own_s = answer.plan.prediction.step_time_s
    for name, value in setting.objective.fixed.items():
        rest = {key: held for key, held in setting.objective.fixed.items() if key != name}
        try:
            other = setting.fixing(rest).best().plan
        except (BadInput, Infeasible):
            continue  # another degree only stands because of this one; nothing is admitted without both
        assert other.prediction is not None
        takes_s = other.prediction.step_time_s
        gain = 1.0 - takes_s / own_s
        gained = f"{gain:.1%} less" if gain > 5e-4 else "nothing gained"
        remedies.append(f"without {name}={value} the best is {other.split}: {format_seconds(takes_s)}, {gained}")
    return [], remedies


def _fixed_only(setting: Setting, answer: Answer) -> Words:
    """Which degrees are fixed."""
    del answer
    return [], [f"leave out objective.fixed.{name}={value}" for name, value in setting.objective.fixed.items()]


def _engine(setting: Setting, answer: Answer) -> Words:
    """What engines lack for one feature after another; the sentences say what to use instead."""
    del answer
    job, kind = setting.prices.job, setting.device_kind
    alone = missing(_feature(), job, kind)
    features = [_feature(tensor=2), _feature(pipeline=2)]
    features += [_feature(data=d, sharding=Sharding(stage=s, degree=d)) for s in (1, 2, 3) for d in (2, FEW)]
    lacking = [why for feature in features for why in missing(feature, job, kind) if why not in alone]
    return [], list(dict.fromkeys(lacking))


def _memory(setting: Setting, answer: Answer) -> Words:
    """The leanest of the splits that do not fit, and the single changes with which it would."""
    del answer
    split = leanest_above(setting)
    if split is None:
        return [], ["the smallest micro-batches, with which every split fits"]
    full = fullest(setting, split)
    return [f"of the leanest, {describe(split)}, {full.sentence}"], list(changes(setting, split))


def _bound(setting: Setting, answer: Answer) -> Words:
    """Nothing admits what is proven slower."""
    del setting
    second = answer.candidates[1:2] or answer.candidates[:1]
    assert second[0].prediction is not None
    slower = format_seconds(second[0].prediction.step_time_s)
    return [f"each is proven to take at least the {slower} of the second best, so none was priced in full"], []


def _layers(setting: Setting, answer: Answer) -> Words:
    """The chain that the next number of stages needs."""
    del answer
    more = setting.limits.layers + 1
    return [], [f"a model of {more} layers would admit pipeline {more}"]


def _wan(setting: Setting, answer: Answer) -> Words:
    """How many devices each site has, into one of which a group must fit."""
    del answer
    held = site_words(setting.prices.pricing.cluster, setting.prices.pool.devices)
    facts = [f"Devices are {held}; a group of tensor × sharding_degree ranks lies at one"] if held else []
    return facts, ["a smaller objective.fixed.sharding_degree would fit more groups into a site"]


def _unexplained(setting: Setting, answer: Answer) -> Words:
    """A rule of which nothing more is known than its meaning."""
    del setting, answer
    return [], []


_ABOUT: dict[str, Callable[[Setting, Answer], Words]] = {
    "devices": _devices,
    "batch": _batch,
    "node": _node,
    "layers": _layers,
    "shape": _shape,
    "fixed": _fixed,
    "engine": _engine,
    "wan": _wan,
    "memory": _memory,
    "bound": _bound,
}
_SINGULAR = {
    "splits": "split",
    "tensor degrees": "tensor degree",
    "numbers of replicas": "number of replicas",
    "fixed degrees": "fixed degree",
    "sets of ways": "set of ways",
}
_COUNTED = {"node": "tensor degrees", "batch": "numbers of replicas"}


def _feature(data: int = 1, tensor: int = 1, pipeline: int = 1, sharding: Sharding | None = None) -> Split:
    """A small split with one feature."""
    return Split(data=data, tensor=tensor, pipeline=pipeline, rows=1, sharding=sharding or Sharding(), recompute="none")


def _undividing(setting: Setting) -> list[int]:
    """Numbers of replicas that there are devices for and that do not divide the batch."""
    batch, limits = setting.prices.job.global_batch, setting.limits
    most = min(limits.devices, batch)
    return [d for d in range(1, most + 1) if batch % d and limits.allows("data", d)]


def _nearest(batch: int, factor: int) -> tuple[int, int]:
    """The multiple of a factor nearest to a batch, the higher of two, and how far it is."""
    below, above = multiples(batch, factor)
    return (below, batch - below) if below and batch - below < above - batch else (above, above - batch)


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(n) for n in numbers[:-1]) + (" or " if len(numbers) > 1 else "") + str(numbers[-1])
