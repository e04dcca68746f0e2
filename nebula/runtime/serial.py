"""The plan of one process that holds the whole model: what a script runs under when nobody gave it a plan."""

from __future__ import annotations

from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding

ALL_LAYERS = -1
"""Last layer of the one stage when the model's length is not known."""


def serial_plan(
    *, global_batch: int = 0, micro_batches: int = 1, layers: int = ALL_LAYERS, recompute: str = "none"
) -> Plan:
    """One rank, one stage.

    Args:
        global_batch: rows of a step; 0: whatever a batch holds.
        micro_batches: equal parts into which a step's rows are cut.
    """
    rows = global_batch // micro_batches
    stages = uniform_stages(
        boundaries=(0, layers), data=1, tensor=1, sharding=Sharding(), micro_batch_rows=rows, recompute=recompute
    )
    return Plan(
        stages=stages,
        micro_batches=micro_batches,
        schedule="1f1b",
        engine="serial",
        ranks=(RankPlace("local/0", 0),),
        job=Job(global_batch=global_batch),
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
        because="no plan was given: one process holds the whole model",
    )
