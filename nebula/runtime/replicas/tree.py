"""In which order are gradients of shards added? That of one binary tree over them, whoever worked on which; pure.

A node of the tree is a span [first, last) of shards. The sum of a node is the sum of its halves, so that sums of
floating point numbers have the same bits on one member and on many. Members hand over the sums of the largest nodes
that they have all shards of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Span = tuple[int, int]
Array = npt.NDArray[np.float32]


def halves(span: Span) -> tuple[Span, Span]:
    """The two nodes below one of several shards.

    Example:
        >>> halves((0, 5))
        ((0, 3), (3, 5))
    """
    middle = (span[0] + span[1] + 1) // 2
    return (span[0], middle), (middle, span[1])


def shares(shards: int, members: Sequence[int]) -> dict[int, range]:
    """The shards of each member, runs of them as equal as can be; the first members get one more.

    Example:
        >>> shares(8, [0, 2, 5])
        {0: range(0, 3), 2: range(3, 6), 5: range(6, 8)}
    """
    each, more = divmod(shards, len(members))
    cuts = [index * each + min(index, more) for index in range(len(members) + 1)]
    return {member: range(*span) for member, span in zip(members, pairwise(cuts), strict=True)}


class Sums:
    """Sums of the gradients of some shards, as few as the tree allows.

    Args:
        shards: of a global batch.
    """

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._parent: dict[Span, Span] = {}
        self.parts: dict[Span, Array] = {}
        todo = [(0, shards)]
        while todo:
            span = todo.pop()
            if span[1] - span[0] > 1:
                for half in halves(span):
                    self._parent[half] = span
                    todo.append(half)

    def add(self, shard: int, gradient: Array) -> None:
        """Adds a shard's gradient, which is used up."""
        self.put({(shard, shard + 1): gradient})

    def put(self, parts: Mapping[Span, Array]) -> None:
        """Adds sums of nodes, which are used up."""
        for span, array in parts.items():
            assert span in self._parent or span == (0, self._shards), f"{span} is no node of {self._shards} shards"
            self.parts[span] = array
            self._climb(span)

    def _climb(self, span: Span) -> None:
        while span in self._parent:
            above = self._parent[span]
            left, right = halves(above)
            if left not in self.parts or right not in self.parts:
                return
            self.parts[above] = np.add(self.parts.pop(left), other := self.parts.pop(right), out=other)
            span = above

    @property
    def lacking(self) -> list[int]:
        """The shards that are not there yet."""
        have = {shard for first, last in self.parts for shard in range(first, last)}
        return [shard for shard in range(self._shards) if shard not in have]

    def total(self) -> Array:
        """The sum over all shards; all must be there."""
        return self.parts[0, self._shards]


def dealt_again(lacking: Iterable[int], members: Sequence[int]) -> dict[int, list[int]]:
    """Who does which of the shards that nobody has, runs of them as equal as can be."""
    shards = sorted(lacking)
    return {member: [shards[i] for i in run] for member, run in shares(len(shards), members).items()}
