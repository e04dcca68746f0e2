"""Which rule belongs to which operator kind, and what a whole block computes by them.

Tracing yields the forward operators alone; these rules add the kernels of both directions and the tensors kept between
them. They hold for shapes of any size, so they are applied again after a change of rows or a split over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nebula.graph.rules.application import COLLECTIVE_KINDS, apply_with
from nebula.graph.rules.attention import ATTENTION
from nebula.graph.rules.convolution import CONVOLUTION
from nebula.graph.rules.experts import EXPERTS
from nebula.graph.rules.indexing import INDEXING
from nebula.graph.rules.loss import LOSS
from nebula.graph.rules.normalisation import NORMALISATION
from nebula.graph.rules.pointwise import ASSUMED, POINTWISE
from nebula.graph.rules.products import PRODUCTS
from nebula.graph.rules.recurrent import RECURRENT
from nebula.graph.rules.reductions import REDUCTIONS
from nebula.graph.rules.rule import Call, Rule, is_float
from nebula.graph.rules.views import VIEWS
from nebula.graph.values import Block

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **PRODUCTS,
        **ATTENTION,
        **POINTWISE,
        **NORMALISATION,
        **INDEXING,
        **EXPERTS,
        **REDUCTIONS,
        **VIEWS,
        **CONVOLUTION,
        **LOSS,
        **RECURRENT,
    }
)
"""Operator kind -> rule."""


def rule_of(kind: str) -> Rule:
    """The rule of a kind; for a kind without one, a pointwise guess by bytes (ASSUMED)."""
    return RULES.get(kind, ASSUMED)


def apply(block: Block, known: Block | None = None) -> Block:
    """The block with the work of every operator, by the shapes of its tensors; what it has of `known` keeps its own.

    Sets forward, backward and saved of all operators but collectives, `needs_gradient` of all activations (from the
    inputs and parameters, which carry their own), and `alias_of` of views. Operators whose kind has no rule get the
    attribute `assumed`.
    """
    return apply_with(block, RULES, ASSUMED, known)


__all__ = ["ASSUMED", "COLLECTIVE_KINDS", "RULES", "Call", "Rule", "apply", "is_float", "rule_of"]
