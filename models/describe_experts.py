"""How feed-forward parts compute: dense ones, gated or not, and mixtures of experts with their router.

All experts of the model are in the block; who holds which is expert parallelism's question (nebula.graph.experts).
"""

from __future__ import annotations

from nebula.graph.builder import BlockBuilder
from nebula.models.decoders_parts import STYLES, Experts, Style


def feed_forward(b: BlockBuilder, style: Style, x: str, width: int, *, biases: bool) -> str:
    """x [..., hidden] through one inner width."""
    hidden = b.shape(x)[-1]
    if style.activation == ("swiglu",):
        gate, up = (b.linear(path, x, width, bias=biases) for path in ("gate", "up"))
        inner = b.operate("swiglu", (gate, up), b.shape(gate))[0]
    elif style.gated:
        gate, up = (b.linear(path, x, width, bias=biases) for path in ("gate", "up"))
        inner = b.binary("multiply", _activated(b, style, gate), up)
    else:
        inner = _activated(b, style, b.linear("up", x, width, bias=biases))
    return b.linear("down", inner, hidden, bias=biases)


def _activated(b: BlockBuilder, style: Style, x: str) -> str:
    for kind in style.activation:
        x = b.unary(kind, x, **({"approximate": True} if kind == "gelu" else {}))
    return x


def mixture(b: BlockBuilder, experts: Experts, x: str) -> str:
    """Each token through its top_k experts and the shared ones.

    Tokens are sorted by expert, so that all experts are one grouped product (MegaBlocks, arXiv 2211.15841).
    """
    rows, length, hidden = b.shape(x)
    tokens, copies = rows * length, rows * length * experts.top_k
    flat = b.reshape(x, (tokens, hidden))
    scores = b.softmax(b.linear("router", flat, experts.count, bias=False))
    shape = (tokens, experts.top_k)
    weights, chosen = b.operate("topk", (scores,), shape, b.like(shape, "int64"), k=experts.top_k, axis=1, largest=True)
    sorted_, places = b.operate("moe_permute", (flat, chosen), (copies, hidden), b.like((copies,), "int32"))
    with b.scope("experts"):
        gate, up = (_grouped(b, path, sorted_, experts, experts.ffn) for path in ("gate", "up"))
        inner = b.operate("swiglu", (gate, up), b.shape(gate))[0]
        out = _grouped(b, "down", inner, experts, hidden)
    joined = b.operate("moe_unpermute", (out, places, weights), (tokens, hidden))[0]
    if experts.shared:
        with b.scope("shared"):
            always = feed_forward(b, STYLES["llama"], flat, experts.shared * experts.ffn, biases=False)
        joined = b.binary("add", joined, always)
    return b.reshape(joined, (rows, length, hidden))


def _grouped(b: BlockBuilder, path: str, x: str, experts: Experts, width: int) -> str:
    """Rows sorted by expert times each expert's own weights [experts, in, out]."""
    copies, inner = b.shape(x)
    with b.scope(path):
        weight = b.parameter("weight", (experts.count, inner, width))
        return b.operate("grouped_matmul", (x, weight), (copies, width), imbalance=experts.imbalance)[0]
