"""A model and data of your own under any plan: a small Transformer learns to go on counting.

Alone:               python examples/train.py
Under a plan:        nebula plan examples/own-layer.yaml -o own.json
                     nebula launch --cluster examples/clusters/emulated-4.yaml own.json examples/train.py
Started by yourself: NEBULA_PLAN=own.json python -m paddle.distributed.launch --nproc_per_node 4 examples/train.py
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

import nebula

VOCABULARY, LENGTH, WIDTH, HEADS, BLOCKS, ROWS, STEPS = 32, 16, 128, 4, 4, 32, 20


class Tokens(nn.Layer):
    """Token ids [b, s] -> [b, s, WIDTH]."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)

    def forward(self, ids):
        """Looks up what a token is and where it stands."""
        return self.tokens(ids) + self.positions(paddle.arange(ids.shape[1]))


class Block(nn.Layer):
    """Causal attention and a feed-forward, each added to its input."""

    def __init__(self):
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attend(self, x):
        """Mixes each token with those before it."""
        heads = self.qkv(x).reshape([0, 0, HEADS, 3 * WIDTH // HEADS]).transpose([0, 2, 1, 3])
        query, key, value = paddle.split(heads, 3, axis=-1)
        scores = paddle.matmul(query, key, transpose_y=True) * (WIDTH // HEADS) ** -0.5
        future = paddle.triu(paddle.full([x.shape[1], x.shape[1]], -1e9), 1)
        return paddle.matmul(F.softmax(scores + future), value).transpose([0, 2, 1, 3]).reshape([0, 0, WIDTH])

    def forward(self, x):
        """[b, s, WIDTH] -> [b, s, WIDTH]."""
        x = x + self.out(self.attend(self.first_norm(x)))
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


def factory():
    """The model as a chain, which a plan may cut between any two layers."""
    return nn.Sequential(Tokens(), *(Block() for _ in range(BLOCKS)), nn.Linear(WIDTH, VOCABULARY))


def loss(logits, labels):
    """Mean nats per token."""
    return F.cross_entropy(logits, labels.unsqueeze(-1))


def batch(step):
    """Rows that count upwards from any number by 1, 2 or 3; the label of a token is the next one."""
    random = np.random.RandomState(step)
    start, stride = random.randint(0, VOCABULARY, (ROWS, 1)), random.randint(1, 4, (ROWS, 1))
    rows = (start + stride * np.arange(LENGTH + 1)) % VOCABULARY
    return rows[:, :-1], rows[:, 1:]


def main():
    """Trains for STEPS steps."""
    plan = nebula.init()
    model = factory()
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.0))
    step = nebula.parallelize(model, optimizer, loss, plan)
    for index in range(STEPS):
        result = step(batch(index))  # the same global batch on every rank, each takes its rows
        if step.place.rank == 0:
            print(f"step {index + 1} · loss {result.loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
