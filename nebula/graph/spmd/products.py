"""Signatures of operators that multiply and sum: matrix products, einsum, attention, convolution, look-ups, losses."""

from __future__ import annotations

from nebula.graph.spmd.pointwise import aligned, replicated
from nebula.graph.spmd.signature import Dims, Labels, Operands, Signature


def matmul(op: Operands) -> Signature:
    """out[.., m, n] = sum over k of x[.., m, k] y[.., k, n], either input transposed; leading dims broadcast."""
    x, y = op.inputs
    if len(x) < 2 or len(y) < 2:
        return _vectors(op)
    out = op.outputs[0]
    labels = Labels()
    lead = labels.dims(out[:-2])
    m, n = (labels.new(out[-2]),), (labels.new(out[-1]),)
    k = (labels.new(x[-2] if op.flag("transpose_x") else x[-1]),)
    left = (k, m) if op.flag("transpose_x") else (m, k)
    right = (n, k) if op.flag("transpose_y") else (k, n)
    return Signature(
        inputs=(aligned(lead, x[:-2], out[:-2]) + left, aligned(lead, y[:-2], out[:-2]) + right),
        outputs=((*lead, m, n),),
        sizes=labels.sizes,
        sums=frozenset(k),
    )


def _vectors(op: Operands) -> Signature:
    """A product with a vector: summed over its only dim."""
    x, y = op.inputs
    labels = Labels()
    k = (labels.new(x[-1]),)
    if len(x) == 1 and len(y) == 1:
        return Signature(
            inputs=((k,), (k,)), outputs=(((),) * len(op.outputs[0]),), sizes=labels.sizes, sums=frozenset(k)
        )
    if len(y) == 1 and not op.flag("transpose_x"):
        lead = labels.dims(x[:-1])
        return Signature(inputs=((*lead, k), (k,)), outputs=(lead,), sizes=labels.sizes, sums=frozenset(k))
    return replicated(op)


