"""The rows of a runs file: which keys a measured run has, which may be left out, and what they may hold.

Keys that are not known are kept and ignored, because sources print more than a model needs. A missing key, a split that
does not multiply out and a row without a measurement are refused with the row's id and the field. All that is wrong
with a file is said at once, and a wrong row does not take the others with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nebula.errors import LARGEST, BadInput, shown
from nebula.marked_yaml import Document, Keys, Mark, read
from nebula.validation import LONGEST_NAME, Name, Whole, faults


def _or_one(value: object) -> object:
    return 1 if value is None else value


def _text(value: object) -> object:
    """Texts are as the source printed them: lists and numbers count as what they look like."""
    return "" if value is None else value if isinstance(value, str) else str(value)


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


MOST_DEVICES = 2**18
"""More devices than any run had are taken for a mistake; likewise layers, and numbers of one shape."""

MOST_LAYERS = 10_000
MOST = 2**31

Count = Annotated[Whole, Field(ge=1, le=MOST)]
Degree = Annotated[Whole, BeforeValidator(_or_one), Field(ge=1, le=MOST_DEVICES)]
Layers = Annotated[Whole, BeforeValidator(_or_one), Field(ge=1, le=MOST_LAYERS)]
Text = Annotated[str, BeforeValidator(_text)]
Positive = Annotated[float, BeforeValidator(_no_truth), Field(gt=0, lt=LARGEST, allow_inf_nan=False)]
Kind = Literal["step", "layer", "layer_shard", "mixed_cluster"]


class Loose(BaseModel):
    """A mapping that may hold more keys than are known."""

    model_config = ConfigDict(extra="allow")

    @property
    def figures(self) -> dict[str, Any]:
        """All keys that have a value."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in given.items() if value not in (None, "")}


class MixtureSection(Loose):
    """The experts of a row."""

    experts: Count = Field(description="256")
    top_k: Count = Field(description="8")
    moe_ffn: Count = Field(description="2048")
    shared_experts: Annotated[Whole, Field(ge=0)] = 0
    dense_layers: Annotated[Whole, Field(ge=0)] = 0
    imbalance: Annotated[float, Field(ge=1)] = 1.0


class OverlapSection(Loose):
    """Which collectives a source hides behind compute; absent: the row does not say."""

    tensor: bool | None = None
    data: bool | None = None
    pipeline: bool | None = None
    expert: bool | None = None


class ExecutionSection(Loose):
    """The software of a row."""

    stack: Text = ""
    attention: Text = ""
    overlap: OverlapSection = OverlapSection()


class Measured(Loose):
    """What the source printed; at least one of these."""

    step_time_s: Positive | None = None
    tokens_per_s_per_device: Positive | None = None
    layer_fwd_ms: Positive | None = None
    layer_bwd_ms: Positive | None = None
    layer_total_ms: Positive | None = None
    peak_alloc_gib: Positive | None = None
    peak_mem_gib: Positive | None = None
    peak_mem_gb: Positive | None = None
    peak_mem_mib: Positive | None = None
    peak_mem_mb: Positive | None = None
    peak_mem_allocated_mb: Positive | None = None


class Derived(Loose):
    """What was worked out from the printed figure."""

    step_time_s: Positive | None = None
    tokens_per_s_per_device: Positive | None = None


