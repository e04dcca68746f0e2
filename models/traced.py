"""The distributed graph of a built-in model from its real Paddle layers: what describe.py writes down, traced.

Weights take no memory: the layers are built lazily.
"""

from __future__ import annotations

from dataclasses import replace

import paddle
from paddle.static import InputSpec

from nebula.graph.capture import About, capture
from nebula.graph.values import DistributedGraph
from nebula.models.config import ErnieConfig
from nebula.models.ernie import chain
from nebula.models.objectives import loss
from nebula.models.presets import preset
from nebula.models.splits import ERNIE_SPLITS


def traced_preset(name: str, *, seq_len: int | None = None) -> DistributedGraph:
    """The traced graph of an ERNIE preset in float32, for micro-batches of one row.

    Raises:
        BadInput: no preset has that name.
    """
    config = preset(name)
    return traced_ernie(name, replace(config, seq_len=seq_len) if seq_len else config)


def traced_ernie(name: str, config: ErnieConfig) -> DistributedGraph:
    """The traced graph of any config, layers and modules named as in the description."""
    with paddle.LazyGuard():
        layers = chain(config)
    ids = InputSpec([None, 2, config.seq_len], "int64")
    universal, task = config.universal.layers, config.task_layers
    names = ["embedding", *(f"universal.{i}" for i in range(universal))]
    names += ["entry", *(f"task.{i}" for i in range(task)), "head"]
    modules = ["embedding", *["universal"] * universal, "task entry", *["task"] * task, "head"]
    about = About(name=name, layer_names=names, modules=modules, tokens_per_row=2 * config.seq_len, splits=ERNIE_SPLITS)
    return capture(layers, [ids], about, loss=loss, labels=ids)
