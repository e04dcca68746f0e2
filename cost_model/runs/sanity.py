"""Whether a row was understood: its parameters against the source's, its matrix products against 6 N D.

A described model that has other parameters or other FLOPs than it should is no basis for a prediction; both checks are
printed beside the errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.cost_model.runs.case import Case
from nebula.graph.values import Kernel, Role

TOLERANCE_PCT = 3.0
"""Further off is worth a look: names of models are rounded, and some leave the embeddings out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A figure of a described model that differs from what it should be.

    Attributes:
        model: as the row names it.
        what: `parameters` or `flops`.
    """

    id: str
    model: str
    what: str
    described: float
    expected: float

    @property
    def error_pct(self) -> float:
        """By how much, in percent of what it should be."""
        return 100.0 * (self.described / self.expected - 1.0)


def doubts(case: Case) -> tuple[Doubt, ...]:
    """The checks of a case that are off by more than TOLERANCE_PCT; none for single layers."""
    if not case.row.is_step:
        return ()
    checks = [
        Doubt(id=case.id, model=case.row.model, what="flops", described=linear_flops(case), expected=six_n_d(case))
    ]
    if case.printed_parameters:
        described, expected = float(case.parameters), case.printed_parameters
        checks.append(
            Doubt(id=case.id, model=case.row.model, what="parameters", described=described, expected=expected)
        )
    return tuple(c for c in checks if abs(c.error_pct) > TOLERANCE_PCT)


def linear_flops(case: Case) -> float:
    """FLOPs of all products with weights, forward and backward, of one row; attention apart."""
    graph = case.graph
    total = 0.0
    for layer in graph.layers:
        block = graph.blocks[layer]
        weights = {t.name for t in block.tensors if t.role is Role.PARAMETER}
        for operator in block.operators:
            if len(operator.inputs) > 1 and operator.inputs[1] in weights:
                work = (*operator.forward, *operator.backward)
                total += sum(k.flops for k in work if isinstance(k, Kernel) and k.product)
    return total


def six_n_d(case: Case) -> float:
    """2 FLOPs forward and 4 backward per token and weight that it meets (Kaplan et al., arXiv 2001.08361, table 1).

    A token meets the top_k of the experts, all matrices and the projection, but of the embedding one row.
    """
    met = 0.0
    for layer in case.graph.layers:
        block = case.graph.blocks[layer]
        looked_up = {op.inputs[1] for op in block.operators if op.kind == "embedding"}
        for tensor in block.parameters:
            if tensor.name in looked_up or len(tensor.shape) < 2:
                continue
            mixture = case.row.moe
            met += tensor.size * (mixture.top_k / mixture.experts if mixture and len(tensor.shape) == 3 else 1.0)
    return 6.0 * met * case.graph.tokens_per_row