class Row(Loose):
    """One measured run."""

    id: Annotated[Name, Field(min_length=1, max_length=LONGEST_NAME)] = Field(description="a name of its own")
    kind: Annotated[Kind, BeforeValidator(lambda v: "step" if v is None else v)] = "step"
    source: dict[str, Any] = {}
    model: Text = ""
    layers: Layers = 1
    hidden: Count = Field(description="4096")
    heads: Count = Field(description="32")
    kv_heads: Count | None = None
    head_dim: Count | None = None
    ffn_hidden: Count = Field(description="16384")
    gated_mlp: bool = Field(description="false")
    vocab: Count | None = None
    seq_len: Count = Field(description="2048")
    moe: MixtureSection | None = None
    attention: Text = ""
    param_count: Positive | None = None
    device: Text = Field(description="A100-80GB-SXM")
    devices: Degree = 1
    devices_per_node: Count | None = None
    intra: Text = ""
    inter: Text = ""
    stage_devices: Any = None
    stage_partition: Any = None
    precision: Text = Field(description="bf16")
    tp: Degree = 1
    pp: Degree = 1
    vpp: Degree = 1
    dp: Degree = 1
    cp: Degree = 1
    ep: Degree = 1
    etp: Degree = 1
    sequence_parallel: Annotated[bool, BeforeValidator(bool)] = False
    zero: Text = ""
    micro_batch: Count = Field(description="1")
    global_batch: Count | None = None
    recompute: Text = "none"
    overlap: Text = ""
    optimizer: Text = ""
    execution: ExecutionSection = ExecutionSection()
    measured: Measured = Field(description="{step_time_s: 3.57}")
    derived: Derived = Derived()
    assumptions: Text = ""
    notes: Text = ""
    date: Text = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Row:
        if self.kind == "layer" and "devices" not in self.model_fields_set:
            self.devices = self.split
        sentences = (*_missing({name: getattr(self, name) for name in self.model_fields_set}), *_broken(self))
        if sentences:
            raise ValueError("\n".join(sentences))
        return self

    @property
    def is_step(self) -> bool:
        """Whether a whole training step was measured, not a layer."""
        return self.kind in ("step", "mixed_cluster")

    @property
    def split(self) -> int:
        """Devices that the degrees ask for."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def batch(self) -> int:
        """Rows of one optimizer step."""
        return self.global_batch or self.micro_batch * self.dp

    @property
    def origin(self) -> str:
        """The source in a few words: its repository or paper."""
        text = self.source.get("repo") or self.source.get("paper") or self.source.get("url") or "unknown"
        return str(text).split(",")[0]


def _missing(given: Mapping[str, Any]) -> Iterator[str]:
    """Keys that this kind of row needs beyond those that all need."""
    if given.get("kind") in (None, "step", "mixed_cluster"):
        for key, example in (("vocab", 51200), ("global_batch", 512)):
            if given.get(key) is None:
                yield f"the key {key!r} is missing; add `{key}: {example}`"
        for key in ("devices", "dp", "layers", "pp", "tp"):
            if key not in given:
                yield f"the key {key!r} is missing, which every training step needs"


def _broken(row: Row) -> Iterator[str]:
    """Numbers that contradict one another, with their equation."""
    if (row.is_step and row.split != row.devices) or (row.kind == "layer" and row.split > row.devices):
        compared = "≠" if row.is_step else ">"
        product = f"tp {row.tp} × pp {row.pp} × dp {row.dp} × cp {row.cp} = {row.split}"
        equation = f"{product} {compared} devices {row.devices}"
        yield f"the split does not multiply out: {equation}"
    rows = row.micro_batch * row.dp
    if row.is_step and row.batch % rows:
        equation = f"global_batch {row.batch} % (micro_batch {row.micro_batch} × dp {row.dp}) = {row.batch % rows}"
        yield f"the batch does not divide into micro-batches: {equation}"
    groups = row.heads % (row.kv_heads or row.heads)
    if groups:
        yield f"heads {row.heads} % kv_heads {row.kv_heads} = {groups}: each key head serves equally many query heads"
    if not (row.measured.figures or row.derived.figures):
        yield "the key 'measured' holds no figure; add one, as `measured: {step_time_s: 3.57}`"


class Fault(NamedTuple):
    """What is wrong with one row.

    Attributes:
        id: of the row; `number 3` where it has none.
        sentences: each says what, where and what to do, with the row's name.
    """

    id: str
    sentences: tuple[str, ...]


class Read(NamedTuple):
    """The rows of a file that can be used, in its order, and what is wrong with the others."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]


def load_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a runs file.

    Raises:
        BadInput: the file is no list of rows, or rows are not as the schema says; all that is wrong is said.
    """
    return rows_of(read(path))


def rows_of(document: Document) -> tuple[Row, ...]:
    """The rows of a document, in its order.

    Raises:
        BadInput: as load_rows.
    """
    found = read_rows(document)
    if found.faults:
        raise BadInput("\n".join(sentence for fault in found.faults for sentence in fault.sentences))
    return found.rows


def read_rows(document: Document) -> Read:
    """The rows of a document that are as the schema says, and what is wrong with the others.

    Raises:
        BadInput: the document is no list of rows.
    """
    if not isinstance(document.value, list):
        raise document.fault((), f"a runs file is a list of rows (`- id: ...`), not {shown(document.value)}")
    if not document.value:
        raise document.fault((), "a runs file needs at least one row (`- id: ...`)")
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    first: set[str] = set()
    for index, value in enumerate(document.value):
        try:
            row = Row.model_validate(value)
        except ValidationError:
            wrong.append((index, ""))
            continue
        if row.id in first:
            wrong.append((index, "stands in the file twice; give one another id"))
            continue
        first.add(row.id)
        rows.append(row)
    return Read(tuple(rows), tuple(_faults(document, wrong)))


def _faults(document: Document, wrong: list[tuple[int, str]]) -> Iterator[Fault]:
    marks: dict[str | int, dict[Keys, Mark]] = {}
    for way, mark in document.marks.items() if wrong else ():
        marks.setdefault(way[0] if way else "", {})[way[1:]] = mark
    for index, sentence in wrong:
        value = document.value[index]
        part = replace(document, value=value, marks=marks.get(index, {}))
        given = value.get("id") if isinstance(value, dict) else None
        name = given if isinstance(given, str) and given else f"number {index + 1}"
        called = f"row {shown(given) if name == given else name}"
        if sentence:
            yield Fault(name, (str(part.fault(("id",), f"{called} {sentence}")),))
            continue
        found = [str(fault) for fault in faults(part, Row)]
        if isinstance(value, dict):
            # checks over the whole row wait until each key is right
            found += [s for key in _missing(value) if (s := str(part.fault((), key))) not in found]
        yield Fault(name, tuple(f"{called}: {one}" for one in found))


_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def partition_of(row: Row) -> tuple[int, ...]:
    """The boundaries of `stage_partition`, a list or a text that looks like one; empty when there is none.

    Raises:
        BadInput: something in it is no whole number.
    """
    given = row.stage_partition
    if given is None:
        return ()
    numbers = [str(n) for n in given] if isinstance(given, list) else _NUMBERS.findall(str(given))
    wrong = next((n for n in numbers if not re.fullmatch("[0-9]{1,9}", n)), None)
    if wrong is not None:
        raise BadInput(f"stage_partition: {shown(wrong)} is not a whole number of layers")
    return tuple(int(n) for n in numbers)
