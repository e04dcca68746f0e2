"""The collectives of the graph's interpreter on real ranks: each process is one rank of the mesh.

Arrays travel as Paddle tensors through paddle.distributed, on whatever device and backend the process was launched
with; the operators themselves stay in numpy. Every rank must make the same calls in the same order.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.distributed as dist

from nebula.graph.distribution import Mesh
from nebula.graph.interpret_ranks import Array, Values


class PaddleRanks:
    """This process as one rank of a mesh that spans all launched ranks.

    Making one creates the groups along every axis, which is itself collective.
    """

    def __init__(self, mesh: Mesh) -> None:
        assert mesh.size == dist.get_world_size(), f"{mesh} on {dist.get_world_size()} ranks"
        self.mesh = mesh
        self.rank = dist.get_rank()
        self._groups = {axis: self._group_along(axis) for axis in range(len(mesh.shape))}

    def _group_along(self, axis: int) -> dist.communication.group.Group:
        """Every rank makes all groups, as Paddle wants, and keeps its own."""
        members = sorted({self.mesh.group(rank, axis) for rank in range(self.mesh.size)})
        groups = {ranks: dist.new_group(list(ranks)) for ranks in members}
        return groups[self.mesh.group(self.rank, axis)]

    @property
    def here(self) -> tuple[int, ...]:
        """This rank."""
        return (self.rank,)

    def all_reduce(self, values: Values, axis: int, operation: str = "sum") -> Values:
        """Each rank gets the `sum` or `max` over the ranks along the axis."""
        tensor = _sent(values[self.rank])
        chosen = dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM
        dist.all_reduce(tensor, op=chosen, group=self._groups[axis])
        return {self.rank: _received(tensor, values[self.rank])}

    def all_gather(self, values: Values, axis: int) -> Values:
        """Each rank gets [p, ...]: the arrays of the p ranks along the axis, in order."""
        parts: list[paddle.Tensor] = []
        dist.all_gather(parts, _sent(values[self.rank]), group=self._groups[axis])
        return {self.rank: np.stack([_received(part, values[self.rank]) for part in parts])}

    def reduce_scatter(self, values: Values, axis: int) -> Values:
        """Of arrays [p, ...] rank i along the axis gets the sum of their i-th parts."""
        whole = _sent(values[self.rank])
        part = paddle.empty(whole.shape[1:], dtype=whole.dtype)
        dist.stream.reduce_scatter(part, whole.flatten(), group=self._groups[axis])
        return {self.rank: _received(part, values[self.rank])}

    def all_to_all(self, values: Values, axis: int) -> Values:
        """Of arrays [p, ...] rank i along the axis gets [p, ...]: the i-th part of each."""
        whole = _sent(values[self.rank])
        out = paddle.empty(whole.shape, dtype=whole.dtype)
        dist.alltoall_single(out, whole, group=self._groups[axis])
        return {self.rank: _received(out, values[self.rank])}


def _sent(array: Array) -> paddle.Tensor:
    """A tensor of its own; truth values travel as integers."""
    kind = np.int64 if array.dtype == np.bool_ else array.dtype
    return paddle.to_tensor(np.ascontiguousarray(array, dtype=kind))


def _received(tensor: paddle.Tensor, like: Array) -> Array:
    return np.asarray(tensor.numpy()).astype(like.dtype)
