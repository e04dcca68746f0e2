"""Whether a row was understood: its parameters against the source's, its matrix products against 6 N D, its units.

A described model that has other parameters or other FLOPs than it should is no basis for a prediction, nor is a figure
in another unit than its key says; what looks so is printed beside the errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nebula.cost_model.runs.amounts import amounts
from nebula.cost_model.runs.case import PEAKS, Case
from nebula.cost_model.runs.predict import Predicted
from nebula.graph.values import Block, Kernel, Role
from nebula.units import format_bytes, format_rate, format_seconds

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
    return _over_layers(case, _linear_flops)


def six_n_d(case: Case) -> float:
    """2 FLOPs forward and 4 backward per token and weight that it meets (Kaplan et al., arXiv 2001.08361, table 1).

    A token meets the top_k of the experts, all matrices and the projection, but of the embedding one row.
    """
    mixture = case.row.moe
    met_share = mixture.top_k / mixture.experts if mixture else 1.0
    return 6.0 * case.graph.tokens_per_row * _over_layers(case, lambda block: _met(block, met_share))


def _over_layers(case: Case, of: Callable[[Block], float]) -> float:
    """The sum over the layers of a case; equal blocks are looked at once."""
    graph = case.graph
    return sum(count * of(graph.blocks[index]) for index, count in Counter(graph.layers).items())


def _linear_flops(block: Block) -> float:
    weights = {t.name for t in block.tensors if t.role is Role.PARAMETER}
    total = 0.0
    for operator in block.operators:
        if len(operator.inputs) > 1 and operator.inputs[1] in weights:
            work = (*operator.forward, *operator.backward)
            total += sum(k.flops for k in work if isinstance(k, Kernel) and k.product)
    return total


def _met(block: Block, met_share: float) -> float:
    """Weights of a block that a token meets, of experts that share."""
    looked_up = {op.inputs[1] for op in block.operators if op.kind == "embedding"}
    factors = [t for t in block.parameters if t.name not in looked_up and len(t.shape) > 1]
    return sum(t.size * (met_share if len(t.shape) == 3 else 1.0) for t in factors)


FASTEST_NIC_BYTES_PER_S = 120e9
"""A port of XDR InfiniBand has 100 GB/s; a card beyond is taken for bits that were written as bytes."""

UNITS = 1000.0
"""Between a unit and the next; a figure that is nearly so many times another is taken for one in the wrong unit."""


def unit_mistakes(predicted: Predicted) -> Iterator[str]:
    """Sentences on figures that would be right in another unit; rates inside a node are looked at in links.py."""
    case, where = predicted.case, f"row {predicted.case.id!r}"
    measured_s = case.measured.time_s
    for factor, remedy in ((UNITS, "a thousandth of it"), (1.0 / UNITS, "a thousand times as much")):
        if measured_s and 0.2 < measured_s / (factor * predicted.time_s) < 5.0:
            yield (
                f"{where}: measured: a time of {format_seconds(measured_s)} is {factor:g} times the predicted one; "
                f"did you mean {remedy}?"
            )
    device_bytes = max(group.device.memory_bytes for group in case.cluster.groups)
    if case.measured.peak_bytes > 1.1 * device_bytes:
        name = next(field for field, _ in PEAKS if getattr(case.row.measured, field))
        held, has = format_bytes(case.measured.peak_bytes), format_bytes(device_bytes)
        yield f"{where}: measured.{name}: {held} is more than the {has} of the device; which unit is it in?"
    printed = next(iter(amounts(case.row.inter)), None)
    fastest = max(group.nic.bytes_per_s for group in case.cluster.groups)
    if printed and not printed.bits and fastest > FASTEST_NIC_BYTES_PER_S:
        rate = format_rate(printed.bytes_per_s)
        yield (
            f"{where}: inter: no network card has {rate}; b is bits and B is bytes: did you mean "
            f"{printed.bytes_per_s / 1e9:g} Gb/s?"
        )
