"""What it takes to train a built-in model, by the kind of its config: its layers, its loss, and what a row of it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from paddle import nn

from nebula.models import ernie, objectives
from nebula.models.config import ErnieConfig
from nebula.models.data.batches import Batches
from nebula.models.decoder import DecoderModel
from nebula.models.decoders import LAYER_SPLITS, DecoderConfig
from nebula.models.routing import Routing

Ids = npt.NDArray[np.int64]

BALANCED = Routing(speed=1e-3)
"""Of built-in decoders with experts; the speed is that of DeepSeek-V3 (arXiv 2412.19437, section 4.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of a kind of config are trained.

    Attributes:
        model: makes one, with `.chain`, from its config.
        loss: (outputs, labels) -> scalar.
        tensor_split: what groups of ranks cut.
        sequences: of a row.
        batch: of some rows of a step: (data, step, rows) -> (inputs, labels).
        document_nats: of a model: (ids, labels), each [rows, 2, S] -> sum of the nats of the document's labels.
    """

    model: Callable[[Any], nn.Layer]
    loss: Callable[..., Any]
    tensor_split: Mapping[str, str]
    sequences: int
    batch: Callable[[Batches, int, Sequence[int]], tuple[Ids, Ids]]
    document_nats: Callable[[nn.Layer], Callable[[Ids, Ids], float]]


def family_of(config: ErnieConfig | DecoderConfig) -> Family:
    """How a model is trained.

    Raises:
        BadInput: when it is made: a decoder asks for what has no layers.
    """
    if isinstance(config, ErnieConfig):
        return Family(
            model=ernie.ErnieModel,
            loss=objectives.loss,
            tensor_split=ernie.tensor_split(config),
            sequences=2,
            batch=Batches.batch,
            document_nats=objectives.document_nats,
        )
    return Family(
        model=functools.partial(DecoderModel, routing=BALANCED),
        loss=objectives.next_token_loss,
        tensor_split=dict(LAYER_SPLITS),
        sequences=1,
        batch=Batches.documents,
        document_nats=_next_token_nats,
    )


def _next_token_nats(model: nn.Layer) -> Callable[[Ids, Ids], float]:
    """Of a model that reads the document alone."""
    nats = objectives.document_nats(model)
    return lambda ids, labels: nats(ids[:, 1], labels[:, 1])
