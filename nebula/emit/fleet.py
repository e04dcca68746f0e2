"""A plan as the settings of paddle.distributed.fleet: hybrid_configs, pipeline_configs and what stands beside them.

The text is a Python module that sets fleet up; the document holds the same dicts. Keys are those of PaddlePaddle
3.3.1's DistributedStrategy. Refused is a plan whose stages differ, and what no hybrid topology has an axis for.
"""

from __future__ import annotations

import json
from pprint import pformat
from typing import Any

from nebula.emit.expressible import ON_FLEET, no_sequence, require
from nebula.emit.values import Decided, Emitted, Options
from nebula.plan.values import Plan
from nebula.runtime.place import degrees

_TEMPLATE = '''\
"""paddle.distributed.fleet for {model} on {cluster}: {split}."""

from paddle.distributed import fleet

strategy = fleet.DistributedStrategy()
strategy.hybrid_configs = {hybrid}
strategy.pipeline_configs = {pipeline}
fleet.init(is_collective=True, strategy=strategy)

MICRO_BATCH_SIZE = {rows}
ACCUMULATE_STEPS = {steps}
# of ZeRO, over the ranks of sharding_degree; 0: none
SHARDING_STAGE = {stage}
# PipelineLayer(..., seg_method=SEG_METHOD): first layer of each stage of the chain, and its length
SEG_METHOD = {boundaries}
# of each stage: none, selective (attention cores) or full
RECOMPUTE = {recompute}
# of each stage: how many of its layers are under it, the first ones; 0: all
RECOMPUTE_LAYERS = {recompute_layers}
'''


def emit(decided: Decided, options: Options) -> Emitted:
    """The module and its dicts.

    Raises:
        BadInput: fleet cannot express the plan.
    """
    del options
    plan = decided.plan
    settings = fleet_settings(plan)
    text = _TEMPLATE.format(
        model=_in_docstring(plan.made_from.model or decided.graph.name),
        cluster=_in_docstring(decided.cluster.name),
        split=plan.split,
        hybrid=_dict(settings["hybrid_configs"]),
        pipeline=_dict(settings["pipeline_configs"]),
        rows=settings["micro_batch_size"],
        steps=settings["accumulate_steps"],
        stage=settings["sharding_stage"],
        boundaries=pformat(settings["seg_method"], width=100, compact=True),
        recompute=pformat(settings["recompute"], width=100, compact=True),
        recompute_layers=pformat(settings["recompute_layers"], width=100, compact=True),
    )
    return Emitted(text=text, document=settings)


def fleet_settings(plan: Plan) -> dict[str, Any]:
    """What fleet is told of a plan.

    Raises:
        BadInput: fleet cannot express the plan.
    """
    require("fleet", plan, *ON_FLEET, no_sequence)
    mesh, first = degrees(plan), plan.stages[0]
    rows = first.replicas[0].micro_batch_rows
    return {
        "hybrid_configs": {
            "dp_degree": mesh.data,
            "mp_degree": mesh.tensor,
            "pp_degree": mesh.pipeline,
            "sharding_degree": mesh.sharding,
            "sep_degree": 1,
            "order": mesh.paddle_order,
            "pp_configs": {},
        },
        "pipeline_configs": {
            "micro_batch_size": rows,
            "accumulate_steps": plan.micro_batches,
            "schedule_mode": "1F1B",
        },
        "sharding_stage": first.sharding.stage,
        "micro_batch_size": rows,
        "accumulate_steps": plan.micro_batches,
        "seg_method": [stage.layers[0] for stage in plan.stages] + [plan.stages[-1].layers[1]],
        "recompute": [stage.recompute for stage in plan.stages],
        "recompute_layers": [stage.recompute_layers for stage in plan.stages],
    }


def _dict(values: dict[str, Any]) -> str:
    """A dict as Python spells it, an entry a line; of numbers, words and lists JSON is Python."""
    entries = (f"    {json.dumps(key)}: {json.dumps(value)},\n" for key, value in values.items())
    return "{\n" + "".join(entries) + "}"


def _in_docstring(name: str) -> str:
    """A name as a docstring can hold it."""
    return name.replace("\\", "/").replace('"', "'")
