"""The run file: model, cluster, job, objective and conditions, with `key=value` overrides from the command line.

A mistake names its line with a caret, be it in the file, in the cluster file it names or in an override.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nebula import marked_yaml
from nebula.checkpoint.policy import NEVER, Policy
from nebula.cluster.places import exclude
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.errors import BadInput, UnknownKey, closest, shown
from nebula.marked_yaml import MOST_LEVELS, Document, Keys, Mark
from nebula.plan.checkpoint_section import CheckpointSection, policy_of
from nebula.plan.conditions import Conditions
from nebula.plan.conditions_section import EnergySection, ReliabilitySection, conditions
from nebula.plan.job import (
    AIMS,
    ALLOWABLE,
    FIXABLE,
    FIXABLE_WORDS,
    FROM_NOUGHT,
    ROWS,
    InputSpec,
    ModelSpec,
    Objective,
    Phase,
)
from nebula.plan.phases_section import MOST_ROWS, PhaseSection, phases_of
from nebula.plan.schedule import SCHEDULES
from nebula.plan.values import Job
from nebula.units import parse_quantity, parse_seconds
from nebula.validation import Name, Section, Whole, parsed_by, validated

_Amount = Annotated[float, parsed_by(parse_quantity), Field(ge=0)]
_Seconds = Annotated[float, parsed_by(parse_seconds), Field(gt=0)]
_Fraction = Annotated[float, parsed_by(parse_quantity), Field(gt=0, le=1)]
_INDEX = re.compile(r"[0-9]{1,9}")
_OVERRIDE = re.compile(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)", re.DOTALL)


class InputSection(Section):
    """One input of a user's own layer."""

    shape: list[Annotated[Whole, Field(ge=1)] | Literal["rows"]] = Field(description="[rows, 128]")
    dtype: Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"] = (
        "float32"
    )


class ModelSection(Section):
    """The model."""

    preset: Name = ""
    hf: Name = ""
    layer: Name = ""
    inputs: dict[Name, InputSection] = {}
    seq_len: Annotated[Whole, Field(ge=1)] | None = None


class JobSection(Section):
    """What is asked of the training."""

    global_batch: Annotated[Whole, Field(ge=1, le=MOST_ROWS)] = Field(description="<rows of one optimizer step>")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    tokens: _Amount = 0.0
    steps: Annotated[Whole, Field(ge=0)] = 0
    phases: list[PhaseSection] = []


class LimitsSection(Section):
    """What no plan may exceed."""

    memory_fraction: _Fraction = 0.92
    deadline: _Seconds | None = None
    budget: Annotated[float, parsed_by(parse_quantity), Field(gt=0)] | None = None


class ObjectiveSection(Section):
    """By what plans are compared."""

    minimise: Literal["step_time", "cost", "energy", "days"] = "step_time"
    limits: LimitsSection = LimitsSection()
    fixed: dict[Name, Whole | Name] = {}
    exclude: list[Name] = []
    allow: list[Name] = []


