"""The graph of a model that a Hugging Face `config.json` describes, and what is wrong with the file where it is not.

Shapes alone are read: keys that no cost depends on (rotary bases, token ids, quantization) are ignored, as is
multi-token prediction. What the families are stands in hugging_face_families.py and hugging_face_experts.py.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nebula.errors import BadInput, Suspicious, shown
from nebula.graph.values import DistributedGraph
from nebula.marked_yaml import plain
from nebula.models.decoders import DecoderConfig
from nebula.models.describe import decoder_graph
from nebula.models.hugging_face_experts import Deepseek, Ernie45Moe, Mixtral, Qwen3Moe
from nebula.models.hugging_face_families import Ernie45, Family, Gemma, Gpt2, Llama, Mistral, Qwen2, Qwen3
from nebula.validation import validated

FAMILIES: dict[str, type[Family]] = {
    "llama": Llama,
    "mistral": Mistral,
    "mixtral": Mixtral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen3_moe": Qwen3Moe,
    "gemma": Gemma,
    "deepseek_v2": Deepseek,
    "deepseek_v3": Deepseek,
    "ernie4_5": Ernie45,
    "ernie4_5_moe": Ernie45Moe,
    "gpt2": Gpt2,
}
"""By the `model_type` of the file."""

MOST_BYTES = 2**20
"""A larger file is no model's config."""

USUAL_LENGTH = 8192
"""Tokens of a row where the run file gives none and the model could read more: configs give the longest context, which
at most the end of a training has; Llama 3 was pre-trained at 8,192, most others at 4,096."""


def hugging_face_graph(path: Path, *, seq_len: int | None = None, dtype: str = "bfloat16") -> DistributedGraph:
    """The graph of the model in a `config.json` for micro-batches of one row, named after its folder.

    Args:
        path: of the file.
        seq_len: tokens of a row; None: the longest context, USUAL_LENGTH at most, of which a warning tells.
        dtype: of parameters and activations.

    Raises:
        BadInput: the file cannot be read, is of an unknown family, lacks a key or contradicts itself.
    """
    name = path.resolve().parent.name if path.stem == "config" else path.stem
    return decoder_graph(name, decoder_of(_json(path), str(path), seq_len), dtype)


def decoder_of(value: Mapping[str, Any], source: str, seq_len: int | None = None) -> DecoderConfig:
    """The decoder that the keys of a `config.json` describe; `source` names the file in errors.

    Raises:
        BadInput: as hugging_face_graph.
    """
    kind = value.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        said = f"model_type {shown(kind)} is not known" if "model_type" in value else "the key 'model_type' is missing"
        known = ", ".join(sorted(FAMILIES))
        raise BadInput(f"{source}: {said}; known are {known}; give another model as a Paddle layer with model.layer")
    family = validated(plain(value, source), FAMILIES[kind])
    try:
        return family.decoder(seq_len or _usual(family.context, source))
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None


def _usual(context: int, source: str) -> int:
    """Tokens of a row when the run file does not say."""
    if context > USUAL_LENGTH:
        longest = f"{source}: {context:,} tokens are the longest context, not the length of training"
        warnings.warn(f"{longest}; rows have {USUAL_LENGTH:,}, set model.seq_len for others", Suspicious, stacklevel=3)
    return min(context, USUAL_LENGTH)


def _json(path: Path) -> dict[str, Any]:
    """The mapping in a file.

    Raises:
        BadInput: there is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise BadInput(f"{path}: larger than {MOST_BYTES // 2**20} MiB, which no model's config is")
        value = json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}; save the file again") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{path}: not JSON in UTF-8; save the file again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: a config.json is a mapping of keys, not {shown(value)}")
    return value
