"""Signatures of operators that move elements without arithmetic: reshape, transpose, slices, joins, indexing.

Merged and split dims are spelt by their factors, so that a cut of the major factor, or of one inside blocks of the
major ones, travels through.
"""

from __future__ import annotations

from nebula.graph.spmd.pointwise import along, replicated
from nebula.graph.spmd.signature import Dims, Labels, Operands, Signature, common_factors


def reshape(op: Operands) -> Signature:
    """Same elements, same order: dims share their factors."""
    labels = Labels()
    if 0 in op.inputs[0]:
        return replicated(op)
    left, right = common_factors(labels, op.inputs[0], op.outputs[0])
    return Signature(inputs=(left,), outputs=(right,), sizes=labels.sizes)


def transpose(op: Operands) -> Signature:
    """Dims in the order of `perm`."""
    labels = Labels()
    dims = labels.dims(op.inputs[0])
    return Signature(inputs=(dims,), outputs=(tuple(dims[p] for p in op.numbers("perm")),), sizes=labels.sizes)


def expand(op: Operands) -> Signature:
    """Repeats dims of size 1 and new leading dims; a rank repeats as often as its shard needs."""
    labels = Labels()
    out = labels.dims(op.outputs[0])
    skipped = len(op.outputs[0]) - len(op.inputs[0])
    x = tuple(out[skipped + i] if n == op.outputs[0][skipped + i] else () for i, n in enumerate(op.inputs[0]))
    return Signature(inputs=(x,), outputs=(out,), sizes=labels.sizes)


def same_size(op: Operands) -> Signature:
    """tile, pad, roll, flip: dims that the attributes leave alone can be cut, the others not."""
    moved = set(op.numbers("axis"))
    x, out = op.inputs[0], op.outputs[0]
    if len(x) != len(out):
        return replicated(op)
    return along(op, [i for i, n in enumerate(x) if n != out[i] or i in moved])


def constant(op: Operands) -> Signature:
    """full and its kin: every element is the same, so any dim can be cut; an input may be the value itself."""
    labels = Labels()
    out = op.outputs[0]
    dims = labels.dims(out)
    inputs = tuple(dims if shape == out else ((),) * len(shape) for shape in op.inputs)
    return Signature(inputs=inputs, outputs=(dims,), sizes=labels.sizes)


