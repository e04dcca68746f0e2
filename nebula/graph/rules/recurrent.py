"""Recurrent layers in one operator: each weight matrix meets every time step; the gates are kept for the backward."""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works
from nebula.graph.values import Product, Tensor


def _weights(call: Call) -> tuple[Tensor, ...]:
    """The matrices of all layers and directions; biases are vectors."""
    return tuple(t for t in call.inputs[1:] if len(t.shape) == 2)


def _products(call: Call) -> tuple[Product, ...]:
    """Each weight matrix [gates, width] meets every row of every time step once."""
    steps_rows = call.inputs[0].shape[0] * call.inputs[0].shape[1]
    return tuple(Product(1, steps_rows, w.shape[0], w.shape[1]) for w in _weights(call))


def _forward(call: Call) -> Works:
    flops = sum(p.flops for p in _products(call))
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=flops),)


def _backward(call: Call) -> Works:
    flops = 2.0 * sum(p.flops for p in _products(call))
    return (call.launch("_grad", reads=(*call.inputs, *call.outputs), writes=call.wanted, flops=flops),)


def _saved(call: Call) -> Names:
    """All but the final states."""
    outputs = call.operator.outputs
    return (*call.operator.inputs, *outputs[:2], *outputs[-1:])


_KEPT_PER_LAYER = {"LSTM": 6, "GRU": 4}


def reserved_shape(out: tuple[int, ...], *, mode: str, layers: int) -> tuple[int, ...]:
    """Shape of what `rnn` reserves for its backward, which the traced program leaves open.

    Tensors like the output [time, rows, hidden of all directions]: gates and cells of each layer (6 for LSTM, 4 for
    GRU, 1 for a simple layer) and the hidden states between layers. Measured on Paddle 3.3.1.

    >>> reserved_shape((16, 8, 48), mode="LSTM", layers=2)
    (13, 16, 8, 48)
    """
    return (_KEPT_PER_LAYER.get(mode, 1) * layers + layers - 1, *out)


RECURRENT: dict[str, Rule] = {"rnn": Rule(forward=_forward, backward=_backward, saved=_saved)}
