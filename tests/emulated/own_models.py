"""Models as someone else writes them, who knows nothing of Nebula: what is trained, on what, and how it is a chain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

ROWS, LENGTH, VOCABULARY, WIDTH, HEADS, BLOCKS = 16, 8, 64, 32, 4, 3


class Attention(nn.Layer):
    def __init__(self):
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = HEADS, HEADS // 2, WIDTH // HEADS
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)
        self.o_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, attention_mask, position_embeddings):
        def heads(projected, count):
            return projected.reshape([0, 0, count, self.head_dim]).transpose([0, 2, 1, 3])

        query = heads(self.q_proj(x), self.num_heads) + position_embeddings
        key = heads(self.k_proj(x), self.num_key_value_heads) + position_embeddings
        value = heads(self.v_proj(x), self.num_key_value_heads)
        key, value = (each.repeat_interleave(2, axis=1) for each in (key, value))
        scores = paddle.matmul(query, key, transpose_y=True) * self.head_dim**-0.5 + attention_mask
        return self.o_proj(paddle.matmul(F.softmax(scores), value).transpose([0, 2, 1, 3]).flatten(2))


class FeedForward(nn.Layer):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.down_proj = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class FusedFeedForward(nn.Layer):
    """Two matrices in one, side by side."""

    def __init__(self):
        super().__init__()
        self.both, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, axis=-1)
        return self.down(F.silu(gate) * up)


class DecoderLayer(nn.Layer):
    def __init__(self, feed_forward):
        super().__init__()
        self.self_attn, self.mlp = Attention(), feed_forward()
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, use_cache=False):
        assert not use_cache
        x = hidden_states + self.self_attn(self.input_layernorm(hidden_states), attention_mask, position_embeddings)
        return (x + self.mlp(self.post_attention_layernorm(x)),)


class Positions(nn.Layer):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", 10.0 ** -paddle.arange(WIDTH // HEADS, dtype="float32"))

    def forward(self, length):
        return paddle.arange(length, dtype="float32").unsqueeze(-1).matmul(self.frequencies.unsqueeze(0)).cos()


class Decoder(nn.Layer):
    def __init__(self, feed_forward):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.LayerList([DecoderLayer(feed_forward) for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.rotary_emb = Positions()

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=True):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        mask = paddle.triu(paddle.full([x.shape[1], x.shape[1]], -1e9), 1)
        positions = self.rotary_emb(x.shape[1])
        for layer in self.layers:
            x = layer(x, attention_mask=mask, position_embeddings=positions, use_cache=use_cache)[0]
        return self.norm(x)


class CausalModel(nn.Layer):
    def __init__(self, feed_forward=FeedForward):
        super().__init__()
        self.model = Decoder(feed_forward)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias_attr=False)

    def forward(self, input_ids):
        return self.lm_head(self.model(input_ids, use_cache=False))


class FusedModel(CausalModel):
    tensor_split = {
        "*both": "halves",
        "*down": "row",
        "*[qkv]_proj": "column",
        "*o_proj": "row",
        "*self_attn": "counts",
    }

    def __init__(self):
        super().__init__(FusedFeedForward)


class Classifier(nn.Layer):
    """Paddle's own encoder layers, over embedded tokens."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, BLOCKS)
        self.classes = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        return self.classes(self.encoder(self.tokens(ids)))


def classifier_chain(model):
    return [nn.Sequential(("tokens", model.tokens)), *model.encoder.layers, nn.Sequential(("classes", model.classes))]


def resnet():
    from paddle.vision.models import resnet

    return resnet.ResNet(resnet.BasicBlock, 18, num_classes=VOCABULARY)


def resnet_chain(model):
    blocks = [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
    first = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    return [first, *blocks, nn.Sequential(model.avgpool, nn.Flatten(), model.fc)]


def nats(logits, labels):
    return F.cross_entropy(logits, labels.unsqueeze(-1), reduction="none").squeeze(-1)


def loss(logits, labels, cross_entropy=nats):
    return cross_entropy(logits, labels).mean()


def tokens(step):
    data = np.random.RandomState(5).randint(0, VOCABULARY, (ROWS, LENGTH + 1))
    data = data[np.random.RandomState(step).permutation(ROWS)]
    return data[:, :-1], data[:, 1:]


def pictures(step):
    random, order = np.random.RandomState(5), np.random.RandomState(step).permutation(ROWS)
    data, labels = random.randn(ROWS, 3, 32, 32).astype("float32"), random.randint(0, VOCABULARY, ROWS)
    return data[order], labels[order]


@dataclass(frozen=True)
class Own:
    """A model with its batches; `serial_micro_batches` where its result depends on how rows are parted."""

    make: Callable[[], nn.Layer]
    batch: Callable[[int], Any] = tokens
    chain: Callable[[nn.Layer], list[nn.Layer]] | None = None
    serial_micro_batches: int = 1
    rate: float = 2e-2
    steps: int = 8


OWN = {
    "causal": Own(CausalModel),
    "fused": Own(FusedModel),
    "classifier": Own(Classifier, chain=classifier_chain),
    "resnet": Own(resnet, pictures, resnet_chain, serial_micro_batches=2, rate=2e-3, steps=4),
}


def optimizer_of(model, rate):
    clip = nn.ClipGradByGlobalNorm(1.0)
    return paddle.optimizer.Momentum(rate, momentum=0.8, parameters=model.parameters(), grad_clip=clip)
