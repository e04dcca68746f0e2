"""Signatures of operators that treat elements or slices alike: arithmetic, norms, reductions, sorting.

Dims that an operator normalises, sorts or scans over are never cut; a sum over a cut dim leaves partial sums.
"""

from __future__ import annotations

from collections.abc import Collection

from nebula.graph.spmd.signature import Dims, Labels, Operands, Signature


def aligned(labels: Dims, shape: tuple[int, ...], full: tuple[int, ...]) -> Dims:
    """Dims of an operand of that shape broadcast (numpy's way) to the full shape that the labels spell."""
    skipped = len(full) - len(shape)
    return tuple(labels[skipped + i] if n == full[skipped + i] else () for i, n in enumerate(shape))


def pointwise(op: Operands) -> Signature:
    """Every output element depends on the elements at its place; inputs broadcast."""
    labels = Labels()
    full = max(op.outputs, key=len)
    dims = labels.dims(full)
    return Signature(
        inputs=tuple(aligned(dims, shape, full) for shape in op.inputs),
        outputs=tuple(aligned(dims, shape, full) for shape in op.outputs),
        sizes=labels.sizes,
    )


def swiglu(op: Operands) -> Signature:
    """silu(x) y; a single input holds x and y as two blocks of its last dim."""
    if len(op.inputs) > 1:
        return pointwise(op)
    labels = Labels()
    out = labels.dims(op.outputs[0])
    halves = labels.new(2)
    x = (*out[:-1], (halves, *out[-1]))
    return Signature(inputs=(x,), outputs=(out,), sizes=labels.sizes, whole=frozenset({halves}))


def along(op: Operands, kept_whole: Collection[int]) -> Signature:
    """Like `pointwise`, but for some dims of the first input, which stay whole."""
    labels = Labels()
    full = op.inputs[0]
    dims = tuple(() if i in kept_whole else d for i, d in enumerate(labels.dims(full)))
    return Signature(
        inputs=tuple(aligned(dims, shape, full) for shape in op.inputs),
        outputs=tuple(aligned(dims, shape, full) for shape in op.outputs),
        sizes=labels.sizes,
    )


def along_axis(op: Operands) -> Signature:
    """Softmax, scans and sorts: the dim `axis` stays whole (all dims where the axis is missing)."""
    rank = len(op.inputs[0])
    if op.attributes.get("axis") is None:
        return along(op, range(rank))
    axes = op.numbers("axis")
    return along(op, [a % rank for a in axes])


def triangle(op: Operands) -> Signature:
    """tril and triu: columns stay whole; a rank with part of the rows must know which, as the diagonal moves."""
    labels = Labels()
    *lead, rows = labels.dims(op.inputs[0][:-1])
    dims = (*lead, rows, ())
    return Signature(inputs=(dims,), outputs=(dims,), sizes=labels.sizes, located=frozenset(rows))


def norm(op: Operands) -> Signature:
    """layer_norm and rms_norm: the dims from `begin_norm_axis` on stay whole; statistics lie as the leading dims."""
    labels = Labels()
    shape = op.inputs[0]
    begin = op.number("begin_norm_axis", len(shape) - 1)
    lead = labels.dims(shape[:begin])
    out = lead + ((),) * (len(shape) - begin)
    statistics = tuple(lead if s == shape[:begin] else _flattened(lead, s) for s in op.outputs[1:])
    weights = tuple(((),) * len(s) for s in op.inputs[1:])
    return Signature(inputs=(out, *weights), outputs=(out, *statistics), sizes=labels.sizes)


def _flattened(lead: Dims, shape: tuple[int, ...]) -> Dims:
    merged = tuple(label for dim in lead for label in dim)
    return (merged, *((),) * (len(shape) - 1)) if shape else ()


def batch_norm(op: Operands) -> Signature:
    """Statistics run over rows and positions, so only channels can be cut; what is kept beside them is opaque."""
    labels = Labels()
    rank = len(op.inputs[0])
    channel = rank - 1 if str(op.attributes.get("data_format", "NCHW")).endswith("C") else 1
    count = op.inputs[0][channel]
    channels = (labels.new(count),)

    def dims(shape: tuple[int, ...]) -> Dims:
        if len(shape) == rank:
            return tuple(channels if i == channel else () for i in range(rank))
        return (channels,) if shape == (count,) else ((),) * len(shape)

    return Signature(
        inputs=tuple(map(dims, op.inputs)),
        outputs=tuple(map(dims, op.outputs)),
        sizes=labels.sizes,
        lacking=frozenset(channels),
    )


def group_norm(op: Operands) -> Signature:
    """Groups of channels are normalised apart: rows and whole groups can be cut."""
    labels = Labels()
    shape = op.inputs[0]
    groups = op.number("groups", 1)
    rows = (labels.new(shape[0]),)
    channels = (labels.new(groups), labels.new(shape[1] // groups))
    x = (rows, channels, *((),) * (len(shape) - 2))
    weights = tuple((channels,) for _ in op.inputs[1:])
    statistics = tuple((rows, channels[:1]) if s == (shape[0], groups) else ((),) * len(s) for s in op.outputs[1:])
    return Signature(inputs=(x, *weights), outputs=(x, *statistics), sizes=labels.sizes)


def reduction(op: Operands) -> Signature:
    """sum and mean: a reduced dim that is cut leaves partial sums."""
    return _reduced(op, summed=True)


def extremum(op: Operands) -> Signature:
    """max, argmax, logsumexp and the like: reduced dims stay whole."""
    return _reduced(op, summed=False)


def _reduced(op: Operands, *, summed: bool) -> Signature:
    labels = Labels()
    shape = op.inputs[0]
    rank = len(shape)
    axes = {a % rank for a in op.numbers("axes") or op.numbers("axis")} if rank else set()
    axes = axes or set(range(rank))
    dims = labels.dims(shape)
    keep = len(op.outputs[0]) == rank
    out = tuple(() if i in axes else d for i, d in enumerate(dims) if keep or i not in axes)
    gone = frozenset(dims[i][0] for i in axes)
    return Signature(
        inputs=(dims,),
        outputs=(out,) * len(op.outputs),
        sizes=labels.sizes,
        sums=gone if summed else frozenset(),
        whole=frozenset() if summed else gone,
    )


def replicated(op: Operands) -> Signature:
    """Nothing can be cut."""
    return Signature(
        inputs=tuple(((),) * len(s) for s in op.inputs), outputs=tuple(((),) * len(s) for s in op.outputs), sizes={}
    )


def unknown(op: Operands) -> Signature:
    """An operator without a rule: only rows can be cut, when every operand but parameters has them first."""
    if not op.rows_lead:
        return replicated(op)
    labels = Labels()
    rows = (labels.new(op.outputs[0][0]),)
    count = labels.sizes[rows[0]]

    def dims(shape: tuple[int, ...]) -> Dims:
        return tuple(rows if i == 0 and n == count else () for i, n in enumerate(shape))

    return Signature(
        inputs=tuple(dims(s) for s in op.inputs), outputs=tuple(dims(s) for s in op.outputs), sizes=labels.sizes
    )
