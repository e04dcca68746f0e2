"""Moves the balance of every router once a step, against the load of the global batch, on all ranks alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from nebula.models.experts import Router
from nebula.models.routing import Counts
from nebula.runtime import circles
from nebula.runtime.parts import Part


class Balance:
    """The routers of a whole model, of which a rank holds some.

    Args:
        elements: of the whole model, before it is cut.
    """

    def __init__(self, elements: Sequence[nn.Layer]) -> None:
        found = _routers(elements)
        self._sizes = [router.sizes.count for router in found]
        self._moves = any(router.routing.speed for router in found)
        self._held, self._tells = list(enumerate(found)), dict.fromkeys(map(id, found), True)

    def keep(self, part: Part) -> None:
        """Forgets the routers of other ranks; of ranks that route the same tokens, one tells how many."""
        here = {id(router) for router in _routers(part.elements)}
        self._held = [(index, router) for index, router in self._held if id(router) in here]
        first = part.member.rank == 0
        self._tells = {id(router): first or id(router.weight) in part.addends for _, router in self._held}

    def move(self) -> None:
        """One step; all ranks call it together."""
        loads: list[Counts] = [np.zeros(size, dtype=np.int64) for size in self._sizes]
        for index, router in self._held:
            if self._tells[id(router)]:
                loads[index] = router.load
        if self._moves and dist.is_initialized() and dist.get_world_size() > 1:
            total = paddle.to_tensor(np.concatenate(loads))
            circles.everyone(dist.get_world_size()).all_reduce(total)
            loads = np.split(total.numpy(), np.cumsum(self._sizes)[:-1])
        for index, router in self._held:
            router.move(loads[index])


def _routers(elements: Iterable[nn.Layer]) -> list[Router]:
    layers = (layer for element in elements for layer in element.sublayers(include_self=True))
    return list({id(layer): layer for layer in layers if isinstance(layer, Router)}.values())
