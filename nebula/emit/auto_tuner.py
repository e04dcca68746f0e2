"""The planner's best plans as the search space of Paddle's auto_tuner, which tries each of them for real.

Paddle's grid search multiplies ranges and would try what nobody chose; its search `customize` takes the rows of a CSV
file one by one, so that file stands beside the JSON. Checked against PaddlePaddle 3.3.1. Left out, with a note, are
candidates on other numbers of ranks (a launch has one) and those that deal layers unevenly.
"""

from __future__ import annotations

import csv
import io
from pathlib import PurePath
from typing import Any

from nebula.emit.expressible import (
    ON_FLEET,
    Inexpressible,
    dealt_layers,
    even,
    no_sequence,
    one_recompute,
    order_notes,
    require,
)
from nebula.emit.values import Decided, Emitted, Options
from nebula.errors import BadInput
from nebula.plan.files import render
from nebula.plan.values import Plan
from nebula.runtime.place import degrees

FORM = "auto-tuner"

COLUMNS = (
    "dp_degree",
    "mp_degree",
    "pp_degree",
    "vpp_degree",
    "micro_batch_size",
    "sharding_degree",
    "sharding_stage",
    "use_recompute",
    "recompute_granularity",
)
"""Of the CSV file, as paddle.distributed.auto_tuner reads it."""

RUN_CMD = {
    "mp_degree": ["--tensor_parallel_degree", ""],
    "pp_degree": ["--pipeline_parallel_degree", ""],
    "vpp_degree": ["--virtual_pp_degree", ""],
    "sharding_degree": ["--sharding_parallel_degree", ""],
    "sharding_stage": ["--sharding", "stage"],
    "micro_batch_size": ["--per_device_train_batch_size", ""],
    "gradient_accumulation_steps": ["--gradient_accumulation_steps", ""],
    "use_recompute": ["--recompute", ""],
    "recompute_granularity": ["--recompute_granularity", ""],
}
"""How the tuner tells the script what to try: the arguments of PaddleNLP's trainer."""

GRANULARITY = {"none": "full", "selective": "core_attn", "full": "full"}
"""The tuner's word for each recompute policy; without recomputation it stands there and is not heeded."""


def emit(decided: Decided, options: Options) -> Emitted:
    """The JSON of the tuner, and the CSV of its candidates beside it.

    Raises:
        BadInput: no file was named, or the best plan cannot be expressed.
    """
    if not options.to:
        raise BadInput("auto-tuner needs two files, a JSON and the CSV that it names: name the first, tuner.json")
    path = PurePath(options.to)
    if path.suffix != ".json":
        raise BadInput(f"{path}: Paddle's auto_tuner reads a file whose name ends in .json; name it {path.stem}.json")
    beside = str(path.with_name(f"{path.stem}_candidates.csv"))
    rows, notes = candidates(decided)
    notes += order_notes(decided.plan)
    document = _tuner(decided.plan, beside, len(rows))
    launch = f"--devices ... --auto_tuner_json {path} {options.script}"
    notes += (
        f"start it with python -m paddle.distributed.launch {launch}, from the folder that {beside} is named from",
        "run_cmd names the arguments of PaddleNLP's trainer and metric_cfg a number of its log: change them to yours",
    )
    text = render(document) + "\n"
    return Emitted(text=text, document=document, beside=((beside, _table(rows)),), notes=notes)


def candidates(decided: Decided) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The rows of the candidates that the tuner can try, best first and each once, and what was left out.

    Raises:
        BadInput: the best plan cannot be expressed.
    """
    rows: list[dict[str, Any]] = [_row(decided, decided.plan)]
    lost: list[str] = []
    for plan in decided.candidates[1:]:
        try:
            row = _row(decided, plan)
        except Inexpressible as error:
            lost.append(error.sentence)
            continue
        if row not in rows:
            rows.append(row)
    many = "s" if len(lost) > 1 else ""
    return rows, (f"left out {len(lost)} candidate{many}: {'; '.join(dict.fromkeys(lost))}",) if lost else ()


def _row(decided: Decided, plan: Plan) -> dict[str, Any]:
    """The plan in the tuner's words."""
    require(FORM, plan, *ON_FLEET, no_sequence, one_recompute)
    if len(plan.stages) > 1:
        even(FORM, dealt_layers(FORM, decided.graph, plan))
    if plan.world_size != decided.plan.world_size:
        ranks = f"{plan.world_size} ranks where the best plan has {decided.plan.world_size}"
        raise Inexpressible(FORM, f"{ranks}, one launch has one number")
    mesh, first = degrees(plan), plan.stages[0]
    return {
        "dp_degree": mesh.data,
        "mp_degree": mesh.tensor,
        "pp_degree": mesh.pipeline,
        "vpp_degree": 1,
        "micro_batch_size": first.replicas[0].micro_batch_rows,
        "sharding_degree": mesh.sharding,
        "sharding_stage": max(1, first.sharding.stage),
        "use_recompute": first.recompute != "none",
        "recompute_granularity": GRANULARITY[first.recompute],
    }


def _tuner(plan: Plan, configs_csv: str, rows: int) -> dict[str, Any]:
    return {
        "search_algo": {"name": "customize"},
        "configs_csv": configs_csv,
        # the search `customize` does not end by itself
        "task_limit": rows,
        "model_cfg": {"global_batch_size": plan.job.global_batch},
        "metric_cfg": {"name": "interval_samples_per_second", "OptimizationDirection": "Maximize"},
        "run_cmd": RUN_CMD,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