class RunSection(Section):
    """A run file."""

    model: ModelSection = Field(description="{preset: ernie-3.0-small}")
    cluster: Name | dict[Name, Any] = Field(description="<path of a cluster file, or the cluster itself>")
    job: JobSection = Field(description="{global_batch: 32}")
    objective: ObjectiveSection = ObjectiveSection()
    reliability: ReliabilitySection = ReliabilitySection()
    energy: EnergySection = EnergySection()
    checkpoint: CheckpointSection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run file says; `source` is its path, `phases` are empty where the training is all of one kind."""

    model: ModelSpec
    cluster: Cluster
    job: Job
    objective: Objective
    source: str
    conditions: Conditions = field(default_factory=Conditions)
    phases: tuple[Phase, ...] = ()
    checkpoint: Policy = NEVER


def load_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """The run that a file describes, changed by overrides such as `job.global_batch=64`.

    Raises:
        BadInput: what is wrong, with file (or override), line and caret.
    """
    document = with_overrides(marked_yaml.read(Path(path)), overrides)
    section = validated(document, RunSection)
    job, limits = section.job, section.objective.limits
    cluster = _cluster(document, section, section.objective.exclude)
    under = conditions(document, section.reliability, section.energy)
    rate = under.reliability.failures_per_s(devices=cluster.device_count, nodes=sum(g.count for g in cluster.groups))
    objective, phases = _objective(document, section.objective), phases_of(document, section.job, section.model)
    return Run(
        model=_model(document, section.model),
        cluster=cluster,
        job=Job(
            global_batch=job.global_batch,
            precision=job.precision,
            optimizer=job.optimizer,
            tokens=job.tokens or sum(phase.tokens for phase in phases),
            memory_fraction=limits.memory_fraction,
            steps=job.steps,
        ),
        objective=objective,
        conditions=under,
        source=str(path),
        phases=phases,
        checkpoint=policy_of(section.checkpoint, rate),
    )


def with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with values replaced or added; an error about one points into the override's own text.

    Raises:
        BadInput: an override is not of the form key.key=value, or goes through something that is no mapping.
    """
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None:
            example = "write key=value with dots between keys, such as job.global_batch=64"
            raise BadInput(f"override {shown(text)}: {example}")
        way: Keys = tuple(int(k) if _INDEX.fullmatch(k) else k for k in match[1].split("."))
        if len(way) > MOST_LEVELS:
            raise BadInput(f"override {shown(text)}: {len(way)} keys; nothing is nested as deep")
        if way[0] == "cluster" and len(way) > 1:
            document = _with_cluster(document)
        document = _overridden(document, way, _value(match[2], text), text)
    return document


def _value(words: str, text: str) -> Any:
    """What an override puts in place, written as YAML."""
    try:
        return marked_yaml.parse(words, "").value
    except BadInput:
        raise BadInput(f"override {shown(text)}: the value is not YAML; put it in quotes") from None


def _overridden(document: Document, way: Keys, new: Any, text: str) -> Document:
    """The document with one value replaced or added."""
    mark = Mark("command line", 0, 0, len(text.partition("=")[0]), text)
    marks = {keys: m for keys, m in document.marks.items() if keys[: len(way)] != way}
    marks |= {way[:n]: marks.get(way[:n], mark) for n in range(1, len(way))} | {way: mark}
    value = _replaced(document.value, way, new, text)
    return Document(value=value, source=document.source, marks=marks, folder=document.folder)


def _with_cluster(document: Document) -> Document:
    """The document with the cluster file that it names in place of the path, so that overrides reach into it."""
    path = document.value.get("cluster") if isinstance(document.value, dict) else None
    if not isinstance(path, str):
        return document
    inner = marked_yaml.read(document.folder / path)
    marks = {**document.marks, **{("cluster", *way): mark for way, mark in inner.marks.items()}}
    value = {**document.value, "cluster": inner.value}
    return Document(value=value, source=document.source, marks=marks, folder=document.folder)


def _replaced(value: Any, way: Keys, new: Any, text: str) -> Any:
    """A copy of plain data with one place changed; mappings on the way are made as needed."""
    if not way:
        return new
    key, rest = way[0], way[1:]
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return [_replaced(item, rest, new, text) if i == key else item for i, item in enumerate(value)]
    if value is None or isinstance(value, dict):
        inner = (value or {}).get(key)
        return {**(value or {}), key: _replaced(inner, rest, new, text)}
    if isinstance(value, list):
        raise UnknownKey(f"override {shown(text)}: a list of {len(value)} has items 0 to {len(value) - 1}: no {key!r}")
    raise UnknownKey(f"override {shown(text)}: there is no mapping to hold {key!r}")


