"""How attention computes: projections, rotary positions, and the core in one kernel or with its scores written out.

Paths are relative to the layer's attention; tensors are [rows, S, heads, width].
"""

from __future__ import annotations

from nebula.graph.builder import BlockBuilder
from nebula.models import describe_parts
from nebula.models.decoders import DecoderConfig

HIDDEN_SCORE = -1e4
"""What a mask adds to the score of a token that must not be seen."""


def attention(b: BlockBuilder, config: DecoderConfig, x: str, window: int) -> str:
    """Multi-head or grouped-query attention of x [rows, S, hidden]."""
    rows, length, _ = b.shape(x)
    biases = config.adds_bias("query key value")
    widths = {"query": config.heads, "key": config.kv_heads, "value": config.kv_heads}
    query, key, value = (
        b.reshape(b.linear(path, x, n * config.head_dim, bias=biases), (rows, length, n, config.head_dim))
        for path, n in widths.items()
    )
    if config.query_key_norm:
        query, key = b.rms_norm("query_norm", query), b.rms_norm("key_norm", key)
    if config.look.rotary and config.fused_norms:
        query, key = _rotated(b, query, key)
    elif config.look.rotary:
        query, key = (describe_parts.rotated(b, t) for t in (query, key))
    joined = b.reshape(_core(b, config, query, key, value, window), (rows, length, config.heads * config.head_dim))
    return b.linear("out", joined, config.hidden, bias=config.adds_bias("out"))


def latent_attention(b: BlockBuilder, config: DecoderConfig, x: str, window: int) -> str:
    """Attention with compressed queries, keys and values (DeepSeek-V2, arXiv 2405.04434, equations 9 to 19)."""
    latent, heads = config.latent, config.heads
    rows, length, _ = b.shape(x)
    width = latent.plain + latent.rotary
    if latent.query_rank:
        low = b.rms_norm("query_norm", b.linear("query_down", x, latent.query_rank, bias=False))
        query = b.linear("query_up", low, heads * width, bias=False)
    else:
        query = b.linear("query", x, heads * width, bias=False)
    query = b.reshape(query, (rows, length, heads, width))
    low = b.linear("key_value_down", x, latent.key_value_rank + latent.rotary, bias=False)
    low, places = b.split(low, (latent.key_value_rank, latent.rotary), 2)
    up = b.linear("key_value_up", b.rms_norm("key_value_norm", low), heads * (latent.plain + latent.value), bias=False)
    up = b.reshape(up, (rows, length, heads, latent.plain + latent.value))
    plain_key, value = b.split(up, (latent.plain, latent.value), 3)
    plain_query, turned_query = b.split(query, (latent.plain, latent.rotary), 3)
    # apart, as the key's one head is on every rank of a tensor group that cuts the query's heads
    turned_query, turned_key = (
        b.operate("rope", (t, *_angles(b, length, latent.rotary)), b.shape(t))[0]
        for t in (turned_query, b.reshape(places, (rows, length, 1, latent.rotary)))
    )
    shared = b.operate("expand", (turned_key,), (rows, length, heads, latent.rotary))[0]
    query, key = b.concat((plain_query, turned_query), 3), b.concat((plain_key, shared), 3)
    out = _core(b, config, query, key, value, window)
    return b.linear("out", b.reshape(out, (rows, length, heads * latent.value)), config.hidden, bias=False)


def _rotated(b: BlockBuilder, query: str, key: str) -> tuple[str, str]:
    """Both with their positions (RoFormer, arXiv 2104.09864)."""
    _, length, _, width = b.shape(query)
    query, key = b.operate("rope", (query, key, *_angles(b, length, width)), b.shape(query), b.shape(key))
    return query, key


def _angles(b: BlockBuilder, length: int, width: int) -> list[str]:
    """Tables of sines and cosines."""
    return [b.operate("full", (), (1, length, 1, width), value=0.0)[0] for _ in range(2)]


def _core(b: BlockBuilder, config: DecoderConfig, query: str, key: str, value: str, window: int) -> str:
    """[rows, S, heads, width of a value]."""
    if not config.fused_attention:
        return _with_scores(b, config, query, key, value)
    rows, length, heads, _ = b.shape(query)
    statistics = b.like((rows, heads, length), "float32")
    more = {"window": window} if window else {}
    shape = (rows, length, heads, b.shape(value)[3])
    inputs = (query, key, value)
    return b.operate("attention", inputs, shape, statistics, causal=config.causal, absent=("mask",), **more)[0]


def _with_scores(b: BlockBuilder, config: DecoderConfig, query: str, key: str, value: str) -> str:
    """Product, scale, mask, softmax, dropout and product, each a kernel that reads and writes all scores.

    The layers of decoder.py, whose norms are not fused, scale the queries instead of the scores.
    Keys that several query heads share are broadcast by the product: heads are [key heads, queries of each].
    """
    rows, length, heads, width = b.shape(query)
    groups = heads // b.shape(key)[2]
    own = not config.fused_norms
    query = b.scale(query, width**-0.5) if own else query
    query, key, value = (b.transpose(t, (0, 2, 1, 3)) for t in (query, key, value))
    if groups > 1:
        query = b.reshape(query, (rows, heads // groups, groups, length, width))
        key, value = (b.operate("unsqueeze", (t,), _unsqueezed(b.shape(t)), axes=(2,))[0] for t in (key, value))
    scores = b.matmul(query, key, transpose_y=True)
    scores = scores if own else b.scale(scores, width**-0.5)
    if config.causal:
        mask = b.operate("full", (), (length, length), value=HIDDEN_SCORE)[0]
        scores = b.binary("add", scores, b.unary("triu", mask, diagonal=1))
    context = b.matmul(b.dropout(b.softmax(scores), config.dropout), value)
    if groups > 1:
        context = b.reshape(context, (rows, heads, length, b.shape(value)[-1]))
    return b.transpose(context, (0, 2, 1, 3))


def _unsqueezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 1, *shape[2:])
