"""Where the parameters of a model are: by module for matrices, and apart for biases, norms, positions, embeddings.

What a parameter is follows from the operator that reads it, not from its name, so that traced and described models are
counted alike.
"""

from __future__ import annotations

from collections import Counter

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
}

_PASSING = ("reshape", "transpose", "contiguous", "cast")
"""Kinds that hand a parameter on; the operator behind them says what it is."""


def parameter_account(graph: DistributedGraph) -> dict[str, int]:
    """Parameters by group, largest first; they sum to `graph.parameter_count`.

    Groups are `<module> matrices` for what products and convolutions read (the block's name where it has no module),
    `biases`, `norms`, `positions`, `embeddings` and, for what fits none, `other`.
    """
    account: Counter[str] = Counter()
    for run in graph.runs:
        for group, size in _block_account(graph.blocks[run.block]).items():
            account[group] += run.layers * size
    return dict(account.most_common())


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
                otherwise = f"{block.module or block.name} matrices" if matrix else "biases"
                groups.setdefault(name, _GROUPS.get(operator.kind, otherwise))
    account: Counter[str] = Counter()
    for tensor in block.parameters:
        account[groups.get(tensor.name, "other")] += tensor.size
    return account
