"""Chains of layers that other processes cut and price while a search goes on, in the order in which it will ask.

Without such processes the search cuts them itself when it asks, and comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from nebula.cluster.values import DeviceType
from nebula.cost_model.chain import ChainCost, ChainKey, Chains
from nebula.cost_model.communication import Levels
from nebula.plan.job import RECOMPUTE

if TYPE_CHECKING:
    from nebula.planner.workers import Workers

BESIDE = 1
"""Cores that the search itself keeps busy."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A tensor degree, and rows of a micro-batch."""

    tensor: int
    rows: int


def _tensor(cut: Cut) -> int:
    """Cuts with equal values of it share a part."""
    return cut.tensor


class Cuts:
    """Chains that are cut ahead.

    Args:
        chains: which learn what is found.
        device: that they run on.
        levels: where tensor groups of a degree may meet.
        wanted: what is likely to be asked for, in that order.
        processes: as of workers.
    """

    def __init__(
        self,
        chains: Chains,
        device: DeviceType,
        levels: Callable[[int], tuple[Levels, ...]],
        wanted: Iterable[Cut],
        processes: int = 0,
    ) -> None:
        self._chains, self._device, self._levels = chains, device, levels
        from nebula.planner.workers import Alone, workers

        self._workers: Workers = workers(self._costs, _tensor, processes, beside=BESIDE)
        self._wanted = {} if isinstance(self._workers, Alone) else dict.fromkeys(wanted)

    def _costs(self, cut: Cut) -> Mapping[tuple[Levels, str], ChainCost]:
        every = product(self._levels(cut.tensor), RECOMPUTE)
        return {
            (levels, policy): self._chains.cost(
                rows=cut.rows, tensor=cut.tensor, levels=levels, sequence=False, device=self._device, policy=policy
            )
            for levels, policy in every
        }

    def _key(self, cut: Cut, levels: Levels, policy: str) -> ChainKey:
        return ChainKey(
            rows=cut.rows, tensor=cut.tensor, levels=levels, sequence=False, device=self._device.name, policy=policy
        )

    def bring(self, cut: Cut) -> None:
        """Makes the chains know a cut, if it was to be made ahead.

        Raises:
            BadInput: the tensor degree does not divide what it must cut.
        """
        if cut not in self._wanted:
            return
        del self._wanted[cut]
        self._workers.expect((cut, *self._wanted))
        for (levels, policy), cost in self._workers.ask(cut).items():
            self._chains.known[self._key(cut, levels, policy)] = cost

    def close(self) -> None:
        """Ends the processes; what is asked from now on is cut by the chains themselves."""
        self._workers.close()
        self._wanted.clear()