def slice_(op: Operands) -> Signature:
    """Untouched dims can be cut; a slice that is one of several equal blocks of a dim can be cut inside the block."""
    labels = Labels()
    axes, starts, ends = op.numbers("axes"), op.numbers("starts"), op.numbers("ends")
    gone = set(op.numbers("decrease_axis"))
    x: list[tuple[str, ...]] = []
    out: list[tuple[str, ...]] = []
    for dim, n in enumerate(op.inputs[0]):
        label: tuple[str, ...] = ()
        if dim not in axes:
            label = (labels.new(n),)
            x.append(label)
        else:
            start, end = (_inside(v[axes.index(dim)], n) for v in (starts, ends))
            length = end - start
            if length > 0 and n % length == 0 and start % length == 0:
                label = (labels.new(length),)
                x.append((_kept_whole(labels, n // length), *label))
            else:
                x.append(())
        if dim not in gone:
            out.append(label)
    return _with_whole(labels, (tuple(x),), (tuple(out),))


def _inside(index: int, size: int) -> int:
    return min(max(index + size if index < 0 else index, 0), size)


def _kept_whole(labels: Labels, blocks: int) -> str:
    """A label for the blocks of a dim, which themselves are not cut."""
    label = f"blocks{len(labels.sizes)}"
    labels.sizes[label] = blocks
    return label


def _with_whole(labels: Labels, inputs: tuple[Dims, ...], outputs: tuple[Dims, ...]) -> Signature:
    whole = frozenset(label for label in labels.sizes if label.startswith("blocks"))
    return Signature(inputs=inputs, outputs=outputs, sizes=labels.sizes, whole=whole)


def split(op: Operands) -> Signature:
    """Equal sections are blocks of the dim and can be cut inside; unequal ones keep it whole."""
    return _blocks(op, op.inputs[0], op.outputs, joined_first=True)


def concat(op: Operands) -> Signature:
    """The reverse of split."""
    return _blocks(op, op.outputs[0], op.inputs, joined_first=False)


def _blocks(
    op: Operands, joined: tuple[int, ...], parts: tuple[tuple[int, ...], ...], *, joined_first: bool
) -> Signature:
    labels = Labels()
    axis = op.number("axis") % len(joined)
    equal = len({part[axis] for part in parts}) == 1
    dims = list(labels.dims(joined))
    dims[axis] = ()
    part = list(dims)
    if equal:
        inner = labels.new(parts[0][axis])
        dims[axis] = (_kept_whole(labels, len(parts)), inner)
        part[axis] = (inner,)
    one, many = (tuple(dims),), (tuple(part),) * len(parts)
    return _with_whole(labels, one if joined_first else many, many if joined_first else one)


def unbind(op: Operands) -> Signature:
    """Takes the slices of a dim apart; the other dims can be cut."""
    labels = Labels()
    axis = op.number("axis") % len(op.inputs[0])
    dims = tuple(() if i == axis else d for i, d in enumerate(labels.dims(op.inputs[0])))
    part = dims[:axis] + dims[axis + 1 :]
    return Signature(inputs=(dims,), outputs=(part,) * len(op.outputs), sizes=labels.sizes)


def stack(op: Operands) -> Signature:
    """Joins tensors along a new dim; the others can be cut."""
    labels = Labels()
    axis = op.number("axis") % len(op.outputs[0])
    part = labels.dims(op.inputs[0])
    out = (*part[:axis], (), *part[axis:])
    return Signature(inputs=(part,) * len(op.inputs), outputs=(out,), sizes=labels.sizes)


def gather(op: Operands) -> Signature:
    """out = x[:axis] + index dims + x[axis + 1:]; the indexed dim stays whole."""
    x, index = op.inputs
    labels = Labels()
    axis = op.number("axis") % len(x)
    dims, picked = list(labels.dims(x)), labels.dims(index)
    dims[axis] = ()
    out = (*dims[:axis], *picked, *dims[axis + 1 :])
    if len(out) != len(op.outputs[0]):
        return replicated(op)
    return Signature(inputs=(tuple(dims), picked), outputs=(out,), sizes=labels.sizes)


def gather_nd(op: Operands) -> Signature:
    """out = index[:-1] dims + the dims of x that the index leaves."""
    x, index = op.inputs
    labels = Labels()
    picked = labels.dims(index[:-1])
    rest = labels.dims(x[index[-1] :])
    lead = ((),) * index[-1]
    return Signature(inputs=(lead + rest, (*picked, ())), outputs=(picked + rest,), sizes=labels.sizes)


def at_axis(op: Operands) -> Signature:
    """take_along_axis and put_along_axis: dims beside the axis are shared where all operands have them alike."""
    labels = Labels()
    x = op.inputs[0]
    axis = op.number("axis") % len(x)
    shapes = (*op.inputs, *op.outputs)
    alike = [i != axis and all(len(s) == len(x) and s[i] == x[i] for s in shapes) for i in range(len(x))]
    dims = tuple(d if same else () for d, same in zip(labels.dims(x), alike, strict=True))
    return Signature(inputs=(dims,) * len(op.inputs), outputs=(dims,) * len(op.outputs), sizes=labels.sizes)


def scatter(op: Operands) -> Signature:
    """Rows of x are replaced at an index: the dims behind the first can be cut."""
    x, index, updates = op.inputs
    labels = Labels()
    rest = labels.dims(x[1:])
    dims = ((), *rest)
    if len(updates) != len(x) or op.attributes.get("axis", 0) != 0:
        return replicated(op)
    return Signature(inputs=(dims, ((),) * len(index), dims), outputs=(dims,), sizes=labels.sizes)


def one_hot(op: Operands) -> Signature:
    """A new last dim of classes, which stays whole."""
    labels = Labels()
    dims = labels.dims(op.inputs[0])
    return Signature(inputs=(dims,), outputs=((*dims, ()),), sizes=labels.sizes)


def exchanged(op: Operands) -> Signature:
    """A collective of a cut made before: a dim that it joins or cuts is blocks of shards, each of them cut alike."""
    labels = Labels()
    x: list[tuple[str, ...]] = []
    out: list[tuple[str, ...]] = []
    for n, m in zip(op.inputs[0], op.outputs[0], strict=True):
        small, large = sorted((n, m))
        inner = (labels.new(small),)
        wide = (_kept_whole(labels, large // small), *inner) if large > small else inner
        x.append(wide if n > m else inner)
        out.append(wide if m > n else inner)
    return _with_whole(labels, (tuple(x),), (tuple(out),))
