"""Blocks of a graph as one rank computes them under its degrees, each cut once.

Where many numbers of rows are asked for, blocks are cut at one and at two rows, and stretched to the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from nebula.errors import BadInput
from nebula.graph.context import context_parallel, require_heads
from nebula.graph.experts import expert_parameters
from nebula.graph.local_block import dealt_block, undealt_block
from nebula.graph.ring import with_rings
from nebula.graph.rows import block_with_rows
from nebula.graph.splits import leaves_whole
from nebula.graph.stretched import BENT, MOST_CUT, stretched
from nebula.graph.values import Block, DistributedGraph
from nebula.plan.job import EXCHANGES


class CutBlocks:
    """The local blocks of one graph.

    Args:
        graph: the model.
        by_tensor: as of nebula.cost_model.execution.
        stretches: whether blocks of more than MOST_CUT rows are stretched, which is the same up to rounding.
    """

    def __init__(self, graph: DistributedGraph, *, by_tensor: bool, stretches: bool = False) -> None:
        self.graph, self._by_tensor, self._stretches = graph, by_tensor, stretches
        self._blocks: dict[tuple[int, ...], Block] = {}
        self._undealt: dict[tuple[int, ...], Block] = {}
        self._cut: dict[tuple[int, ...], Block] = {}
        self._parts: dict[tuple[int, ...], Block] = {}
        self._wholes: dict[tuple[int, int], Block] = {}
        self._whole_runs: dict[tuple[int, int], bool] = {}
        self._experts = frozenset(i for i, block in enumerate(graph.blocks) if expert_parameters(block))
        self._bent = frozenset(i for i, b in enumerate(graph.blocks) if any(op.kind in BENT for op in b.operators))

    def key(self, index: int, degrees: tuple[int, ...]) -> tuple[int, ...]:
        """What a block depends on: those without experts are the same however experts are dealt."""
        rows, tensor, sequence, context, *experts, exchange = degrees
        sequence = int(sequence and not self._runs_whole(index, tensor))
        if index not in self._experts:
            experts = [1, 1]
        return (index, rows, tensor, sequence, context, *experts, exchange)

    def block(self, index: int, degrees: tuple[int, ...]) -> Block:
        """The local block of an index under degrees (rows, tensor, sequence, context, expert, expert_tensor, exchange).

        Raises:
            BadInput: a degree does not divide what it must cut.
        """
        key = self.key(index, degrees)
        _, rows, tensor, sequence, context, expert, expert_tensor, exchange = key
        if key not in self._blocks:
            self._blocks[key] = dealt_block(
                self._with_rings(index, rows, tensor, sequence, context, expert_tensor, exchange),
                tensor=tensor,
                sequence=bool(sequence),
                expert=expert,
                expert_tensor=expert_tensor,
            )
        return self._blocks[key]

    def know(self, blocks: Mapping[tuple[int, int, int], Block]) -> None:
        """Takes blocks of (index, rows, tensor) that fleet's tensor groups have cut; those with experts are cut anew.

        Without experts, sequence and context parallelism both engines cut alike.
        """
        for (index, rows, tensor), block in blocks.items():
            if tensor == 1 or index not in self._experts:
                self._cut[index, rows, tensor, 0, 1, 1, 0] = block

    def _runs_whole(self, index: int, tensor: int) -> bool:
        """Whether PaddlePaddle runs a block on whole sequences where the others have shares of them."""
        if not self._by_tensor:
            return False
        if (index, tensor) not in self._whole_runs:
            shapes = {t.name: t.shape for t in self.graph.blocks[index].parameters}
            self._whole_runs[index, tensor] = leaves_whole(self.graph.splits, shapes, tensor)
        return self._whole_runs[index, tensor]

    def _with_rings(self, *key: int) -> Block:
        """The undealt block whose attention is a ring where its scores are written out, as the executor runs it.

        What is written in another way than rings are priced for keeps the price of a gather, which moves the same bytes
        and computes the same products.
        """
        if key not in self._undealt:
            index, rows, _, _, context, _, exchange = key
            local = self._stretched(*key) or self._undealt_block(*key)
            if context > 1 and EXCHANGES[exchange] == "ring" and self._by_tensor:
                local = with_rings(local, self._whole_block(index, rows), context) or local
            self._undealt[key] = local
        return self._undealt[key]

    def _stretched(self, index: int, rows: int, *degrees: int) -> Block | None:
        """From the cuts at one and at two rows; None for these, and where they do not tell."""
        if not self._stretches or rows <= MOST_CUT or index in self._bent:
            return None
        try:
            one, two = (self._undealt_block(index, each, *degrees) for each in (1, MOST_CUT))
        except BadInput:
            return None
        return stretched(one, two, rows)

    def _undealt_block(self, *key: int) -> Block:
        """The local block of (index, rows, tensor, sequence, context, expert_tensor, exchange) with all experts."""
        if key not in self._cut:
            index, rows, tensor, sequence, context, expert_tensor, exchange = key
            if context > 1 and EXCHANGES[exchange] == "ulysses":
                require_heads(self._whole_block(index, rows), tensor * context)
            self._cut[key] = undealt_block(
                self._part_of_sequence(index, rows, context, exchange),
                tensor=tensor,
                splits=self.graph.splits,
                sequence=bool(sequence),
                expert_tensor=expert_tensor,
                deals_tokens=not self._by_tensor,
            )
        return self._cut[key]

    def _part_of_sequence(self, *key: int) -> Block:
        """The block of (index, rows, context, exchange) with the positions of one rank of a context group.

        For a ring over scores that are written out that of a gather, see _with_rings.
        """
        if key not in self._parts:
            index, rows, context, exchange = key
            whole = self._whole_block(index, rows)
            fused_core = any(op.kind == "attention" for op in whole.operators)
            way = EXCHANGES[exchange]
            self._parts[key] = context_parallel(whole, context, "gather" if way == "ring" and not fused_core else way)
        return self._parts[key]

    def _whole_block(self, index: int, rows: int) -> Block:
        """The block of an index with so many rows, cut by nothing."""
        if (index, rows) not in self._wholes:
            self._wholes[index, rows] = block_with_rows(self.graph.blocks[index], rows)
        return self._wholes[index, rows]
