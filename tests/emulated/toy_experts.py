"""A decoder with experts, small enough to train twenty times over; as long a chain as the Transformer of toy_chain."""

import numpy as np
import paddle
from paddle import nn
from toy_chain import LENGTH, VOCABULARY, batch

from nebula.models.decoder import DecoderModel
from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import Experts
from nebula.models.experts import Router
from nebula.models.objectives import token_cross_entropy
from nebula.models.routing import Routing

CONFIG = DecoderConfig(
    style="llama",
    layers=4,
    hidden=32,
    heads=4,
    kv_heads=4,
    ffn=48,
    vocabulary=VOCABULARY,
    seq_len=LENGTH,
    fused_attention=False,
    experts=Experts(count=8, top_k=2, ffn=24, shared=1, dense_layers=1),
)
ROUTING = Routing(score="sigmoid", speed=1e-3)

__all__ = ["CONFIG", "ROUTING", "batch", "build", "loss"]


def loss(logits, labels, cross_entropy=token_cross_entropy):
    """The mean over rows; every row has the same number of targets."""
    return cross_entropy(logits, labels).sum() / (labels.shape[0] * (LENGTH - 1))


def build(optimizer="adamw"):
    """Model and optimizer with the weights that every process builds alike.

    With `starved` all tokens choose the first two experts, so that ranks that hold others get none.
    """
    paddle.seed(11)
    starved = optimizer == "starved"
    model = DecoderModel(CONFIG, ROUTING)
    for name, parameter in model.named_parameters():
        if "router" in name:  # so that tokens differ in what they choose
            parameter.set_value(parameter * 10.0)
    for layer in model.sublayers() if starved else ():
        if isinstance(layer, Router):
            layer.balance.set_value(np.array([10**6] * 2 + [0] * 6))
    common = {"parameters": model.parameters()}
    if optimizer in ("momentum", "starved"):
        return model, paddle.optimizer.Momentum(5e-2, momentum=0.8, grad_clip=nn.ClipGradByGlobalNorm(1.5), **common)
    clip = nn.ClipGradByGlobalNorm(0.5)
    return model, paddle.optimizer.AdamW(3e-3, epsilon=1e-6, grad_clip=clip, **common)
