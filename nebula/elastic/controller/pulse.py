"""What agents tell of progress: which steps are done, who is slow, when a generation steps, when training is done.

Each report is put down at once; all of them together are looked at a few times a second at most, so that what this
takes does not grow with the square of the nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nebula.elastic.controller.crowd import Line
from nebula.elastic.controller.ledger import LOST
from nebula.elastic.policy import events
from nebula.elastic.policy.slow import Pace, Scores
from nebula.elastic.policy.values import Phase
from nebula.elastic.protocol import control_pb2 as wire

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain

LOOK_S = 0.05
"""Reports that come within so long after a look are looked at together."""
SCORE_S = 1.0
"""How often nodes are compared with each other."""


class Pulse:
    """Runs on the controller's event loop."""

    def __init__(self, brain: Brain) -> None:
        self._brain = brain
        self._working: frozenset[str] = frozenset()
        self._nodes_of: Mapping[int, str] = {}
        self._done: set[str] = set()
        self._scores, self._paces = Scores(), dict[int, Pace]()
        self._looked_s = self._scored_s = 0.0
        self._look_is_due = False

    def begin(self, placed: Sequence[wire.Rank], *, own_work: bool) -> None:
        """A generation begins.

        Args:
            placed: its ranks.
            own_work: whether ranks wait for no other in their forward passes, so that they can be compared.
        """
        self._done, self._working = set(), frozenset(rank.node for rank in placed)
        self._nodes_of = {rank.rank: rank.node for rank in placed} if own_work else {}
        self._paces = {}

    def told(self, line: Line, progress: wire.Progress) -> None:
        """Takes an agent's report."""
        brain, line.progress = self._brain, progress
        if progress.generation != brain.state.generation:
            return
        if more_s := brain.steps.saved(progress.saving_s):
            brain.watch.saved(more_s)
        for tier, nbytes in brain.steps.wrote(line.hello.node, progress.written_bytes).items():
            brain.watch.wrote(tier, nbytes)
        if brain.state.apart:
            self._nodes_of = {**self._nodes_of, **{one.rank: line.hello.node for one in progress.paces}}
        if self._nodes_of:
            self._paces |= {one.rank: Pace(steps=one.steps, work_s=one.work_s) for one in progress.paces}
        wait_s = self._looked_s + LOOK_S - time.monotonic()
        if wait_s <= 0:
            self._look()
        elif not self._look_is_due:
            self._look_is_due = True
            asyncio.get_running_loop().call_later(wait_s, self._look)

    def finished(self, node: str, generation: int) -> None:
        """All workers of a node have ended well."""
        brain = self._brain
        if generation != brain.state.generation:
            return
        self._done = {*self._done, node} & set(brain.state.members)
        done = self._group_is_done() if brain.state.apart else self._done == set(self._workers())
        if done:
            brain.tell(events.Finished(generation=generation), "finished")

    def _look(self) -> None:
        """Looks at what all nodes have reported."""
        brain, now_s = self._brain, self._brain.now_s()
        self._looked_s, self._look_is_due = time.monotonic(), False
        generation = brain.state.generation
        done, section = self._reached(generation)
        if self._looked_s >= self._scored_s + SCORE_S:
            self._scored_s = self._looked_s
            self._score(generation)
        if done:
            brain.watch.stepped(brain.steps.did(now_s, done), brain.crowd.step_s(brain.state.members))
            brain.tell(events.Stepped(generation=generation, step=done), "stepped")
        beginning = brain.steps.beginning
        if brain.state.phase is not Phase.RUNNING:
            return
        if beginning is None:
            brain.group.look(done)
            return
        stepping = beginning.progressed(now_s, section, done)
        if brain.recovery:
            for stage in beginning.marks:
                brain.recovery.mark(stage, time.time())
        if stepping:
            self._first_new_step(done)

    def _reached(self, generation: int) -> tuple[int, int]:
        """The steps that are done, and the earliest section that a rank is in.

        A step of replicas is done once one has done it; one that comes has done none, nor does anybody wait for it.
        """
        brain, workers = self._brain, self._workers()
        least, most = brain.crowd.steps(workers, generation)
        if not brain.state.apart:
            return least, brain.crowd.section(workers, generation)
        return most, brain.crowd.furthest(workers, generation) if brain.group.trains else 0

    def _score(self, generation: int) -> None:
        """Looks whether a node's own work takes longer than that of the others.

        Replicas are compared anew with every change of who they are, and not where there are more than shards.
        """
        brain, slowness = self._brain, self._brain.settings.limits.slowness
        if brain.state.apart:
            generation = brain.group.roll.epoch
            self._nodes_of = {rank: node for rank, node in self._nodes_of.items() if node in brain.state.members}
            if len(brain.group.roll.members) > brain.settings.shards:
                self._nodes_of = {}
        self._scores, self._paces = self._scores.told(generation, self._paces, slowness), {}
        found = self._scores.slow(self._nodes_of, slowness) if self._nodes_of else None
        if found and brain.state.phase is Phase.RUNNING and brain.steps.beginning is None:
            node, factor = found
            self._scores = self._scores.accuse(node)
            brain.tell(events.Slow(node=node, factor=factor), "slow")

    def _first_new_step(self, step: int) -> None:
        """A generation has begun, or a recovery is over."""
        brain, beginning, recovery = self._brain, self._brain.steps.beginning, self._brain.recovery
        assert beginning is not None
        brain.deeds.departures.settled()
        seconds = {**beginning.seconds(brain.now_s()), LOST: beginning.lost}
        brain.steps.beginning = None
        if recovery is None:
            brain.note("begun", f"training begins: step {step} is done", seconds=seconds)
            return
        recovery.mark("stepped", time.time())
        took, lost = recovery.seconds(), beginning.lost
        because = (
            f"training goes on after {took['all']:.2f} s; {lost} step{'s were' if lost != 1 else ' was'} done again"
        )
        brain.note("stepping", because, seconds={**seconds, **took})
        brain.recovery = None

    def _workers(self) -> Sequence[str]:
        """The members that have ranks; all of them for a controller that was away and did not place the ranks."""
        members = self._brain.state.members
        return [node for node in members if node in self._working] or members

    def _group_is_done(self) -> bool:
        """Replicas are done once one is, and those that have done as many steps; newcomers have nothing to do."""
        lines = self._brain.crowd.lines
        told = {node: lines[node].progress for node in self._brain.state.members if node in lines}
        last = max((progress.most_step for progress in told.values()), default=0)
        return bool(self._done) and all(node in self._done or one.most_step < last for node, one in told.items())
