"""A plan as keys of a PaddleFormers, ERNIEKit or PaddleNLP training config, put into a user's file or printed.

PaddleFormers renamed PaddleNLP's keys, and both stand in files of today: a key that is there keeps its name, a missing
one gets the name of the file's generation. Names are those of paddleformers/trainer/training_args.py. Model, data,
precision and optimizer are not touched.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from nebula.emit.expressible import ON_FLEET, Inexpressible, dealt_layers, one_recompute, order_notes, require
from nebula.emit.values import Decided, Emitted, Options
from nebula.emit.yaml_edit import Change, Value, keys_of, lines, set_values
from nebula.errors import BadInput
from nebula.plan.layout import FLEET
from nebula.plan.values import Plan
from nebula.runtime.place import Degrees, degrees

FORM = "paddleformers"


class Generation(enum.Enum):
    """Whose names a file uses: PaddleFormers' or, before it, PaddleNLP's and ERNIEKit's."""

    FORMERS = 0
    NLP = 1


NAMES = {
    "tensor": ("tensor_model_parallel_size", "tensor_parallel_degree"),
    "pipeline": ("pipeline_model_parallel_size", "pipeline_parallel_degree"),
    "sharding_degree": ("sharding_parallel_size", "sharding_parallel_degree", "sharding_degree"),
    "rows": ("per_device_train_batch_size", "per_device_train_batch_size", "batch_size"),
    "chunks": ("virtual_pipeline_model_parallel_size", "virtual_pp_degree"),
}
"""Names of one setting: PaddleFormers', PaddleNLP's, and others that PaddleNLP's generation knew."""

TELLING = ("tensor", "pipeline", "sharding_degree")
"""Settings whose name tells the generation of a file, the first that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The keys of a file and whose names they are."""

    keys: frozenset[str]
    generation: Generation

    def name(self, setting: str) -> str:
        """The name of a setting in this file."""
        there = [name for name in NAMES[setting] if name in self.keys]
        if len(set(there)) > 1:
            raise BadInput(f"the config has both {there[0]} and {there[1]}, which are one setting; keep one")
        return there[0] if there else NAMES[setting][self.generation.value]

    def has(self, setting: str) -> bool:
        """Whether the setting is there, by any of its names."""
        return any(name in self.keys for name in NAMES[setting])


TOPO_ORDERS = {FLEET: "pp_first", ("data", "sharding", "pipeline", "tensor"): "sharding_first"}
"""Orders of ranks that a file can ask for."""


def emit(decided: Decided, options: Options) -> Emitted:
    """The user's file with the plan in it; without one, the keys to set.

    Raises:
        BadInput: the tools cannot express the plan, or the file cannot be changed.
    """
    plan = decided.plan
    require(FORM, plan, *ON_FLEET, one_recompute)
    if len(plan.stages) > 1 and plan.stages[0].sharding.stage > 1:
        stage = plan.stages[0].sharding.stage
        raise Inexpressible(FORM, f"it runs pipelines with sharding stage 1 only, not {stage}")
    config = options.into
    unsaid = order_notes(plan, tuple(TOPO_ORDERS))
    if config is None:
        values = settings(decided, _File(keys=frozenset(), generation=Generation.FORMERS))
        return Emitted(text=lines(values), document={"set": values}, notes=unsaid)
    keys = keys_of(config)
    values = settings(decided, _File(keys=keys, generation=_generation(keys)))
    text, changes = set_values(config, values)
    return Emitted(
        text=text, document={"set": values, "changed": [c._asdict() for c in changes]}, notes=_notes(changes) + unsaid
    )


def settings(decided: Decided, file: _File) -> dict[str, Value]:
    """The keys of a file with what the plan says."""
    plan = decided.plan
    mesh, first = degrees(plan), plan.stages[0]
    values: dict[str, Value] = {
        file.name("tensor"): mesh.tensor,
        file.name("pipeline"): mesh.pipeline,
        file.name("sharding_degree"): mesh.sharding,
    }
    if first.sharding.stage:
        values["sharding"] = f"stage{first.sharding.stage}"
    values["sequence_parallel"] = plan.sequence_parallel
    values[file.name("rows")] = first.replicas[0].micro_batch_rows
    values["gradient_accumulation_steps"] = plan.micro_batches
    values |= _recompute(first.recompute, file)
    values |= _pipeline(decided, file, mesh)
    if "global_batch_size" in file.keys:
        values["global_batch_size"] = plan.job.global_batch
    return values


def _generation(keys: frozenset[str]) -> Generation:
    for setting in TELLING:
        for generation in (Generation.NLP, Generation.FORMERS):
            if NAMES[setting][generation.value] in keys:
                return generation
    return Generation.NLP if "recompute" in keys else Generation.FORMERS


def _recompute(policy: str, file: _File) -> dict[str, Value]:
    """PaddleNLP switches recomputation on and says how fine; PaddleFormers says how fine or nothing."""
    if file.generation is Generation.NLP:
        if policy == "none":
            return {"recompute": False}
        return {"recompute": True, "recompute_granularity": {"selective": "core_attn", "full": "full"}[policy]}
    switch: dict[str, Value] = {"recompute": policy != "none"} if "recompute" in file.keys else {}
    if policy == "full":
        return switch | {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    left: dict[str, Value] = {k: None for k in ("recompute_method", "recompute_num_layers") if k in file.keys}
    if policy == "selective":
        return switch | {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]} | left
    return switch | {"recompute_granularity": None} | left


def _pipeline(decided: Decided, file: _File, mesh: Degrees) -> dict[str, Value]:
    """How layers are dealt to stages, and in which order ranks are numbered."""
    values: dict[str, Value] = {}
    if file.has("chunks"):
        values[file.name("chunks")] = 1
    if mesh.pipeline > 1 and mesh.sharding > 1:
        # PaddleFormers numbers ranks of a sharding group farther apart than stages unless told so
        values["hybrid_parallel_topo_order"] = TOPO_ORDERS.get(mesh.order, "pp_first")
    if mesh.pipeline > 1 and "per_device_eval_batch_size" in file.keys:
        # PaddleFormers refuses a pipeline that evaluates with other rows than it trains with
        values["per_device_eval_batch_size"] = decided.plan.stages[0].replicas[0].micro_batch_rows
    head, tail = _empty_layers(decided, decided.plan) if mesh.pipeline > 1 else (0, 0)
    if file.generation is Generation.NLP:
        if head:
            raise Inexpressible(
                FORM,
                f"its first stage holds {head} layers less than the others, which files with PaddleNLP's keys have no "
                "word for",
            )
        return values | ({"add_tail_layers": tail} if tail or "add_tail_layers" in file.keys else {})
    names = {"num_empty_layers_add_in_head": head, "num_empty_layers_add_in_tail": tail}
    return values | {key: empty for key, empty in names.items() if empty or key in file.keys}


def _empty_layers(decided: Decided, plan: Plan) -> tuple[int, int]:
    """Empty layers before the first and behind the last decoder layer with which an even deal is the plan's deal."""
    counts = dealt_layers(FORM, decided.graph, plan)
    most = max(counts)
    for index, count in enumerate(counts[1:-1], 1):
        if count != most:
            raise Inexpressible(
                FORM,
                f"stage {index} holds {count} decoder layers and another {most}, of which only the first and the last "
                "stage may have less",
            )
    return most - counts[0], most - counts[-1]


def _notes(changes: tuple[Change, ...]) -> tuple[str, ...]:
    if not changes:
        return ("the config says all of it already",)
    return tuple(f"{c.key}: {c.before or 'not set'} → {c.after}" for c in changes)
