"""Moves the balance of every router once a step, against the load of the global batch, on all ranks alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from nebula.models.experts import Router
from nebula.models.routing import Counts


class Balance:
    """The routers of a whole model, of which a rank holds some.

    Args:
        elements: of the whole model.
        counts: whether this rank's tokens are told; of ranks that hold the same ones, one does.
    """

    def __init__(self, elements: Sequence[nn.Layer], *, counts: bool) -> None:
        found = _routers(elements)
        self._sizes, self._counts = [router.sizes.count for router in found], counts
        self._moves = any(router.routing.speed for router in found)
        # until `keep`: routers of other stages must not live on
        self._held = list(enumerate(found))

    def keep(self, elements: Iterable[nn.Layer]) -> None:
        """Forgets the routers of other ranks' elements."""
        here = {id(router) for router in _routers(elements)}
        self._held = [(index, router) for index, router in self._held if id(router) in here]

    def move(self) -> None:
        """One step; all ranks call it together."""
        loads: list[Counts] = [np.zeros(size, dtype=np.int64) for size in self._sizes]
        for index, router in self._held:
            if self._counts:
                loads[index] = router.load
        if self._moves and dist.is_initialized() and dist.get_world_size() > 1:
            total = paddle.to_tensor(np.concatenate(loads))
            dist.all_reduce(total)
            loads = np.split(total.numpy(), np.cumsum(self._sizes)[:-1])
        for index, router in self._held:
            router.move(loads[index])


def _routers(elements: Iterable[nn.Layer]) -> list[Router]:
    layers = (layer for element in elements for layer in element.sublayers(include_self=True))
    return list({id(layer): layer for layer in layers if isinstance(layer, Router)}.values())
