"""Lookups and writes at places that integers name: they read and write only the elements named, not the table."""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works


def _indices(call: Call) -> Names:
    return call.operator.inputs[1:2]


def _lookup_forward(call: Call) -> Works:
    """Reads as many elements as come out, at most the table once, and the integers."""
    reads = call.inputs[1].bytes + min(call.inputs[0].bytes, call.outputs[0].bytes)
    return (call.launch(reads=reads, writes=call.outputs[:1]),)


def _lookup_backward(call: Call) -> Works:
    """Fills the table's gradient with zeros and adds the output's gradient into it."""
    reads = (call.inputs[1], call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.inputs[:1], flops=float(call.outputs[0].size)),)


def _embedding_forward(call: Call) -> Works:
    reads = call.inputs[0].bytes + min(call.inputs[1].bytes, call.outputs[0].bytes)
    return (call.launch(reads=reads, writes=call.outputs),)


def _embedding_backward(call: Call) -> Works:
    reads = (call.inputs[0], call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.inputs[1:2], flops=float(call.outputs[0].size)),)


def _write_forward(call: Call) -> Works:
    """Copies x, then writes the updates."""
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=float(call.inputs[-1].size)),)


def _write_backward(call: Call) -> Works:
    reads = (call.inputs[1], call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.wanted),)


def _all_inputs(call: Call) -> Names:
    return call.operator.inputs


def _all_and_output(call: Call) -> Names:
    return (*call.operator.inputs, *call.operator.outputs[:1])


def _first_and_places(call: Call) -> Names:
    return call.operator.inputs[:2]


def _order_forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=float(call.inputs[0].size)),)


def _order_backward(call: Call) -> Works:
    return (call.launch("_grad", reads=(call.inputs[0], *call.outputs), writes=call.inputs[:1]),)


def _topk_saved(call: Call) -> Names:
    return (call.operator.inputs[0], call.operator.outputs[-1])


def _sort_saved(call: Call) -> Names:
    return call.operator.outputs[-1:]


INDEXING: dict[str, Rule] = {
    "embedding": Rule(
        forward=_embedding_forward, backward=_embedding_backward, saved=lambda call: call.operator.inputs[:1]
    ),
    "gather": Rule(forward=_lookup_forward, backward=_lookup_backward, saved=_indices),
    "index_select": Rule(forward=_lookup_forward, backward=_lookup_backward, saved=_indices),
    "gather_nd": Rule(forward=_lookup_forward, backward=_lookup_backward, saved=_indices),
    "take_along_axis": Rule(forward=_lookup_forward, backward=_lookup_backward, saved=_first_and_places),
    "put_along_axis": Rule(forward=_write_forward, backward=_write_backward, saved=_all_and_output),
    "scatter": Rule(forward=_write_forward, backward=_write_backward, saved=_indices),
    "scatter_nd_add": Rule(forward=_write_forward, backward=_write_backward, saved=_indices),
    "index_add": Rule(forward=_write_forward, backward=_write_backward, saved=_indices),
    "index_put": Rule(forward=_write_forward, backward=_write_backward, saved=_all_inputs),
    "topk": Rule(forward=_order_forward, backward=_order_backward, saved=_topk_saved),
    "argsort": Rule(forward=_order_forward, backward=_order_backward, saved=_sort_saved),
}
