"""The blocks that the tests of partition cut: feed-forward, Transformer layer, mixture of experts, a model's ends."""

from __future__ import annotations

from dataclasses import replace

from nebula.graph.values import Block, Operator, Role, Tensor

SPLITS = (
    ("attention.qkv", "column"),
    ("attention.[qkv]", "column"),
    ("attention.out", "row"),
    ("ffn.up", "column"),
    ("ffn.down", "row"),
    ("words", "vocabulary"),
    ("head", "vocabulary"),
)


class Writer:
    """Writes a block operator by operator; the first dim of activations is the rows."""

    def __init__(self, name: str, rows: int) -> None:
        self.name, self.rows = name, rows
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []

    def tensor(self, name, shape, role=Role.ACTIVATION, dtype="float32", needs_gradient=True) -> str:
        growth = () if role is Role.PARAMETER or not shape else tuple(int(i == 0) for i in range(len(shape)))
        self.tensors[name] = Tensor(
            name=name, shape=tuple(shape), dtype=dtype, role=role, per_row=growth, needs_gradient=needs_gradient
        )
        return name

    def parameter(self, name, *shape) -> str:
        return self.tensor(name, shape, Role.PARAMETER)

    def shape(self, name) -> tuple[int, ...]:
        return self.tensors[name].shape

    def write(self, kind, inputs, *shapes, dtype="float32", constant=False, **attributes):
        """Adds an operator; returns the name of its output, or all their names."""
        name = f"{kind}.{len(self.operators)}"
        outputs = [name if len(shapes) == 1 else f"{name}:{i}" for i in range(len(shapes))]
        learns = not constant and any(self.tensors[i].needs_gradient for i in inputs)
        for output, shape in zip(outputs, shapes, strict=True):
            self.tensor(output, shape, dtype=dtype, needs_gradient=learns)
        operator = Operator(
            name=name,
            kind=kind,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            attributes=tuple(sorted(attributes.items())),
        )
        self.operators.append(operator)
        return outputs[0] if len(outputs) == 1 else outputs

    def linear(self, path, x, width):
        weight, bias = (
            self.parameter(f"{path}.weight", self.shape(x)[-1], width),
            self.parameter(f"{path}.bias", width),
        )
        y = self.write("matmul", [x, weight], (*self.shape(x)[:-1], width), transpose_x=False, transpose_y=False)
        return self.write("add", [y, bias], self.shape(y))

    def norm(self, path, x):
        shape = self.shape(x)
        weight, bias = self.parameter(f"{path}.weight", shape[-1]), self.parameter(f"{path}.bias", shape[-1])
        lead = shape[:-1]
        return self.write(
            "layer_norm", [x, weight, bias], shape, lead, lead, begin_norm_axis=len(shape) - 1, epsilon=1e-5
        )[0]

    def add(self, x, y):
        return self.write("add", [x, y], self.shape(x))

    def block(self, *outputs) -> Block:
        inputs = tuple(t.name for t in self.tensors.values() if t.role is Role.INPUT)
        return Block(
            name=self.name,
            rows=self.rows,
            tensors=tuple(self.tensors.values()),
            operators=tuple(self.operators),
            inputs=inputs,
            outputs=outputs,
        )


def mlp(rows=4, places=6, hidden=12) -> Block:
    """Two Linears with gelu between, a residual and a norm."""
    w = Writer("Mlp", rows)
    x = w.tensor("x", (rows, places, hidden), Role.INPUT)
    y = w.linear("ffn.up", x, 4 * hidden)
    y = w.write("gelu", [y], w.shape(y), approximate=False)
    y = w.add(x, w.linear("ffn.down", y, hidden))
    return w.block(w.norm("norm", y))


def _heads(w, x, heads, fused):
    rows, places, hidden = w.shape(x)
    width = hidden // heads
    if fused == "by head":
        y = w.write("reshape", [w.linear("attention.qkv", x, 3 * hidden)], (rows, places, heads, 3 * width))
        return w.write("split", [y], *[(rows, places, heads, width)] * 3, axis=3, sections=(width,) * 3)
    if fused == "side by side":
        y = w.linear("attention.qkv", x, 3 * hidden)
        parts = w.write("split", [y], *[(rows, places, hidden)] * 3, axis=2, sections=(hidden,) * 3)
    elif fused == "stacked":
        y = w.write("reshape", [w.linear("attention.qkv", x, 3 * hidden)], (rows, places, 3, heads, width))
        return w.write("unbind", [y], *[(rows, places, heads, width)] * 3, axis=2)
    else:
        parts = [w.linear(f"attention.{c}", x, hidden) for c in "qkv"]
    return [w.write("reshape", [part], (rows, places, heads, width)) for part in parts]


