"""The chain of a causal language model that someone else wrote, as PaddleFormers and Hugging Face lay it out.

Recognised by its names: `lm_head`, and in the base model `embed_tokens`, `layers` and `norm`. What the base model's own
forward gives each layer beside the hidden states (masks, rotary tables) is asked of that forward itself, once for each
shape, so that only hidden states cross a border (nebula.runtime.decoder_flow, which refuses a model that does more). It
knows token ids alone: padding, positions or labels of one's own need a chain of one's own.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime.decoder_flow import Arguments, layer_calls

_BASE = ("embed_tokens", "layers", "norm")


def base_of(model: nn.Layer) -> nn.Layer | None:
    """The sublayer that holds the embedding, the layers and the last norm; None where the model is no such one."""
    if not isinstance(getattr(model, "lm_head", None), nn.Layer):
        return None
    bases = [base for base in model.children() if all(isinstance(getattr(base, n, None), nn.Layer) for n in _BASE)]
    return bases[0] if len(bases) == 1 else None


def decoder_chain(model: nn.Layer, base: nn.Layer) -> list[nn.Layer]:
    """Embedding, layers, norm and head, each taking and returning a tensor: ids [rows, s] to logits."""
    around = Around(base)
    return [
        Tokens(base.embed_tokens),
        *(Surrounded(layer, around, index) for index, layer in enumerate(base.layers)),
        nn.Sequential(("norm", base.norm)),
        nn.Sequential(("lm_head", model.lm_head)),
    ]


class Tokens(nn.Layer):
    """ids [rows, s], alone or as `input_ids` of a dict, to hidden states."""

    def __init__(self, embed_tokens: nn.Layer) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens

    def forward(self, ids: Any) -> paddle.Tensor:
        """Looks the tokens up.

        Raises:
            BadInput: there is more than ids.
        """
        if isinstance(ids, dict) and list(ids) == ["input_ids"]:
            ids = ids["input_ids"]
        if not isinstance(ids, paddle.Tensor):
            told = ", ".join(ids) if isinstance(ids, dict) else type(ids).__name__
            raise BadInput(f"a causal language model is fed with token ids alone, not {told}; for more give `chain`")
        return self.embed_tokens(ids)


class Surrounded(nn.Layer):
    """One layer of the base model, called as the base model calls it."""

    def __init__(self, layer: nn.Layer, around: Around, index: int) -> None:
        super().__init__()
        self.layer, self.around, self.index = layer, around, index

    def forward(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """[rows, s, width] -> the same shape."""
        given, named = self.around(hidden, self.index)
        outputs = self.layer(hidden, *given, **named)
        return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


class Around:
    """What a base model gives its layers beside hidden states, for each shape of these; no parameters are in it."""

    def __init__(self, base: nn.Layer) -> None:
        self._base = base
        self._known: dict[tuple[Any, ...], tuple[Arguments, ...]] = {}

    def __call__(self, hidden: paddle.Tensor, index: int) -> Arguments:
        """What the layer of that index takes besides."""
        key = (*hidden.shape, hidden.dtype, str(hidden.place))
        if key not in self._known:
            for child in self._base.children():
                if not child.parameters():
                    child.to(device=paddle.get_device())
            self._known[key] = layer_calls(self._base, hidden)
        return self._known[key][index]
