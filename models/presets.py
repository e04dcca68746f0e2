"""The ERNIE 3.0 models by name: which published figures they have, and which of ours fill the gaps.

Published: layers, widths, heads, the 16-fold FFN of Titan, length 512 and memory 128 (arXiv 2107.02137 section 3;
arXiv 2112.12731 section 3). Assumed, because the papers do not say: the vocabulary of 40,000 (that of the students
which the team released), the FFN of the 10 B model and of the task modules at 4 times the width, dropout 0.1, and a
learned bias per clipped distance in place of Transformer-XL's sinusoids. The small model has no biases in its linears:
it learns as well without, and Paddle's CPU kernel sums a bias gradient as slowly as it multiplies the matrix.
"""

from __future__ import annotations

from nebula.errors import BadInput, closest
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.decoders import DecoderConfig, check_layers
from nebula.models.decoders_presets import DECODERS

TASK_MODULE = ModuleConfig(layers=12, hidden=768, heads=12, ffn=3072)

SMALL = ErnieConfig(
    universal=ModuleConfig(layers=6, hidden=256, heads=4, ffn=512),
    nlu=ModuleConfig(layers=2, hidden=256, heads=4, ffn=512),
    nlg=ModuleConfig(layers=2, hidden=256, heads=4, ffn=512),
    vocabulary=8192,
    seq_len=64,
    max_distance=64,
    biases=False,
)

TEN_BILLION = ErnieConfig(
    universal=ModuleConfig(layers=48, hidden=4096, heads=64, ffn=16384),
    nlu=TASK_MODULE,
    nlg=TASK_MODULE,
    vocabulary=40_000,
    seq_len=512,
    memory_length=128,
    dropout=0.1,
)

TITAN = ErnieConfig(
    universal=ModuleConfig(layers=48, hidden=12_288, heads=192, ffn=196_608),
    nlu=TASK_MODULE,
    nlg=TASK_MODULE,
    vocabulary=40_000,
    seq_len=512,
    memory_length=128,
    dropout=0.1,
)

PRESETS: dict[str, ErnieConfig] = {
    "ernie-3.0-small": SMALL,
    "ernie-3.0-10b": TEN_BILLION,
    "ernie-3.0-titan": TITAN,
}


TRAINED_DECODERS = ("ernie-4.5-small",)
"""Presets of decoders whose layers stand in decoder.py and train on the text of this repository."""


def trained(name: str) -> ErnieConfig | DecoderConfig:
    """The config called `name`, of a model that can be trained.

    Raises:
        BadInput: no preset has that name, or it is one that can be planned alone.
    """
    if name in TRAINED_DECODERS:
        return DECODERS[name]
    if name in DECODERS and name not in PRESETS:
        known = ", ".join((*PRESETS, *TRAINED_DECODERS))
        raise BadInput(f"model preset {name!r} is for dry runs; layers to train have {known}")
    return preset(name)


def layered(name: str) -> ErnieConfig | DecoderConfig:
    """The config called `name`, of a model whose layers stand here, be it too large to be trained here.

    Raises:
        BadInput: no preset has that name, or its layers do not.
    """
    if name in DECODERS and name not in PRESETS:
        check_layers(DECODERS[name])
        return DECODERS[name]
    return preset(name)


def preset(name: str) -> ErnieConfig:
    """The config of ERNIE 3.0 called `name`.

    Raises:
        BadInput: no preset has that name, or it is a decoder's.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in DECODERS:
        raise BadInput(f"model preset {name!r} is a decoder; ERNIE 3.0 has {', '.join(PRESETS)}")
    raise BadInput(f"model preset {name!r} is unknown: {closest(name, PRESETS)}")
