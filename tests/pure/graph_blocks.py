"""The blocks that the tests of partition cut: feed-forward, Transformer layer, mixture of experts, a model's ends."""

from nebula.graph.builder import BlockBuilder, described
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Block

SPLITS = (
    ("attention.qkv", "column"),
    ("attention.[qkv]", "column"),
    ("attention.out", "row"),
    ("ffn.up", "column"),
    ("ffn.down", "row"),
    ("words", "vocabulary"),
    ("head", "vocabulary"),
)


def written(name, rows, body) -> Block:
    """The block that `body` writes into a builder, at that many rows; `body` returns what leaves it."""

    def build(rows):
        builder = BlockBuilder(name, rows=rows, dtype="float32")
        return builder.build(body(builder))

    return block_with_rows(described(build), rows)


def mlp(rows=4, places=6, hidden=12) -> Block:
    """Two Linears with gelu between, a residual and a norm."""

    def body(b):
        x = b.input((b.rows, places, hidden))
        y = b.linear("ffn.down", b.unary("gelu", b.linear("ffn.up", x, 4 * hidden), approximate=False), hidden)
        return b.layer_norm("norm", b.binary("add", x, y))

    return written("Mlp", rows, body)


def flat_mlp(rows=4, places=6, hidden=12) -> Block:
    """Two Linears over [rows * places, hidden], with a residual."""

    def body(b):
        x = b.input((b.rows * places, hidden))
        y = b.linear("ffn.down", b.unary("gelu", b.linear("ffn.up", x, 4 * hidden), approximate=False), hidden)
        return b.binary("add", x, y)

    return written("FlatMlp", rows, body)


def two_readers(places=4, hidden=3, width=4) -> Block:
    """A product and a scan along the sequence read the same tensor."""

    def body(b):
        x = b.input((b.rows, places, hidden))
        product = b.reduce("sum", b.linear("ffn.up", x, width), (2,))
        return b.binary("add", product, b.reduce("sum", b.unary("cumsum", x, axis=1), (2,)))

    return written("TwoReaders", 1, body)


def _heads(b, x, heads, fused):
    places, hidden = b.shape(x)[1:]
    width = hidden // heads
    per_head = (b.rows, places, heads, width)
    if fused == "apart":
        parts = [b.linear(f"attention.{c}", x, hidden) for c in "qkv"]
        return [b.reshape(part, per_head) for part in parts]
    y = b.linear("attention.qkv", x, 3 * hidden)
    if fused == "by head":
        return b.split(b.reshape(y, (b.rows, places, heads, 3 * width)), (width,) * 3, axis=3)
    if fused == "stacked":
        return b.unbind(b.reshape(y, (b.rows, places, 3, heads, width)), axis=2)
    return [b.reshape(part, per_head) for part in b.split(y, (hidden,) * 3, axis=2)]


def transformer(rows=4, places=6, hidden=24, heads=6, fused="by head") -> Block:
    """A pre-norm Transformer layer; query, key and value lie `by head`, `side by side`, `stacked` or `apart`."""

    def body(b):
        x = b.input((b.rows, places, hidden))
        q, k, v = (b.transpose(part, (0, 2, 1, 3)) for part in _heads(b, b.layer_norm("norm1", x), heads, fused))
        scores = b.matmul(b.scale(q, (hidden // heads) ** -0.5), k, transpose_y=True)
        y = b.transpose(b.matmul(b.softmax(scores), v), (0, 2, 1, 3))
        y = b.linear("attention.out", b.reshape(y, (b.rows, places, hidden)), hidden)
        x = b.binary("add", x, y)
        y = b.unary("gelu", b.linear("ffn.up", b.layer_norm("norm2", x), 4 * hidden), approximate=False)
        return b.binary("add", x, b.linear("ffn.down", y, hidden))

    return written("Layer", rows, body)


def attention(rows=1, places=8, heads=4, width=2) -> Block:
    """Causal attention in one operator, with its projections and a residual."""
    hidden = heads * width

    def body(b):
        x = b.input((b.rows, places, hidden))
        parts = _heads(b, x, heads, "apart")
        statistics = (b.rows, heads, places)
        y = b.operate("attention", parts, b.shape(parts[0]), statistics, causal=True)[0]
        return b.binary("add", x, b.linear("attention.out", b.reshape(y, (b.rows, places, hidden)), hidden))

    return written("Attention", rows, body)


def experts(groups=4, tokens=6, hidden=8, count=4, wide=12) -> Block:
    """A mixture of experts with one expert a token, as GShard writes it: dispatch and combine are einsums."""

    def body(b):
        g = b.rows

        def einsum(equation, x, y, *shape):
            return b.operate("einsum", (x, y), shape, equation=equation)[0]

        x = b.input((g, tokens, hidden))
        chances = b.softmax(b.matmul(x, b.parameter("gate.weight", (hidden, count))))
        indices = b.like((g, tokens, 1), "int64")
        top = b.operate("topk", (chances,), (g, tokens, 1), indices, k=1, axis=2, largest=True)[1]
        chosen = b.operate("squeeze", (top,), b.like((g, tokens), "int64"), axes=(2,))[0]
        mask = b.operate("one_hot", (chosen,), (g, tokens, count), num_classes=count)[0]
        place = b.binary("multiply", b.unary("cumsum", mask, axis=1), mask)
        place = b.scale(b.reduce("sum", place, (2,)), 1.0, -1.0)
        place = b.operate("cast", (place,), b.like((g, tokens), "int64"), dtype="int64")[0]
        slots = b.operate("one_hot", (place,), (g, tokens, tokens), num_classes=tokens)[0]
        dispatch = einsum("gse,gsc->gsec", mask, slots, g, tokens, count, tokens)
        y = einsum("gsec,gsh->egch", dispatch, x, count, g, tokens, hidden)
        up, down = b.parameter("experts.up", (count, hidden, wide)), b.parameter("experts.down", (count, wide, hidden))
        y = b.unary("gelu", einsum("egch,ehf->egcf", y, up, count, g, tokens, wide), approximate=False)
        y = einsum("egcf,efh->egch", y, down, count, g, tokens, hidden)
        combine = einsum("gsec,gse->gsec", dispatch, chances, g, tokens, count, tokens)
        return b.binary("add", x, einsum("gsec,egch->gsh", combine, y, g, tokens, hidden))

    return written("Experts", groups, body)


def embedding(rows=4, places=6, vocabulary=24, hidden=8) -> Block:
    """Words and positions, added."""

    def body(b):
        ids, spots = (b.input((b.rows, places), "int64", needs_gradient=False) for _ in range(2))
        return b.binary(
            "add", b.embedding("words", ids, vocabulary, hidden), b.embedding("positions", spots, places, hidden)
        )

    return written("Embedding", rows, body)


def head(rows=4, places=6, vocabulary=24, hidden=8) -> Block:
    """A norm, the projection to the vocabulary and the mean loss."""

    def body(b):
        x = b.input((b.rows, places, hidden))
        labels = b.input((b.rows, places, 1), "int64", needs_gradient=False)
        logits = b.linear("head", b.layer_norm("norm", x), vocabulary)
        return b.reduce("mean", b.cross_entropy(logits, labels), (0, 1, 2))

    return written("Head", rows, body)
