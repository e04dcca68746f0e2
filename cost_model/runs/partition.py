"""Which layers each stage of a row holds: even, with embedding and loss counted as layers, or as the row lists them.

A chain is an embedding, the layers and a head; stages are virtual ones, so that interleaving is more of them.
"""

from __future__ import annotations

import re
from itertools import pairwise

from nebula.cost_model.runs.schema import Row, partition_of
from nebula.errors import BadInput

Boundaries = tuple[int, ...]
"""First chain element of each stage and, last, the number of elements."""


def boundaries(row: Row) -> Boundaries:
    """The cuts of a row's chain of layers + 2 elements.

    Raises:
        BadInput: there are fewer layers than stages, or the listed partition does not fit.
    """
    listed = partition_of(row)
    if listed:
        return _listed(row, listed)
    stages, layers = row.pp * row.vpp, row.layers
    ends_count = bool(re.search(r"transformer\|embedding|account_for_(?:embedding|loss)", row.assumptions + row.notes))
    ends_count = ends_count or (layers + 2) % stages == 0
    if layers % stages and ends_count and layers + 2 >= stages:
        return _cuts(spread(layers + 2, stages))
    if layers < stages:
        raise BadInput(f"layers {layers} < pp {row.pp} × vpp {row.vpp} = {stages} stages: a stage would be empty")
    sizes = list(spread(layers, stages))
    sizes[0] += 1
    sizes[-1] += 1
    return _cuts(tuple(sizes))


def spread(elements: int, stages: int) -> tuple[int, ...]:
    """As even as can be, the larger stages first.

    >>> spread(10, 4)
    (3, 3, 2, 2)
    """
    least, more = divmod(elements, stages)
    return (least + 1,) * more + (least,) * (stages - more)


def _cuts(sizes: tuple[int, ...]) -> Boundaries:
    cuts = [0]
    for size in sizes:
        cuts.append(cuts[-1] + size)
    return tuple(cuts)


def _listed(row: Row, listed: tuple[int, ...]) -> Boundaries:
    """From indices over pipeline layers, of which some stand before the first transformer layer, some behind the last.

    What is not a transformer layer is taken to stand half before and half behind (embedding and reshaping before, norm
    and projection behind).
    """
    stages = row.pp * row.vpp
    others = listed[-1] - row.layers
    rising = all(a < b for a, b in pairwise(listed))
    if len(listed) != stages + 1 or listed[0] != 0 or others < 0 or not rising:
        raise BadInput(
            f"stage_partition {list(listed)} does not cut {row.layers} layers into {stages} stages: "
            f"it needs {stages + 1} rising numbers from 0 to {row.layers} or more"
        )
    before = others - others // 2
    inner = tuple(min(max(cut - before, 0), row.layers) + 1 for cut in listed[1:-1])
    cuts = (0, *inner, row.layers + 2)
    if any(a >= b for a, b in pairwise(cuts)):
        raise BadInput(f"stage_partition {list(listed)} leaves a stage without a layer")
    return cuts
