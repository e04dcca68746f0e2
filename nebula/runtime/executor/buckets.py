"""Tensors that travel together, in buckets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from nebula.plan.executor_limits import BUCKET_BYTES

T = TypeVar("T")


def buckets(items: Iterable[T], *, key: Callable[[T], Hashable], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Runs of items of one key that are together no larger than a bucket, or alone; keys in the order of their firsts.

    Example:
        >>> list(buckets([70, 80, 3], key=lambda _: 0, size=lambda mib: mib * 2**20))
        [[70], [80, 3]]
    """
    found: dict[Hashable, list[list[T]]] = defaultdict(list)
    room: dict[Hashable, int] = defaultdict(int)
    for item in items:
        bytes_, of = size(item), key(item)
        if not found[of] or room[of] < bytes_:
            found[of].append([])
            room[of] = BUCKET_BYTES
        found[of][-1].append(item)
        room[of] -= bytes_
    for each in found.values():
        yield from each
