"""A model whose router deals tokens unevenly: the busiest rank of an expert group gets more than the mean."""

from __future__ import annotations

from dataclasses import replace

from nebula.graph.values import Block, DistributedGraph, Operator


def imbalanced(graph: DistributedGraph, factor: float) -> DistributedGraph:
    """The graph with `factor` times the tokens on the busiest rank of every expert group.

    Its own FLOPs stay what they were: a balanced step is what utilisation is measured against. What a rank works on
    shows once experts are dealt to ranks (nebula.graph.experts).
    """
    return replace(graph, blocks=tuple(_imbalanced(block, factor) for block in graph.blocks))


def _imbalanced(block: Block, factor: float) -> Block:
    return replace(block, operators=tuple(_busier(operator, factor) for operator in block.operators))


def _busier(operator: Operator, factor: float) -> Operator:
    if operator.kind != "grouped_matmul":
        return operator
    before = operator.attribute("imbalance", 1.0)
    assert isinstance(before, int | float)
    attributes = {**dict(operator.attributes), "imbalance": factor * before}
    return replace(operator, attributes=tuple(sorted(attributes.items())))
