"""The job of the benchmark overhead: a small GPT whose matrices whoever writes the script makes, and its batch."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

VOCABULARY, WIDTH, HEADS, LENGTH, BLOCKS = 2048, 256, 4, 64, 4
ROWS, RATE, CLIP = 8, 1e-4, 1.0


def batch():
    """Tokens [ROWS, LENGTH] and the tokens after them, of the global batch."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH + 1))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def optimizer(model):
    clip = nn.ClipGradByGlobalNorm(CLIP)
    return paddle.optimizer.AdamW(RATE, parameters=model.parameters(), grad_clip=clip)


class Tokens(nn.Layer):
    def __init__(self, embedding=nn.Embedding):
        super().__init__()
        self.tokens, self.positions = embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)

    def forward(self, ids):
        return self.tokens(ids) + self.positions(paddle.arange(LENGTH))


class Block(nn.Layer):
    def __init__(self, column=nn.Linear, row=nn.Linear):
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = column(WIDTH, 3 * WIDTH), row(WIDTH, WIDTH)
        self.up, self.down = column(WIDTH, 4 * WIDTH), row(4 * WIDTH, WIDTH)

    def attend(self, x):
        heads = self.qkv(x).reshape([0, 0, -1, 3 * WIDTH // HEADS]).transpose([0, 2, 1, 3])
        query, key, value = paddle.split(heads, 3, axis=-1)
        scores = paddle.matmul(query, key, transpose_y=True) * (WIDTH // HEADS) ** -0.5
        future = paddle.triu(paddle.full([LENGTH, LENGTH], -1e9), 1)
        return paddle.matmul(F.softmax(scores + future), value).transpose([0, 2, 1, 3]).reshape([0, 0, -1])

    def forward(self, x):
        x = x + self.out(self.attend(self.first_norm(x)))
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


class Head(nn.Layer):
    def __init__(self, column=nn.Linear):
        super().__init__()
        self.norm, self.projection = nn.LayerNorm(WIDTH), column(WIDTH, VOCABULARY)

    def forward(self, x):
        return self.projection(self.norm(x))


def nats(logits, labels):
    return F.cross_entropy(logits, labels.unsqueeze(-1), reduction="none").squeeze(-1)


def loss(logits, labels, cross_entropy=nats):
    return cross_entropy(logits, labels).mean()
