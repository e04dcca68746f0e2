"""Rules applied to a block: gradients propagated, views resolved, kernels and kept tensors written on each operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nebula.graph.rules.rule import Call, Names, Rule, Works, is_float
from nebula.graph.values import Block, Operator, Tensor, Work

COLLECTIVE_KINDS = frozenset({"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "identity"})
"""Kinds whose work the partition writes; applying rules leaves it."""


def apply_with(block: Block, rules: Mapping[str, Rule], otherwise: Rule, known: Block | None = None) -> Block:
    """The block with work by `rules`, `otherwise` standing in for kinds that have none.

    Args:
        block: whose operators are to have work.
        rules: by kind.
        otherwise: for other kinds.
        known: a block with work from which this one was made; operators that both have, on the same tensors, keep it.
    """
    tensors = _resolved(block, rules, otherwise)
    kept = _unchanged(block, tensors, known) if known is not None else frozenset()
    copied = {op.outputs[0]: op.inputs[0] for op in block.operators if op.kind == "contiguous"}
    met = {name for name in block.outputs if tensors[name].needs_gradient}
    done: list[Operator] = []
    for operator in reversed(block.operators):
        if operator.kind in COLLECTIVE_KINDS:
            met.update(n for n in operator.inputs if tensors[n].needs_gradient)
            done.append(operator)
            continue
        if operator.name in kept:
            if any(tensors[n].needs_gradient for n in operator.outputs):
                met.update(n for n in operator.inputs if tensors[n].needs_gradient)
            done.append(operator)
            continue
        rule = rules.get(operator.kind, otherwise)
        call = _call(operator, tensors, rule)
        done.append(_worked(call, rule, copied, met, assumed=operator.kind not in rules))
    operators = tuple(reversed(done))
    return replace(block, tensors=tuple(tensors[t.name] for t in block.tensors), operators=operators)


def _unchanged(block: Block, tensors: Mapping[str, Tensor], known: Block) -> frozenset[str]:
    """Names of operators that are in both blocks as they are, with all their tensors."""
    before, own = known.by_name, {id(operator) for operator in known.operators}
    return frozenset(
        op.name
        for op in block.operators
        if id(op) in own and all(tensors[n] is before.get(n) for n in (*op.inputs, *op.outputs))
    )


def _resolved(block: Block, rules: Mapping[str, Rule], otherwise: Rule) -> dict[str, Tensor]:
    """All tensors with `needs_gradient` and `alias_of` set."""
    tensors = dict(block.by_name)
    for operator in block.operators:
        rule = rules.get(operator.kind, otherwise)
        collective = operator.kind in COLLECTIVE_KINDS
        source = any(tensors[n].needs_gradient for n in operator.inputs) and (rule.differentiable or collective)
        for name in operator.outputs:
            tensor = tensors[name]
            alias = operator.inputs[0] if rule.view and not collective else tensor.alias_of
            wanted = source and is_float(tensor.dtype)
            if (wanted, alias) != (tensor.needs_gradient, tensor.alias_of):
                tensors[name] = replace(tensor, needs_gradient=wanted, alias_of=alias)
    return tensors


def _call(operator: Operator, tensors: Mapping[str, Tensor], rule: Rule) -> Call:
    return Call(
        operator=operator,
        inputs=tuple(tensors[n] for n in operator.inputs),
        outputs=tuple(tensors[n] for n in operator.outputs),
        arguments=rule.arguments,
    )


def _worked(call: Call, rule: Rule, copied: Mapping[str, str], met: set[str], *, assumed: bool) -> Operator:
    """The operator of a call with its work; `met` holds the tensors that have a gradient already, and grows."""
    operator = call.operator
    attributes = operator.attributes
    if assumed or any(name == "assumed" for name, _ in attributes):
        others = {name: value for name, value in attributes if name != "assumed"}
        attributes = tuple(sorted((others | ({"assumed": True} if assumed else {})).items()))
    backward: Works = ()
    saved: Names = ()
    if call.wanted and call.results:
        backward, saved = rule.backward(call), rule.saved(call)
        if rule.keeps_view:
            backward = (*_copied_again(call, saved, copied), *backward)
            saved = tuple(copied.get(n, n) for n in saved)
    return Operator(
        name=operator.name,
        kind=operator.kind,
        inputs=operator.inputs,
        outputs=operator.outputs,
        attributes=attributes,
        forward=rule.forward(call),
        backward=(*backward, *_sums(call, met)),
        saved=tuple(dict.fromkeys(saved)),
    )


def _copied_again(call: Call, saved: Names, copied: Mapping[str, str]) -> Works:
    """One copy in the backward for each strided input that is kept as a view."""
    strided = (t for t in call.inputs if t.name in copied and t.name in saved)
    return tuple(call.launch(reads=(t,), writes=(t,), kind="contiguous") for t in strided)


def _sums(call: Call, met: set[str]) -> Works:
    """An addition wherever a gradient of this call meets one that is there already; `met` grows by its inputs.

    The last user of a tensor in forward order is the first in the backward, so its gradient meets none.
    """
    sums: list[Work] = []
    if call.results:
        for tensor in call.wanted:
            if tensor.name in met:
                sums.append(call.launch(reads=(tensor, tensor), writes=(tensor,), flops=float(tensor.size), kind="add"))
            met.add(tensor.name)
    return tuple(sums)
