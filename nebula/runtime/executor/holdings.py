"""Who holds which part of which weight, and over whom gradients are summed.

Every weight is cut at the union of all holders' cuts, and each slice summed over exactly the ranks that hold it. One
rule so covers data parallelism, replicas of unlike tensor degrees, and weights that layers of two stages share. The
ranks of one replica that hold the same slice have equal gradients for it, of which one counts, but for what they
compute from shares of the sequence: these gradients are addends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from nebula.errors import BadInput

Owner = tuple[int, int]
"""A replica of a home: (home, index)."""


class Holding(NamedTuple):
    """A rank's part of a weight.

    Attributes:
        name: in the whole model.
        dim: along which it is cut; -1: it is whole.
        first, last: along that dim; (0, 1) of a whole weight.
        addend: its gradient is that of a share of the replica's work, of this number; equal ones are copies.
    """

    name: str
    dim: int
    first: int
    last: int
    addend: int = 0


class Slice(NamedTuple):
    """A run of a weight that the same ranks hold.

    Attributes:
        first, last: along the weight's dim.
        ranks: over which this rank sums its gradient; itself alone where no sum is due.
        weight: what this rank's gradient counts in the sum.
        copies: ranks that hold the slice, in all.
    """

    name: str
    dim: int
    first: int
    last: int
    ranks: tuple[int, ...]
    weight: float
    copies: int


def slices(held: Mapping[int, Iterable[Holding]], owners: Mapping[int, Owner]) -> dict[int, list[Slice]]:
    """The slices of every rank's weights.

    Args:
        held: what every rank holds.
        owners: the replica of every rank.

    Raises:
        BadInput: two holders cut a weight along different dims.

    Example:
        >>> held = {0: [Holding("w", 0, 0, 4)], 1: [Holding("w", 0, 0, 2)], 2: [Holding("w", 0, 2, 4)]}
        >>> [(s.first, s.last, s.ranks) for s in slices(held, {0: (0, 0), 1: (0, 1), 2: (0, 1)})[0]]
        [(0, 2, (0, 1)), (2, 4, (0, 2))]
    """
    by_name: dict[str, list[tuple[int, Holding]]] = defaultdict(list)
    found: dict[int, list[Slice]] = {}
    for holder, holdings in held.items():
        found[holder] = []
        for holding in holdings:
            by_name[holding.name].append((holder, holding))
    for name, parts in by_name.items():
        dims = sorted({part.dim for _, part in parts if part.dim >= 0})
        if len(dims) > 1:
            raise BadInput(f"{name} is shared by layers that cut it along dims {dims[0]} and {dims[1]}; untie the two")
        dim, extent = max(part.dim for _, part in parts), max(part.last for _, part in parts)
        spans = {holder: (part.first, part.last) if part.dim == dim else (0, extent) for holder, part in parts}
        sources = {holder: (owners[holder], part.addend) for holder, part in parts}
        for first, last in pairwise(sorted({end for span in spans.values() for end in span})):
            holders = [holder for holder, span in spans.items() if span[0] <= first and last <= span[1]]
            for weights in _sums(holders, sources):
                ranks = tuple(sorted(weights))
                for rank, weight in weights.items():
                    found[rank].append(Slice(name, dim, first, last, ranks, weight, len(holders)))
    return found


def _sums(holders: list[int], sources: Mapping[int, tuple[Owner, int]]) -> Iterator[dict[int, float]]:
    """For each group of ranks that sum a slice together, what the part of each counts.

    Where every source of a gradient has as many copies, those at the same place are summed; else all of them, each
    counting so much that its source counts once.
    """
    by_source: dict[tuple[Owner, int], list[int]] = defaultdict(list)
    for holder in sorted(holders):
        by_source[sources[holder]].append(holder)
    if len({len(copies) for copies in by_source.values()}) == 1:
        for together in zip(*by_source.values(), strict=True):
            yield dict.fromkeys(together, 1.0)
    else:
        yield {rank: 1.0 / len(copies) for copies in by_source.values() for rank in copies}
