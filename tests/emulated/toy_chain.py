"""A Transformer small enough to train twenty times over, as a chain that every kind of split can cut."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

VOCABULARY, WIDTH, HEADS, LENGTH, BLOCKS, ROWS = 64, 32, 4, 8, 4, 16
LAYERS = BLOCKS + 2
SPLIT = {
    "tokens": "vocabulary",
    "qkv": "column",
    "bias": "heads",
    "out": "row",
    "up": "column",
    "down": "row",
    "projection": "vocabulary",
}


class Embed(nn.Layer):
    whole_outputs = (1,)
    token_wise = True

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, ids):
        return self.tokens(ids), paddle.triu(paddle.full([LENGTH, LENGTH], -1e9), 1)


class Bias(nn.Layer):
    def __init__(self):
        super().__init__()
        self.table = self.create_parameter([HEADS, LENGTH, LENGTH])

    def forward(self):
        return self.table


class Block(nn.Layer):
    """Takes and returns (activations, mask); the mask needs no gradient."""

    selective_recompute = ("attend",)
    mixes_tokens = {"attend": "scores"}
    whole_outputs = (1,)
    token_wise = True

    def __init__(self):
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.bias = Bias()

    def attend(self, query, key, value, mask):
        every = range(LENGTH)
        weights = F.softmax(self.scores(query, key, mask, queries=every, keys=every))
        return paddle.matmul(weights, value.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3]).reshape([0, 0, -1])

    def scores(self, query, key, mask, *, queries, keys):
        query, key = (part.transpose([0, 2, 1, 3]) for part in (query, key))
        near = slice(queries.start, queries.stop), slice(keys.start, keys.stop)
        scores = paddle.matmul(query, key, transpose_y=True) * (WIDTH // HEADS) ** -0.5
        return scores + self.bias()[:, near[0], near[1]] + mask[near]

    def forward(self, inputs):
        x, mask = inputs
        heads = self.qkv(self.first_norm(x)).reshape([0, 0, -1, 3 * WIDTH // HEADS])
        x = x + self.out(self.attend(*paddle.split(heads, 3, axis=-1), mask))
        return x + self.down(F.gelu(self.up(self.second_norm(x)))), mask


class Head(nn.Layer):
    token_wise = True

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, inputs):
        return self.projection(self.norm(inputs[0]))


class TiedHead(nn.Layer):
    """The head whose projection is the embedding's table."""

    token_wise = True

    def __init__(self, embed):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.table = embed.tokens.weight

    def forward(self, inputs):
        return paddle.matmul(self.norm(inputs[0]), self.table, transpose_y=True)


class Toy(nn.Layer):
    tensor_split = SPLIT

    def __init__(self, tied=False):
        super().__init__()
        embed, blocks = Embed(), [Block() for _ in range(BLOCKS)]
        self.chain = nn.LayerList([embed, *blocks, TiedHead(embed) if tied else Head()])


def nats(logits, labels):
    return F.cross_entropy(logits, labels.unsqueeze(-1), reduction="none", ignore_index=-100).squeeze(-1)


def loss(logits, labels, cross_entropy=nats):
    """The mean over rows; every row has the same number of targets."""
    return cross_entropy(logits, labels).sum() / (labels.shape[0] * (LENGTH - 1))


def build(optimizer="adamw"):
    """Model and optimizer with the weights that every process builds alike.

    The bias of a key moves no softmax: its gradient is rounding alone, which Adam divides by itself. Its epsilon stands
    above that rounding (1e-9), so that the weights of two runs can be compared. `groups` trains the blocks alone, in
    two groups that are clipped apart.
    """
    paddle.seed(7)
    model = Toy(tied=optimizer == "tied")
    common = {"parameters": model.parameters()}
    if optimizer in ("momentum", "tied"):
        clip = nn.ClipGradByGlobalNorm(1.5)
        return model, paddle.optimizer.Momentum(5e-2, momentum=0.8, grad_clip=clip, **common)
    if optimizer == "groups":
        blocks = [p for block in list(model.chain)[1:-1] for p in block.parameters()]
        parted = [[p for p in blocks if (p.ndim > 1) == matrices] for matrices in (True, False)]
        return model, paddle.optimizer.Momentum(
            5e-2,
            parameters=[{"params": parted[0]}, {"params": parted[1], "grad_clip": nn.ClipGradByGlobalNorm(0.05)}],
            grad_clip=nn.ClipGradByGlobalNorm(0.2),
        )
    common |= {"epsilon": 1e-6, "grad_clip": nn.ClipGradByGlobalNorm(0.5)}
    if optimizer == "decay rule":
        decayed = {parameter.name for parameter in model.parameters() if parameter.ndim > 1}
        return model, paddle.optimizer.AdamW(
            3e-3, weight_decay=2.0, apply_decay_param_fun=decayed.__contains__, **common
        )
    return model, paddle.optimizer.AdamW(3e-3, **common)


def batch(step, rows=ROWS):
    """Rows to learn by heart, in another order each step; the first target of a row is ignored."""
    data = np.random.RandomState(5).randint(0, VOCABULARY, (rows, LENGTH + 1))
    data = data[np.random.RandomState(step).permutation(rows)]
    labels = data[:, 1:].copy()
    labels[:, 0] = -100
    return data[:, :-1], labels
