"""A batch is a pair (inputs, labels); each is an array, a tensor, or a tuple or dict of them, rows leading."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from nebula.errors import BadInput


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies a function to every array of a tree of tuples, lists and dicts."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_leaves(function, value) for value in tree)
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """The arrays of a tree, left to right."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def row_count(tree: Any) -> int:
    """Rows of a batch.

    Raises:
        BadInput: its arrays have different numbers of rows.
    """
    counts = sorted({int(leaf.shape[0]) for leaf in leaves(tree)})
    if len(counts) != 1:
        raise BadInput(f"the arrays of a batch have {counts} rows; all need the same number")
    return counts[0]


def rows(tree: Any, first: int, last: int) -> Any:
    """Rows [first, last) of every array."""
    return map_leaves(lambda leaf: leaf[first:last], tree)


def picked(tree: Any, numbers: Sequence[int]) -> Any:
    """The rows of those numbers of every array."""
    if isinstance(numbers, range):
        return rows(tree, numbers.start, numbers.stop)
    return map_leaves(lambda leaf: leaf[list(numbers)], tree)


def row_digests(tree: Any, numbers: Sequence[int]) -> dict[int, int]:
    """What tells the rows of those numbers from others: number -> digest over all arrays."""
    arrays = [np.asarray(leaf) for leaf in leaves(tree)]
    return {n: zlib.crc32(b"".join(np.ascontiguousarray(array[n]).tobytes() for array in arrays)) for n in numbers}


def check_alike(told: Sequence[Mapping[int, int]]) -> None:
    """Refuses a global batch that is not the same on all ranks.

    Args:
        told: the digests of every rank, of the rows that it works on.

    Raises:
        BadInput: with a row that two ranks have unlike each other.
    """
    seen: dict[int, tuple[int, int]] = {}
    for rank, digests in enumerate(told):
        for number, digest in digests.items():
            first, known = seen.setdefault(number, (rank, digest))
            if digest != known:
                raise BadInput(
                    f"row {number} of the batch is another on rank {rank} than on rank {first}, which work on it "
                    "together: give all ranks the same global batch (seed what loads and shuffles alike)"
                )


def on_device(tree: Any) -> Any:
    """Every array as a tensor on the current device."""

    def move(leaf: Any) -> paddle.Tensor:
        if isinstance(leaf, paddle.Tensor):
            return leaf.to(paddle.get_device())
        return paddle.to_tensor(np.ascontiguousarray(leaf))

    return map_leaves(move, tree)


def micro_batches(tree: Any, count: int) -> list[Any]:
    """Equal parts of a batch, in order.

    Raises:
        BadInput: the rows do not divide.
    """
    total = row_count(tree)
    if total % count:
        raise BadInput(f"{total} rows do not divide into {count} micro-batches")
    size = total // count
    return [rows(tree, i * size, (i + 1) * size) for i in range(count)]
