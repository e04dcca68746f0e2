"""Matrix products: the forward one, and in the backward one for each operand that needs a gradient."""

from __future__ import annotations

import math

from nebula.graph.rules.rule import Call, Rule, Works, input_names
from nebula.graph.values import Product


def _matmul_product(call: Call) -> Product:
    """The product [m, k] x [k, n] of a `matmul`; a matrix on the right takes all leading dims of x into m."""
    x, y = call.inputs[0].shape, call.inputs[1].shape
    inner = x[-2] if call.flag("transpose_x") and len(x) > 1 else x[-1]
    columns = 1 if len(y) == 1 else y[-2] if call.flag("transpose_y") else y[-1]
    if len(y) <= 2:
        return Product(1, math.prod(x) // max(inner, 1), columns, inner)
    rows = 1 if len(x) == 1 else x[-1] if call.flag("transpose_x") else x[-2]
    batch = call.outputs[0].size // max(rows * columns, 1)
    return Product(batch, rows, columns, inner)


def _matmul_forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, product=_matmul_product(call)),)


def product_gradients(call: Call, product: Product) -> Works:
    """The products that give the gradients of the two operands of one, and of those alone that need one."""
    batch, m, n, k = product
    x, y = call.inputs[:2]
    out = call.outputs[0]
    kernels = []
    if x.needs_gradient:
        kernels.append(call.launch("_grad", reads=(y, out), writes=(x,), product=Product(batch, m, k, n)))
    if y.needs_gradient:
        kernels.append(call.launch("_grad", reads=(x, out), writes=(y,), product=Product(batch, k, n, m)))
    return tuple(kernels)


def _matmul_backward(call: Call) -> Works:
    return product_gradients(call, _matmul_product(call))


def _einsum_product(call: Call) -> Product:
    """The product of a two-operand einsum: shared kept labels are the batch, shared summed ones are k."""
    sides, _, target = call.text("equation").replace(" ", "").partition("->")
    left, _, right = sides.partition(",")
    sizes = dict(zip(left, call.inputs[0].shape, strict=False)) | dict(zip(right, call.inputs[1].shape, strict=False))

    def size(labels: set[str]) -> int:
        return math.prod(sizes[label] for label in labels)

    a, b, c = set(left), set(right), set(target)
    return Product(size(a & b & c), size((a - b) & c), size((b - a) & c), size((a | b) - c))


def _einsum_forward(call: Call) -> Works:
    product = _einsum_product(call) if len(call.inputs) == 2 else None
    return (call.launch(reads=call.inputs, writes=call.outputs[:1], product=product),)


def _einsum_backward(call: Call) -> Works:
    if len(call.inputs) != 2:
        return (call.launch("_grad", reads=call.outputs[:1], writes=call.wanted),)
    batch, m, n, k = _einsum_product(call)
    x, y = call.inputs
    out = call.outputs[0]
    grads = ((x, y, Product(batch, m, k, n)), (y, x, Product(batch, k, n, m)))
    return tuple(
        call.launch("_grad", reads=(other, out), writes=(tensor,), product=product)
        for tensor, other, product in grads
        if tensor.needs_gradient
    )


PRODUCTS: dict[str, Rule] = {
    "matmul": Rule(forward=_matmul_forward, backward=_matmul_backward, saved=input_names, keeps_view=True),
    "einsum": Rule(forward=_einsum_forward, backward=_einsum_backward, saved=input_names, keeps_view=True),
}
