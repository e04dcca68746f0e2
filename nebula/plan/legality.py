"""What a legal plan is and who can execute it: one table of rules, each with a sentence that shows the numbers.

A rule of no engine holds for every plan. A rule of an engine says what that engine asks of a plan; one that is marked
`missing` says what the engine cannot do yet, or not on a kind of device: the plan is legal, and not executable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nebula.cluster.values import Cluster, DeviceType
from nebula.plan import engines, laws
from nebula.plan.values import Plan

ENGINES = ("serial", "fleet", "executor")
"""In the order in which they are asked whether they can execute a plan."""

DEVICE_KINDS = ("gpu", "npu", "xpu", "cpu", "emulated")
"""Kinds of devices that rules tell apart; `emulated` is the emulator's device, whatever it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan with what it is checked against.

    Attributes:
        layers: of the model.
        cluster: None when the plan is checked without one.
        kinds: of the devices of its ranks, in their order, or of all of them alike; empty for rules that hold on all.
    """

    plan: Plan
    layers: int
    cluster: Cluster | None = None
    kinds: tuple[str, ...] = ()

    def kind(self, rank: int) -> str:
        """Of the device of a rank."""
        return self.kinds[rank] if len(self.kinds) > 1 else self.kinds[0]


class Rule(NamedTuple):
    """A row of the table.

    Attributes:
        name: of the rule.
        broken: the sentences of its violations in a case; none when the plan keeps it.
        engine: which engine asks for it; empty: every plan must keep it.
        kinds: on which kinds of devices, one rank's being enough; empty: on all.
        missing: whether breaking it makes a plan not executable rather than illegal.
    """

    name: str
    broken: Callable[[Case], Iterator[str]]
    engine: str = ""
    kinds: tuple[str, ...] = ()
    missing: bool = False


class Violation(NamedTuple):
    """A broken rule and the sentence about it."""

    rule: str
    sentence: str


class Executable(NamedTuple):
    """The engine that can execute a plan, or None and what is missing, a sentence each."""

    engine: str | None
    missing: tuple[str, ...]


RULES = (
    Rule("engine", laws.engine),
    Rule("schedule", laws.schedule),
    Rule("recompute", laws.recompute),
    Rule("offload", laws.offload),
    Rule("job", laws.job),
    Rule("layers", laws.layers),
    Rule("product", laws.product),
    Rule("ranks", laws.ranks),
    Rule("shares", laws.shares),
    Rule("batch", laws.batch),
    Rule("degrees", laws.degrees),
    Rule("sharding", laws.sharding),
    Rule("sequence", laws.sequence),
    Rule("places", laws.places),
    Rule("excluded", laws.excluded),
    Rule("kinds", laws.kinds),
    Rule("wan", laws.wan),
    Rule("virtual", engines.virtual_in_place),
    Rule("serial", engines.one_rank, engine="serial"),
    Rule("alike", engines.alike, engine="fleet"),
    Rule("kinds", engines.one_kind, engine="fleet", missing=True),
    Rule("order", engines.fleet_order, engine="fleet"),
    Rule("schedule", engines.fleet_schedule, engine="fleet"),
    Rule("context", engines.no_context, engine="serial", missing=True),
    Rule("context", engines.no_context, engine="fleet", missing=True),
    Rule("expert", engines.no_experts, engine="serial", missing=True),
    Rule("expert", engines.no_experts, engine="fleet", missing=True),
    Rule("offload", engines.no_offload, engine="serial", missing=True),
    Rule("offload", engines.no_offload, engine="fleet", missing=True),
    Rule("sequence", engines.no_sequence, engine="fleet", missing=True),
    Rule("precision", engines.fp32, engine="serial", kinds=("cpu", "emulated"), missing=True),
    Rule("precision", engines.fp32, engine="fleet", kinds=("cpu", "emulated"), missing=True),
    Rule("gloo", engines.data_only, engine="fleet", kinds=("cpu",), missing=True),
    Rule("gloo", engines.gloo_sharding, engine="fleet", kinds=("cpu",), missing=True),
    Rule("expert", engines.own_tokens, engine="executor", missing=True),
    Rule("context", engines.one_context, engine="executor", missing=True),
    Rule("offload", engines.no_offload, engine="executor", missing=True),
    Rule("sharding", engines.states_alone, engine="executor", missing=True),
    Rule("shares", engines.even_shares, engine="executor", missing=True),
    Rule("chain", engines.one_chain, engine="executor", missing=True),
    Rule("chunks", engines.chunks_in_place, engine="executor", missing=True),
    Rule("precision", engines.fp32, engine="executor", kinds=("cpu", "emulated"), missing=True),
    Rule("kinds", engines.one_kind_a_stage, engine="executor", missing=True),
    Rule("cpu", engines.pipelines_alone, engine="executor", kinds=("cpu",), missing=True),
)


def violations(plan: Plan, *, layers: int, cluster: Cluster | None) -> tuple[Violation, ...]:
    """The laws that a plan breaks, those of the engine it names included; empty when it is legal.

    Whether a tensor degree divides what it cuts is said by cutting the graph (nebula.graph.partition).

    Args:
        layers: of the model.
        cluster: that its ranks are placed on; None to leave places unchecked.
    """
    return _broken(Case(plan=plan, layers=layers, cluster=cluster), ("", plan.engine))


def lawless(plan: Plan, *, layers: int) -> tuple[Violation, ...]:
    """The laws that a plan breaks whatever runs it and on whatever cluster; one that breaks none can be predicted."""
    return _broken(Case(plan=plan, layers=layers), ("",))


def _broken(case: Case, engines: tuple[str, ...]) -> tuple[Violation, ...]:
    rules = (rule for rule in RULES if not rule.missing and rule.engine in engines)
    return tuple(Violation(rule.name, sentence) for rule in rules for sentence in rule.broken(case))


def executable(plan: Plan, device_kind: str) -> Executable:
    """Which engine can execute a legal plan on devices of a kind (one of DEVICE_KINDS); executable_by tells more."""
    return executable_by(plan, (device_kind,))


def executable_by(plan: Plan, kinds: tuple[str, ...]) -> Executable:
    """Which engine can execute a legal plan, its own asked first.

    Where none can, `missing` says what the plan's own engine lacks.

    Args:
        kinds: of the devices of its ranks (of DEVICE_KINDS), in their order; one stands for all.
    """
    assert set(kinds) <= set(DEVICE_KINDS), kinds
    case = Case(plan=plan, layers=plan.stages[-1].layers[1], kinds=kinds)
    order = sorted(ENGINES, key=lambda engine: engine != plan.engine)
    lacking = {engine: tuple(_lacks(case, engine)) for engine in order}
    able = next((engine for engine in order if not lacking[engine]), None)
    if able:
        return Executable(able, ())
    own = plan.engine if plan.engine in ENGINES else "fleet"
    return Executable(None, lacking[own])


def executable_on(plan: Plan, cluster: Cluster) -> Executable:
    """Which engine can execute a legal plan on the devices of a cluster that its ranks are on."""
    kinds = {group.name: kind_of_device(group.device) for group in cluster.groups}
    used = [kinds[place.node.rpartition("/")[0]] for place in plan.ranks]
    return executable_by(plan, tuple(used) if len(set(used)) > 1 else (used[0],))


def kinds_of(types: Sequence[DeviceType]) -> tuple[str, ...]:
    """The kinds (of DEVICE_KINDS) whose rules hold on devices."""
    return tuple(map(kind_of_device, types))


def kind_of(cluster: Cluster) -> str:
    """The kind of device (one of DEVICE_KINDS) whose rules hold on a cluster; the first group's where kinds differ."""
    return kind_of_device(cluster.groups[0].device)


def kind_of_device(device: DeviceType) -> str:
    """The kind of a device (one of DEVICE_KINDS)."""
    return "emulated" if device.emulated else device.kind


def _lacks(case: Case, engine: str) -> Iterator[str]:
    for rule in RULES:
        if rule.engine == engine and (not rule.kinds or set(case.kinds) & set(rule.kinds)):
            yield from rule.broken(case)
