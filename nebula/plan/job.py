"""What a plan is made for, apart from the cluster and the job: which model, and by what plans are compared.

The values of a run file's sections `model` and `objective`; the section `job` is nebula.plan.values.Job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PRECISIONS = ("fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "sgd")
AIMS = ("step_time", "cost", "energy", "days")
EXCHANGES = ("ring", "gather", "ulysses")
"""How ranks that share a sequence get what attention needs of the others (nebula.graph.rules.context)."""

RECOMPUTE = ("none", "selective", "full")
OFFLOAD = ("none", "optimizer", "activations", "both")
"""What lies in the host's memory in place of the device's: states of the optimizer, kept activations."""

FIXABLE = (
    "data",
    "tensor",
    "pipeline",
    "sharding",
    "sharding_degree",
    "recompute",
    "micro_batch_rows",
    "schedule",
    "offload",
    "sequence",
    "context",
    "exchange",
    "expert",
    "virtual_stages",
    "engine",
)
"""What `objective.fixed` may name; `sharding` is the stage of ZeRO, `sequence` 1 with sequence parallelism and 0
without, `virtual_stages` how many a device holds."""

FROM_NOUGHT = {"sharding": 3, "sequence": 1}
"""Degrees that begin at 0, and the most that each can be."""

FIXABLE_WORDS = {
    "recompute": RECOMPUTE,
    "offload": OFFLOAD,
    "exchange": EXCHANGES,
    "engine": ("fleet", "executor"),
}
"""Degrees that are words, and which words there are; those of `schedule` are nebula.plan.schedule.SCHEDULES."""

ALLOWABLE = ("offload", "recompute_layers")
"""What `objective.allow` may name: features that are explored on request."""

ROWS = -1
"""The dim of an input that holds the rows of a micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of a user's own layer; a dim that is ROWS grows with the micro-batch."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Which model; one of preset, hf and layer is set.

    Attributes:
        preset: name of a built-in model.
        hf: path of a Hugging Face config.json.
        layer: `package.module:factory` of a Paddle layer (or of a list of layers, a chain).
        inputs: of that layer.
        seq_len: where the model leaves it open; None: its own.
    """

    preset: str = ""
    hf: str = ""
    layer: str = ""
    inputs: tuple[InputSpec, ...] = ()
    seq_len: int | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.preset or self.hf or self.layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a training that has a batch and a sequence length of its own.

    Attributes:
        global_batch: rows of one optimizer step.
        tokens: that it trains on.
        seq_len: tokens of a row; None: the model's own.
    """

    global_batch: int
    tokens: float
    seq_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """By what plans are compared and what bounds them.

    Attributes:
        minimise: one of AIMS.
        deadline_s: the whole training must end within it; 0: none.
        budget: the most that the whole training may cost, in the currency of the cluster's prices; 0: none.
        fixed: degrees that the user decided, by a name of FIXABLE.
        exclude: names of nodes (`old/3`) and node groups that must not be used; load_run takes them out of the
            cluster already.
        allow: of ALLOWABLE, what an exploration may use beside what it always does.
    """

    minimise: str = "step_time"
    deadline_s: float = 0.0
    budget: float = 0.0
    fixed: Mapping[str, int | str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