def transformer(rows=4, places=6, hidden=24, heads=6, fused="by head") -> Block:
    """A pre-norm Transformer layer; `fused` says how query, key and value lie in one projection, or `apart`."""
    w = Writer("Layer", rows)
    width = hidden // heads
    x = w.tensor("x", (rows, places, hidden), Role.INPUT)
    per_head = (rows, heads, places, width)
    q, k, v = (
        w.write("transpose", [part], per_head, perm=(0, 2, 1, 3))
        for part in _heads(w, w.norm("norm1", x), heads, fused)
    )
    q = w.write("scale", [q], per_head, scale=width**-0.5, bias=0.0)
    square = (rows, heads, places, places)
    weights = w.write("matmul", [q, k], square, transpose_x=False, transpose_y=True)
    weights = w.write("softmax", [weights], square, axis=3)
    y = w.write("matmul", [weights, v], per_head, transpose_x=False, transpose_y=False)
    y = w.write("transpose", [y], (rows, places, heads, width), perm=(0, 2, 1, 3))
    y = w.write("reshape", [y], (rows, places, hidden))
    x = w.add(x, w.linear("attention.out", y, hidden))
    y = w.linear("ffn.up", w.norm("norm2", x), 4 * hidden)
    y = w.write("gelu", [y], w.shape(y), approximate=False)
    return w.block(w.add(x, w.linear("ffn.down", y, hidden)))


def experts(groups=4, tokens=6, hidden=8, count=4, wide=12) -> Block:
    """A mixture of experts with one expert a token, as GShard writes it: dispatch and combine are einsums."""
    w = Writer("Experts", groups)
    x = w.tensor("x", (groups, tokens, hidden), Role.INPUT)
    chances = (groups, tokens, count)
    logits = w.write("matmul", [x, w.parameter("gate.weight", hidden, count)], chances)
    p = w.write("softmax", [logits], chances, axis=2)
    top = w.write("topk", [p], *[(groups, tokens, 1)] * 2, constant=True, k=1, axis=2, largest=True)
    w.tensors[top[1]] = replace(w.tensors[top[1]], dtype="int64")
    chosen = w.write("squeeze", [top[1]], (groups, tokens), dtype="int64", axes=(2,))
    mask = w.write("one_hot", [chosen], chances, constant=True, num_classes=count)
    place = w.write("multiply", [w.write("cumsum", [mask], chances, axis=1), mask], chances)
    place = w.write("sum", [place], (groups, tokens), axes=(2,), keepdim=False)
    place = w.write("scale", [place], (groups, tokens), scale=1.0, bias=-1.0)
    place = w.write("cast", [place], (groups, tokens), dtype="int64")
    slots = w.write("one_hot", [place], (groups, tokens, tokens), constant=True, num_classes=tokens)
    shape = (groups, tokens, count, tokens)
    dispatch = w.write("einsum", [mask, slots], shape, equation="gse,gsc->gsec")
    y = w.write("einsum", [dispatch, x], (count, groups, tokens, hidden), equation="gsec,gsh->egch")
    y = w.write(
        "einsum",
        [y, w.parameter("experts.up", count, hidden, wide)],
        (count, groups, tokens, wide),
        equation="egch,ehf->egcf",
    )
    y = w.write("gelu", [y], w.shape(y), approximate=False)
    y = w.write(
        "einsum",
        [y, w.parameter("experts.down", count, wide, hidden)],
        (count, groups, tokens, hidden),
        equation="egcf,efh->egch",
    )
    combine = w.write("einsum", [dispatch, p], shape, equation="gsec,gse->gsec")
    y = w.write("einsum", [combine, y], (groups, tokens, hidden), equation="gsec,egch->gsh")
    return w.block(w.add(x, y))


def embedding(rows=4, places=6, vocabulary=24, hidden=8) -> Block:
    """Words and positions, added."""
    w = Writer("Embedding", rows)
    ids = w.tensor("ids", (rows, places), Role.INPUT, "int64", needs_gradient=False)
    spots = w.tensor("positions", (rows, places), Role.INPUT, "int64", needs_gradient=False)
    shape = (rows, places, hidden)
    words = w.write("embedding", [ids, w.parameter("words.weight", vocabulary, hidden)], shape)
    positions = w.write("embedding", [spots, w.parameter("positions.weight", places, hidden)], shape)
    return w.block(w.add(words, positions))


def head(rows=4, places=6, vocabulary=24, hidden=8) -> Block:
    """A norm, the projection to the vocabulary and the mean loss."""
    w = Writer("Head", rows)
    x = w.tensor("x", (rows, places, hidden), Role.INPUT)
    labels = w.tensor("labels", (rows, places, 1), Role.INPUT, "int64", needs_gradient=False)
    logits = w.linear("head", w.norm("norm", x), vocabulary)
    shape = (rows, places, 1)
    loss = w.write("cross_entropy", [logits, labels], w.shape(logits), shape, soft_label=False, axis=2)[1]
    return w.block(w.write("mean", [loss], (), axes=(), keepdim=False))
