"""Parts of a tensor as boxes (offset and shape), the one form in which every split of every plan can be written.

A slice along a dim is a box; a range of a flattened tensor, as sharding stage 3 cuts, is a few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """The elements `offset[d] <= index[d] < offset[d] + shape[d]` of a tensor."""

    offset: Shape
    shape: Shape

    def __post_init__(self) -> None:
        assert len(self.offset) == len(self.shape), f"{self} has two numbers of dims"

    @property
    def elements(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)

    def moved(self, by: Sequence[int]) -> Box:
        """The same box, `by` further along each dim."""
        return Box(tuple(a + b for a, b in zip(self.offset, by, strict=True)), self.shape)

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Where it lies in an array that holds the elements of `outer`."""
        starts = [a - b for a, b in zip(self.offset, outer.offset, strict=True)]
        return tuple(slice(start, start + size) for start, size in zip(starts, self.shape, strict=True))


def whole(shape: Sequence[int]) -> Box:
    """All of a tensor."""
    return Box((0,) * len(shape), tuple(shape))


def overlap(a: Box, b: Box) -> Box | None:
    """What two boxes share.

    Example:
        >>> overlap(Box((0, 0), (4, 2)), Box((2, 0), (4, 4)))
        Box(offset=(2, 0), shape=(2, 2))
    """
    first = [max(x, y) for x, y in zip(a.offset, b.offset, strict=True)]
    ends = zip(a.offset, a.shape, b.offset, b.shape, strict=True)
    last = [min(x + m, y + n) for x, m, y, n in ends]
    if any(end <= start for start, end in zip(first, last, strict=True)):
        return None
    return Box(tuple(first), tuple(end - start for start, end in zip(first, last, strict=True)))


def flat_boxes(shape: Sequence[int], first: int, last: int) -> tuple[Box, ...]:
    """The elements [first, last) of a flattened tensor as boxes, in that order.

    At most two boxes a dim but for the outermost, which adds one: the rest of a row, whole rows, the begin of a row.

    Example:
        >>> [(box.offset, box.shape) for box in flat_boxes((3, 4), 2, 9)]
        [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]
    """
    if first >= last:
        return ()
    if not shape:
        return (Box((), ()),)
    row = math.prod(shape[1:])
    begin, end = -(-first // row), last // row
    if begin > end:  # within one row
        return _in_row(shape, end, first - end * row, last - end * row)
    before = _in_row(shape, begin - 1, first - (begin - 1) * row, row) if first < begin * row else ()
    after = _in_row(shape, end, 0, last - end * row)
    rows = (Box((begin, *(0 for _ in shape[1:])), (end - begin, *shape[1:])),) if begin < end else ()
    return (*before, *rows, *after)


def _in_row(shape: Sequence[int], index: int, first: int, last: int) -> tuple[Box, ...]:
    return tuple(Box((index, *box.offset), (1, *box.shape)) for box in flat_boxes(shape[1:], first, last))


def tile(shape: Sequence[int], boxes: Sequence[Box]) -> bool:
    """Whether boxes hold every element of a tensor once.

    Counts on the grid that the boxes' borders span, so that a thousand boxes take no million comparisons.
    """
    everything, full = whole(shape), [box for box in boxes if box.elements]
    if any(len(box.shape) != len(shape) or overlap(everything, box) != box for box in full):
        return False
    cuts = [
        sorted({x for box in full for x in (box.offset[d], box.offset[d] + box.shape[d])}) for d in range(len(shape))
    ]
    cells = [{x: index for index, x in enumerate(line)} for line in cuts]
    counts = np.zeros([max(len(line) - 1, 0) for line in cuts], np.int32)
    for box in full:
        counts[tuple(slice(cell[o], cell[o + n]) for cell, o, n in zip(cells, box.offset, box.shape, strict=True))] += 1
    return bool((counts == 1).all()) and sum(box.elements for box in full) == everything.elements
