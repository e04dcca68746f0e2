"""Pricing of many cases: rows of one model under the same degrees share what one rank computes of a layer.

Writing a local block costs more than pricing it, and a file of measured runs has few models under many splits.
"""

from __future__ import annotations

from nebula.cost_model.runs.case import Case
from nebula.cost_model.step import StepPricing
from nebula.graph.rows import with_rows
from nebula.graph.values import Block, DistributedGraph

MOST_GRAPHS = 256
"""Graphs whose blocks are kept; beyond that all are forgotten, so that memory stays the same for any number of rows."""

BlockKey = tuple[int, ...]


class SharedBlocks:
    """Graphs for a number of rows, and their local blocks, by the identity of the graph that they were made of."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, int], tuple[DistributedGraph, DistributedGraph]] = {}
        self._blocks: dict[int, dict[BlockKey, Block]] = {}

    def pricing(self, case: Case) -> StepPricing:
        """The pricing of a case with the blocks that cases before it had.

        Raises:
            BadInput: the micro-batch of the case has no rows.
        """
        graph = self._graph(case)
        return _Pricing(graph, case, self._blocks.setdefault(id(graph), {}))

    def _graph(self, case: Case) -> DistributedGraph:
        key = (id(case.graph), case.row.micro_batch)
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                self._graphs.clear()
                self._blocks.clear()
            # the first of the pair is kept so that no other graph gets its identity
            self._graphs[key] = (case.graph, with_rows(case.graph, case.row.micro_batch))
        return self._graphs[key][1]


class _Pricing(StepPricing):
    """Prices one case and keeps its blocks where others find them."""

    def __init__(self, graph: DistributedGraph, case: Case, blocks: dict[BlockKey, Block]) -> None:
        super().__init__(graph, case.cluster, case.execution)
        self._shared = blocks

    def block(self, index: int, degrees: tuple[int, ...]) -> Block:
        """The local block of an index."""
        key = (index, *degrees)
        if key not in self._shared:
            self._shared[key] = super().block(index, degrees)
        return self._shared[key]
