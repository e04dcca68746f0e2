"""The rows of a runs file: which keys a measured run has, which may be left out, and what they may hold.

Keys that are not known are kept and ignored, because sources print more than a model needs. A missing key, a split that
does not multiply out and a row without a measurement are refused with the row's id and the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nebula.errors import BadInput, shown
from nebula.marked_yaml import Document, read
from nebula.validation import Name, Whole, validated


def _or_one(value: object) -> object:
    return 1 if value is None else value


def _text(value: object) -> object:
    """Texts are as the source printed them: lists and numbers count as what they look like."""
    return "" if value is None else value if isinstance(value, str) else str(value)


Count = Annotated[Whole, Field(ge=1)]
Degree = Annotated[Whole, BeforeValidator(_or_one), Field(ge=1)]
Text = Annotated[str, BeforeValidator(_text)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind = Literal["step", "layer", "layer_shard", "mixed_cluster"]


class Loose(BaseModel):
    """A mapping that may hold more keys than are known."""

    model_config = ConfigDict(extra="allow")


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

    id: Name = Field(description="a name of its own")
    kind: Annotated[Kind, BeforeValidator(lambda v: "step" if v is None else v)] = "step"
    source: dict[str, Any] = {}
    model: Text = ""
    layers: Degree = 1
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
        for sentence in (*_missing(self), *_broken(self)):
            raise ValueError(sentence)
        return self

    @property
    def is_step(self) -> bool:
        """Whether a whole training step was measured, not a layer."""
        return self.kind in ("step", "mixed_cluster")

    @property
    def batch(self) -> int:
        """Rows of one optimizer step."""
        return self.global_batch or self.micro_batch * self.dp

    @property
    def origin(self) -> str:
        """The source in a few words: its repository or paper."""
        text = self.source.get("repo") or self.source.get("paper") or self.source.get("url") or "unknown"
        return str(text).split(",")[0]


def _missing(row: Row) -> Iterator[str]:
    """Keys that this kind of row needs beyond those that all need."""
    if row.is_step:
        for key, example in (("vocab", 51200), ("global_batch", 512)):
            if getattr(row, key) is None:
                yield f"the key {key!r} is missing; add `{key}: {example}`"
        needed = {"layers", "devices", "tp", "pp", "dp"} - row.model_fields_set
        for key in sorted(needed):
            yield f"the key {key!r} is missing, which every training step needs"


def _broken(row: Row) -> Iterator[str]:
    """Numbers that contradict one another, with their equation."""
    split = row.tp * row.pp * row.dp * row.cp
    if row.is_step and split != row.devices:
        equation = f"tp {row.tp} × pp {row.pp} × dp {row.dp} × cp {row.cp} = {split} ≠ devices {row.devices}"
        yield f"the split does not multiply out: {equation}"
    rows = row.micro_batch * row.dp
    if row.is_step and row.batch % rows:
        equation = f"global_batch {row.batch} % (micro_batch {row.micro_batch} × dp {row.dp}) = {row.batch % rows}"
        yield f"the batch does not divide into micro-batches: {equation}"
    groups = row.heads % (row.kv_heads or row.heads)
    if groups:
        yield f"heads {row.heads} % kv_heads {row.kv_heads} = {groups}: each key head serves equally many query heads"


def load_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a runs file.

    Raises:
        BadInput: the file is no list of rows, or a row is not as the schema says.
    """
    return rows_of(read(path))


def rows_of(document: Document) -> tuple[Row, ...]:
    """The rows of a document, in its order.

    Raises:
        BadInput: as load_rows.
    """
    if not isinstance(document.value, list):
        raise document.fault((), f"a runs file is a list of rows (`- id: ...`), not {shown(document.value)}")
    rows: list[Row] = []
    first: dict[str, int] = {}
    for index, value in enumerate(document.value):
        row = _row(document, index, value)
        if row.id in first:
            raise document.fault((index, "id"), f"row {row.id!r} stands in the file twice; give one another id")
        first[row.id] = index
        rows.append(row)
    return tuple(rows)


def _row(document: Document, index: int, value: Any) -> Row:
    try:
        return Row.model_validate(value)
    except ValidationError as error:
        faults = error.errors()
    name = shown(value["id"]) if isinstance(value, dict) and "id" in value else f"number {index + 1}"
    if faults[0]["type"] == "value_error" and not faults[0]["loc"]:
        raise document.fault((index,), f"row {name}: {faults[0]['ctx']['error']}")
    try:
        validated(document.at(index), Row)
    except BadInput as fault:
        raise BadInput(f"row {name}: {fault}") from None
    raise AssertionError("a row fails alone and passes in its place")


_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def partition_of(row: Row) -> tuple[int, ...]:
    """The boundaries of `stage_partition`, a list or a text that looks like one; empty when there is none."""
    given = row.stage_partition
    if given is None:
        return ()
    return tuple(int(n) for n in (given if isinstance(given, list) else _NUMBERS.findall(str(given))))
