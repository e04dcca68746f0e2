"""Reads a scenario from a file: which jobs, how often what fails, what recoveries take, and a mix of jobs.

A time of `timings` is a duration, or a mapping that says where it comes from: `exit: {takes: 200ms, from: measured}`.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from nebula.elastic.policy.values import Bounds
from nebula.elastic.simulate.mix import Mix
from nebula.elastic.simulate.values import Fault, Kind, Rates, Scenario, Timings
from nebula.errors import BadInput
from nebula.marked_yaml import Document, read
from nebula.units import parse_seconds
from nebula.validation import Called, Section, Whole, parsed_by, validated

MOST_NODES, MOST_JOBS = 10_000, 100_000

_Seconds = Annotated[float, parsed_by(parse_seconds), Field(ge=0, le=1e9)]
_Positive = Annotated[float, parsed_by(parse_seconds), Field(gt=0, le=1e12)]
_Count = Annotated[Whole, Field(ge=1, le=10**9)]
_Nodes = Annotated[Whole, Field(ge=1, le=MOST_NODES)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0, le=1e9)]


class TimingSection(Section):
    """A time with where it comes from."""

    takes: _Seconds = Field(description="2s")
    source: str = Field("", alias="from")


def _timing(value: Any) -> Any:
    return value if isinstance(value, dict) else {"takes": value}


_Timing = Annotated[TimingSection, BeforeValidator(_timing)]


class JobSection(Section):
    """A job that is simulated several times, each time with other faults."""

    least: _Nodes = Field(description="48")
    most: _Nodes = Field(description="64")
    step: _Positive = Field(description="10s")
    steps: _Count = Field(description="100000")
    unit: _Nodes = 1
    spare_nodes: Annotated[Whole, Field(ge=0, le=MOST_NODES)] = 0
    replica_nodes: _Nodes = 1
    save_every: _Count = 100
    memory_every: _Count = 1
    deadline: _Positive = Field(description="30d")
    jobs: Annotated[Whole, Field(ge=1, le=MOST_JOBS)] = 1


class InfantSection(Section):
    """Young nodes."""

    share: _Share = Field(description="0.05")
    mtbf: _Positive = Field(description="2d")


class RepairSection(Section):
    """How long repairs take."""

    median: _Positive = 4 * 3600.0
    sigma: Annotated[float, Field(ge=0, le=5)] = 1.0


class FaultSection(Section):
    """A fault that is given."""

    at: _Seconds = Field(description="3h")
    node: Annotated[Whole, Field(ge=0)] = Field(description="0")
    kind: Kind = Field(description="worker")
    repair: _Seconds = 4 * 3600.0
    factor: Annotated[float, Field(gt=1, le=1000)] = 2.0


class FaultsSection(Section):
    """How often what fails."""

    node_mtbf: _Positive = Field(description="180d")
    kinds: dict[Kind, _Weight] = Field(description="{worker: 4, node: 3, hang: 2, slow: 1}")
    infant: InfantSection | None = None
    shape: Annotated[float, Field(ge=0.2, le=5)] = 1.0
    repair: RepairSection = RepairSection()
    slow_factor: Annotated[tuple[float, float], Field(min_length=2)] = (1.2, 3.0)


class SizeSection(Section):
    """A size of jobs."""

    least: _Nodes = Field(description="4")
    most: _Nodes = Field(description="16")
    unit: _Nodes = 1
    weight: _Weight = 1.0


class LengthSection(Section):
    """How long jobs would take on their most nodes."""

    median: _Positive = Field(description="4h")
    sigma: Annotated[float, Field(ge=0, le=5)] = 1.0


class MixSection(Section):
    """Jobs that share a cluster."""

    nodes: _Nodes = Field(description="64")
    jobs: Annotated[Whole, Field(ge=1, le=MOST_JOBS)] = Field(description="300")
    every: _Positive = Field(description="90min")
    sizes: list[SizeSection] = Field(min_length=1, description="[{least: 4, most: 16}]")
    length: LengthSection = Field(description="{median: 4h}")
    pause: _Seconds = Field(description="10s")


_KEYS = {
    "exit": "exit_s",
    "silence": "silence_s",
    "hang": "hang_s",
    "hang_timeout": "hang_timeout_s",
    "slow": "slow_s",
    "stop": "stop_s",
    "plan": "plan_s",
    "cold_start": "cold_s",
    "warm_start": "warm_s",
    "memory_load": "memory_load_s",
    "disk_load": "disk_load_s",
    "survivors_gap": "gap_s",
    "save": "save_s",
    "save_durable": "durable_s",
    "memory_copy": "memory_save_s",
}
"""Keys of `timings` and the field of Timings that each gives."""


class TimingsSection(Section):
    """What detection and recovery take."""

    exit: _Timing = Field(description="200ms")
    silence: _Timing = Field(description="3s")
    hang: _Timing = Field(description="50s")
    hang_timeout: _Timing = Field(description="30min")
    slow: _Timing = Field(description="5min")
    stop: _Timing = Field(description="1s")
    plan: _Timing = Field(description="1s")
    cold_start: _Timing = Field(description="1min")
    warm_start: _Timing = Field(description="5s")
    memory_load: _Timing = Field(description="2s")
    disk_load: _Timing = Field(description="2min")
    survivors_gap: _Timing = Field(description="2s")
    save: _Timing = Field(description="5s")
    save_durable: _Timing = Field(description="1min")
    memory_copy: _Timing = Field(description="50ms")


class ScenarioSection(Section):
    """The whole file."""

    name: Called = Field(description="a cluster")
    seed: Annotated[Whole, Field(ge=0)] = 0
    job: JobSection = Field(description="{least: 48, most: 64, step: 10s, steps: 100000, deadline: 30d}")
    faults: FaultsSection = Field(description="{node_mtbf: 180d, kinds: {worker: 4, node: 3, hang: 2, slow: 1}}")
    given: list[FaultSection] = []
    timings: TimingsSection = Field(description="{exit: 200ms, ...}")
    mix: MixSection | None = None


def load_scenario(path: Path, seed: int | None = None) -> tuple[Scenario, Mix | None]:
    """What a file says.

    Args:
        seed: instead of the file's.

    Raises:
        BadInput: with the line that is wrong.
    """
    document = read(path)
    found = validated(document, ScenarioSection)
    if seed is not None:
        found.seed = seed
    mix = _made(document, ("mix",), lambda: _mix(found.mix)) if found.mix else None
    return _made(document, ("job",), lambda: _scenario(found)), mix


V = TypeVar("V")


def _made(document: Document, way: tuple[str, ...], make: Any) -> Any:
    """What `make` makes; a refusal gets its place."""
    try:
        return make()
    except BadInput as error:
        raise document.fault(way, str(error)) from None


def _scenario(found: ScenarioSection) -> Scenario:
    job = found.job
    scenario = Scenario(
        name=found.name,
        seed=found.seed,
        bounds=Bounds(least=job.least, most=job.most, unit=job.unit),
        steps=job.steps,
        step_s=job.step,
        rates=_rates(found.faults),
        timings=_timings(found.timings),
        spare_nodes=job.spare_nodes,
        replica_nodes=job.replica_nodes,
        save_every=job.save_every,
        memory_every=job.memory_every,
        deadline_s=job.deadline,
        jobs=job.jobs,
        faults=tuple(_fault(fault) for fault in found.given),
    )
    if scenario.nodes > MOST_NODES:
        raise BadInput(f"{scenario.nodes} nodes are more than the {MOST_NODES} that are simulated")
    beyond = [fault.node for fault in scenario.faults if fault.node >= scenario.nodes]
    if beyond:
        raise BadInput(f"there is no node {beyond[0]}: they are numbered from 0 to {scenario.nodes - 1}")
    return scenario


def _rates(faults: FaultsSection) -> Rates:
    return Rates(
        mtbf_s=faults.node_mtbf,
        kinds=faults.kinds,
        infant_share=faults.infant.share if faults.infant else 0.0,
        infant_mtbf_s=faults.infant.mtbf if faults.infant else 0.0,
        shape=faults.shape,
        repair_median_s=faults.repair.median,
        repair_sigma=faults.repair.sigma,
        slow_factor=faults.slow_factor,
    )


def _timings(found: TimingsSection) -> Timings:
    given: dict[str, TimingSection] = {key: getattr(found, key) for key in _KEYS}
    assert {one.name for one in fields(Timings)} == {*_KEYS.values(), "sources"}
    sources = {key: one.source for key, one in given.items()}
    return Timings(**{_KEYS[key]: one.takes for key, one in given.items()}, sources=sources)


def _fault(given: FaultSection) -> Fault:
    lasts = given.kind in (Kind.NODE, Kind.SLOW)
    return Fault(
        at_s=given.at,
        node=given.node,
        kind=given.kind,
        repair_s=given.repair if lasts else 0.0,
        factor=given.factor if given.kind is Kind.SLOW else 1.0,
    )


def _mix(found: MixSection) -> Mix:
    return Mix(
        nodes=found.nodes,
        jobs=found.jobs,
        gap_s=found.every,
        sizes=[(Bounds(least=size.least, most=size.most, unit=size.unit), size.weight) for size in found.sizes],
        length_median_s=found.length.median,
        length_sigma=found.length.sigma,
        pause_s=found.pause,
    )
