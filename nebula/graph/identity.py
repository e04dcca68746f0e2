"""Which graph a plan was made for: a short hash of everything that costs depend on."""

from __future__ import annotations

import hashlib

from nebula.graph.values import DistributedGraph


def graph_hash(graph: DistributedGraph) -> str:
    """12 hex digits; equal for equal graphs, whatever process made them.

    The text that is hashed is the value's `repr`, in which every field stands; the blocks are folded, so it stays
    small for large models.
    """
    return hashlib.sha256(repr(graph).encode()).hexdigest()[:12]