def _model(document: Document, section: ModelSection) -> ModelSpec:
    way: Keys = ("model",)
    given = [key for key in ("preset", "hf", "layer") if getattr(section, key)]
    if len(given) != 1:
        said = f"both {given[0]} and {given[1]}" if given else "neither preset, hf nor layer"
        raise document.fault(way, f"the model says {said}; give one of them, such as `preset: ernie-3.0-small`")
    if section.layer and not _is_factory(section.layer):
        raise document.fault((*way, "layer"), f"layer {section.layer!r}: write package.module:factory")
    if section.layer and not section.inputs:
        raise document.fault(way, "a layer needs its inputs; add `inputs: {x: {shape: [rows, 128], dtype: int64}}`")
    if section.inputs and not section.layer:
        raise document.fault((*way, "inputs"), "inputs belong to a layer; a preset or a config knows its own")
    for name, entry in section.inputs.items():
        if "rows" not in entry.shape:
            raise document.fault((*way, "inputs", name), f"input {name!r} has no dim `rows`; write shape: [rows, ...]")
    hf = document.folder / section.hf if section.hf else None
    if hf is not None and not hf.is_file():
        raise document.fault((*way, "hf"), f"there is no file {hf}; a path is relative to the run file")
    inputs = (
        InputSpec(name=name, shape=tuple(ROWS if d == "rows" else int(d) for d in entry.shape), dtype=entry.dtype)
        for name, entry in section.inputs.items()
    )
    return ModelSpec(
        preset=section.preset,
        hf=str(hf) if hf else "",
        layer=section.layer,
        inputs=tuple(inputs),
        seq_len=section.seq_len,
    )


def _is_factory(text: str) -> bool:
    """Whether the text reads `package.module:factory`."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(word.isidentifier() for word in (*module.split("."), name))


def _cluster(document: Document, section: RunSection, excluded: Sequence[str]) -> Cluster:
    if isinstance(section.cluster, str):
        path = document.folder / section.cluster
        if not path.is_file():
            raise document.fault(("cluster",), f"there is no cluster file {path}; a path is relative to the run file")
        cluster = load_cluster(path)
    else:
        cluster = load_cluster(document.at("cluster"))
    try:
        return exclude(cluster, excluded)
    except BadInput as error:
        raise document.fault(("objective", "exclude"), str(error)) from None


def _objective(document: Document, section: ObjectiveSection) -> Objective:
    words: dict[str, Sequence[str]] = {**FIXABLE_WORDS, "schedule": tuple(SCHEDULES)}
    for key, value in section.fixed.items():
        way = ("objective", "fixed", key)
        if key not in FIXABLE:
            raise document.fault(way, f"objective.fixed: {key!r} is no degree; {closest(key, FIXABLE)}", UnknownKey)
        if key in words and value not in words[key]:
            raise document.fault(way, f"objective.fixed.{key} must be one of {', '.join(words[key])}, not {value!r}")
        if key == "sharding" and value not in range(4):
            raise document.fault(
                way, f"objective.fixed.sharding is the stage of ZeRO: 0, 1, 2 or 3, not {shown(value)}"
            )
        if key == "sequence" and value not in range(2):
            raise document.fault(
                way, f"objective.fixed.sequence is 1 with sequence parallelism, 0 without, not {shown(value)}"
            )
        if key not in words and key not in FROM_NOUGHT and not (isinstance(value, int) and value >= 1):
            raise document.fault(way, f"objective.fixed.{key} must be a whole number from 1 on, not {shown(value)}")
    for index, name in enumerate(section.allow):
        if name not in ALLOWABLE:
            raise document.fault(
                ("objective", "allow", index),
                f"objective.allow: {shown(name)} is nothing to allow; {closest(name, ALLOWABLE)}",
            )
    assert section.minimise in AIMS
    limits = section.limits
    return Objective(
        minimise=section.minimise,
        deadline_s=limits.deadline or 0.0,
        budget=limits.budget or 0.0,
        fixed=dict(section.fixed),
        exclude=tuple(section.exclude),
        allow=tuple(section.allow),
    )
