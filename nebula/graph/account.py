"""Where the parameters of a model are, and how many of them a token meets.

By module for matrices, and apart for experts, biases, norms, positions, embeddings. What a parameter is follows from
the operator that reads it, not from its name, so that traced and described models are counted alike.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import prod

from nebula.graph.experts import expert_parameters
from nebula.graph.values import Block, DistributedGraph, Role

_GROUPS = {
    "add": "biases",
    "layer_norm": "norms",
    "rms_norm": "norms",
    "batch_norm": "norms",
    "group_norm": "norms",
    "instance_norm": "norms",
    "embedding": "embeddings",
    "index_select": "positions",
    "gather": "positions",
    "grouped_matmul": "experts",
}

_PASSING = ("reshape", "transpose", "contiguous", "cast")
"""Kinds that hand a parameter on; the operator behind them says what it is."""


def parameter_account(graph: DistributedGraph) -> dict[str, int]:
    """Parameters by group, largest first; they sum to `graph.parameter_count`.

    Groups are `<module> matrices` for what products and convolutions read (the block's name where it has no module),
    `experts`, `biases`, `norms`, `positions`, `embeddings` and, for what fits none, `other`. What the last layer shares
    with the embedding counts there.
    """
    account: Counter[str] = Counter()
    for run in graph.runs:
        for group, size in _block_account(graph.blocks[run.block]).items():
            account[group] += run.layers * size
    account[_matrices(graph.block_of(-1))] -= graph.tied_elements
    return {group: size for group, size in account.most_common() if size}


def active_parameter_count(graph: DistributedGraph) -> int:
    """Parameters that one token meets: all but those of experts that do not see it.

    A token counts in as many experts as it has copies; embeddings count whole, as the reports of such models do.
    """
    tokens = graph.rows * graph.tokens_per_row
    idle = sum(run.layers * _idle(graph.blocks[run.block], tokens) for run in graph.runs)
    return graph.parameter_count - idle


def _idle(block: Block, tokens: int) -> int:
    """Elements of the block's experts that a token does not meet, of `tokens` in all."""
    experts = expert_parameters(block)
    if not experts:
        return 0
    tensors = block.by_name
    copies = max(prod(tensors[op.inputs[0]].shape[:-1]) for op in block.operators if op.kind == "grouped_matmul")
    count = max(tensors[name].shape[0] for name in experts)
    met = min(Fraction(1), Fraction(copies, tokens * count))
    return int(sum(tensors[name].size for name in experts) * (1 - met))


def _matrices(block: Block) -> str:
    """The group of what a block's products read."""
    return f"{block.module or block.name} matrices"


def _block_account(block: Block) -> Counter[str]:
    tensors = block.by_name
    shown = {op.outputs[0]: op.inputs[0] for op in block.operators if op.kind in _PASSING}
    groups: dict[str, str] = {}
    for operator in block.operators:
        for name in operator.inputs:
            while name in shown:
                name = shown[name]
            if tensors[name].role is Role.PARAMETER and operator.kind not in _PASSING:
                matrix = len(tensors[name].shape) > 1
                otherwise = _matrices(block) if matrix else "biases"
                groups.setdefault(name, _GROUPS.get(operator.kind, otherwise))
    account: Counter[str] = Counter()
    for tensor in block.parameters:
        account[groups.get(tensor.name, "other")] += tensor.size
    return account
