"""What a controller makes of its group of replicas: which share of it trains, and when one that was lost is back.

A worker is lost and comes back while the others go on. The recovery begins with the loss of one that nobody has asked
to leave, and ends once all that are wanted have the state and a step is done since. Where nobody with the state is
left, the group begins anew from the disk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nebula.elastic.controller.ledger import LOST
from nebula.elastic.controller.recovery import Recovery
from nebula.elastic.goodput import Category
from nebula.elastic.policy.roll import Roll
from nebula.elastic.policy.values import Fault, Phase
from nebula.elastic.protocol import control_pb2 as wire

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain


class Group:
    """Runs on the controller's event loop; a job whose workers are no replicas has an empty one.

    Attributes:
        roll: the members, as last told.
    """

    def __init__(self, brain: Brain) -> None:
        self._brain, self.roll = brain, Roll()
        self._done = Counter[str]()
        self._newer: dict[str, int] = {}
        self._whole_at = -1

    @property
    def share(self) -> float:
        """Of the nodes that are wanted those that train; of replicas each node by its workers that have the state.

        Until the members have called a controller that is back, its nodes count.
        """
        state = self._brain.state
        if self.roll.waiting:
            return min(1.0, len(state.members) / state.bounds.most)
        train = Counter(member.node for member in self.roll.members.values() if not member.fresh) + self._done
        return min(1.0, sum(count / self._slots(node) for node, count in train.items()) / state.bounds.most)

    @property
    def trains(self) -> bool:
        """Whether somebody has the state."""
        return any(not member.fresh for member in self.roll.members.values())

    def told(self, roll: Roll, because: str) -> None:
        """Takes a change of the members, and the sentence of the event; empty: it is none."""
        before, self.roll = self.roll, roll
        gone = [member for number, member in before.members.items() if number not in roll.members]
        self._done.update(member.node for member in gone if member.done)
        lost = [member for member in gone if not (member.done or member.fresh)]
        running = self._brain.state.phase is Phase.RUNNING and not roll.waiting
        if running and any(member.node in self._brain.state.members for member in lost):
            self._recovery(time.time())
        self._mark(before, roll)
        if running and lost and not self.trains and not self._done:
            self._begin_anew(because)
        elif because:
            self._brain.note("members", because)

    def failed(self, node: str, failed: wire.Failed) -> Mapping[str, float]:
        """An agent tells of a worker that failed: it is back only as another member.

        Returns:
            For how long nobody knew: all wait for one that hangs, and go on without one that has ended.
        """
        brain = self._brain
        if node not in brain.state.members:
            return {}
        self._newer[node] = self.roll.next_number
        self._recovery(failed.seen_s)
        hangs = failed.fault == Fault.HANG
        unseen_s = brain.steps.since_s(brain.now_s()) if hangs else max(0.0, time.time() - failed.seen_s)
        return {Category.DETECTING.value: unseen_s}

    def look(self, step: int) -> None:
        """Looks whether a recovery is over.

        Args:
            step: that the group has done.
        """
        recovery = self._brain.recovery
        if recovery is None or not self._is_whole():
            self._whole_at = -1
        elif self._whole_at < 0:
            self._whole_at = step
        elif step > self._whole_at:
            recovery.mark("stepped", time.time())
            took, count = recovery.seconds(), len(self.roll.members)
            these = f"{count} replicas step together" if count > 1 else "one replica steps"
            because = f"{these} after {took['all']:.2f} s; no step was done again"
            self._brain.note("stepping", because, seconds={**took, LOST: 0})
            self._brain.recovery, self._newer = None, {}

    def _recovery(self, seen_s: float) -> None:
        """One begins, or goes on with a further loss."""
        brain = self._brain
        if brain.recovery is None:
            brain.recovery = Recovery(seen_s=seen_s)
        brain.recovery.mark("told", time.time())
        self._whole_at = -1

    def _mark(self, before: Roll, roll: Roll) -> None:
        """The stages of a recovery that the roll tells of: another member has come, all have the state."""
        if self._brain.recovery is None:
            return
        if roll.members.keys() - before.members.keys():
            self._brain.recovery.mark("loading", time.time())
        if self._is_whole():
            self._brain.recovery.mark("loaded", time.time())

    def _begin_anew(self, because: str) -> None:
        """Nobody who has the state is left: what the workers told last is of no use."""
        brain = self._brain
        since_s = brain.steps.since_s(brain.now_s())
        _, most = brain.crowd.steps(brain.state.members, brain.state.generation)
        for line in brain.crowd.lines.values():
            line.progress = wire.Progress()
        brain.steps.begin(max(most, brain.state.step), -1)
        brain.note("members", because, seconds={Category.DETECTING.value: since_s}, afresh=True)

    def _is_whole(self) -> bool:
        """Whether all workers of all nodes that are to train have the state, those that begin anew among them."""
        for node in self._brain.state.members:
            here = [number for number, one in self.roll.members.items() if one.node == node and not one.fresh]
            if len(here) < self._slots(node) or max(here) < self._newer.get(node, 0):
                return False
        return True

    def _slots(self, node: str) -> int:
        """Workers that a node runs; of one that is away as many as another."""
        nodes = self._brain.state.nodes
        known = nodes[node].slots if node in nodes else max((one.slots for one in nodes.values()), default=1)
        return max(1, known)