def einsum(op: Operands) -> Signature:
    """The equation's own letters; a letter that no output holds is summed over."""
    equation = str(op.attributes["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation:
        return replicated(op)
    left, result = equation.split("->")
    terms = left.split(",")
    sizes = {letter: n for term, s in zip(terms, op.inputs, strict=True) for letter, n in zip(term, s, strict=True)}
    twice = frozenset(letter for term in (*terms, result) for letter in term if term.count(letter) > 1)

    def dims(term: str) -> Dims:
        return tuple((letter,) for letter in term)

    return Signature(
        inputs=tuple(map(dims, terms)),
        outputs=(dims(result),) * len(op.outputs),
        sizes=sizes,
        sums=frozenset(sizes) - set(result) - twice,
        whole=twice,
    )


def attention(op: Operands) -> Signature:
    """query [b, s, h, d], key and value [b, t, g, d]: rows and heads can be cut, queries where nothing is causal.

    With fewer key heads than query heads the dim of query heads is (key heads, queries of each), cut by key heads.
    With the attribute `exchange` the ranks of a context group are to share its positions: queries, keys and values are
    cut together, once, and what a rank lacks it gets inside the operator (see nebula.graph.rules.attention).
    """
    query, key, value = op.inputs[:3]
    shared = "exchange" in op.attributes and "context" not in op.attributes and query[1] == key[1]
    labels = Labels()
    rows, queries = (labels.new(query[0]),), (labels.new(query[1]),)
    heads = (labels.new(key[2]), labels.new(query[2] // key[2]))
    q = (rows, queries, heads, ())
    k = (rows, queries if shared else (), heads[:1], ())
    masks = tuple(_mask(s, query, rows, heads, queries) for s in op.inputs[3:])
    statistics = tuple(
        tuple(
            d if n == m else ()
            for d, n, m in zip((rows, heads, queries), s, (query[0], query[2], query[1]), strict=False)
        )
        + ((),) * (len(s) - 3)
        for s in op.outputs[1:]
    )
    offset_matters = not shared and (op.flag("causal") or value[1] != key[1])
    return Signature(
        inputs=(q, k, k, *masks),
        outputs=(q, *statistics),
        sizes=labels.sizes,
        whole=frozenset(queries) if offset_matters else frozenset(),
    )


def _mask(
    shape: tuple[int, ...],
    query: tuple[int, ...],
    rows: tuple[str, ...],
    heads: tuple[str, ...],
    queries: tuple[str, ...],
) -> Dims:
    spelt = (rows, heads, queries, ())
    full = (query[0], query[2], query[1], shape[-1])
    return aligned(spelt, shape, full)


def conv2d(op: Operands) -> Signature:
    """Rows, output channels and (summed) input channels can be cut; with groups, whole groups."""
    x, weight = op.inputs[:2]
    out = op.outputs[0]
    labels = Labels()
    last = str(op.attributes.get("data_format", "NCHW")).endswith("C")
    channel = len(x) - 1 if last else 1
    groups = op.number("groups", 1)
    rows, group = (labels.new(x[0]),), (labels.new(groups),)
    made, read = (labels.new(out[channel] // groups),), (labels.new(x[channel] // groups),)

    def dims(channels: tuple[str, ...], rank: int) -> Dims:
        return tuple(rows if i == 0 else channels if i == channel else () for i in range(rank))

    return Signature(
        inputs=(dims(group + read, len(x)), (group + made, read, *((),) * (len(weight) - 2))),
        outputs=(dims(group + made, len(out)),),
        sizes=labels.sizes,
        sums=frozenset(read),
    )


def images(op: Operands) -> Signature:
    """Pooling and interpolation: rows and channels can be cut, positions not."""
    labels = Labels()
    x = op.inputs[0]
    last = str(op.attributes.get("data_format", "NCHW")).endswith("C")
    channel = len(x) - 1 if last else 1
    rows, channels = (labels.new(x[0]),), (labels.new(x[channel]),)

    def dims(shape: tuple[int, ...]) -> Dims:
        return tuple(rows if i == 0 else channels if i == channel else () for i in range(len(shape)))

    others = tuple(((),) * len(s) for s in op.inputs[1:])
    return Signature(inputs=(dims(x), *others), outputs=tuple(map(dims, op.outputs)), sizes=labels.sizes)


def embedding(op: Operands) -> Signature:
    """weight[ids]: a rank with part of the vocabulary looks its own ids up and leaves zeros for the others."""
    ids, weight = op.inputs
    labels = Labels()
    places = labels.dims(ids)
    vocabulary, width = (labels.new(weight[0]),), (labels.new(weight[1]),)
    return Signature(
        inputs=(places, (vocabulary, width)),
        outputs=((*places, width),),
        sizes=labels.sizes,
        sums=frozenset(vocabulary),
        located=frozenset(vocabulary),
    )


def cross_entropy(op: Operands) -> Signature:
    """Classes can be cut when labels are hard: the operator then exchanges the maximum and the sums by itself."""
    logits, label = op.inputs[:2]
    axis = op.number("axis", len(logits) - 1) % len(logits)
    labels = Labels()
    dims = labels.dims(logits)
    classes = frozenset(dims[axis])
    lead = tuple(d for i, d in enumerate(dims) if i != axis)

    def others(shape: tuple[int, ...]) -> Dims:
        if shape == logits:
            return dims
        return tuple(() if i == axis else d for i, d in enumerate(dims)) if len(shape) == len(logits) else lead

    soft = op.flag("soft_label")
    return Signature(
        inputs=(dims, others(label)),
        outputs=tuple(others(s) for s in op.outputs),
        sizes=labels.sizes,
        whole=classes if soft or axis != len(logits) - 1 else frozenset(),
        lacking=classes,
        exchanged=classes,
        located=classes,
    )


def rope(op: Operands) -> Signature:
    """Rotary positions: rows, positions and heads can be cut; sin and cos lie as the positions."""
    query = op.inputs[0]
    keyed = len(op.outputs) > 1
    key = op.inputs[1] if keyed else query
    labels = Labels()
    rows, places = (labels.new(query[0]),), (labels.new(query[1]),)
    heads = (labels.new(key[2]), labels.new(query[2] // key[2]))
    q, k = (rows, places, heads, ()), (rows, places, heads[:1], ())
    tables = op.inputs[2:] if keyed else op.inputs[1:]
    spelt = tuple(
        tuple(places if n == query[1] and i == _place_dim(s) else () for i, n in enumerate(s)) for s in tables
    )
    return Signature(inputs=((q, k) if keyed else (q,)) + spelt, outputs=(q, k) if keyed else (q,), sizes=labels.sizes)


def _place_dim(shape: tuple[int, ...]) -> int:
    """Which dim of a sin or cos table, [s, d] or [b, s, h, d], runs over positions."""
    return 1 if len(shape) == 4 else 0
