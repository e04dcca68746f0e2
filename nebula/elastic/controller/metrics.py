"""What Prometheus reads of a job. Counters come from the journal, so that a controller that is back goes on with them.

Names are one word before, base units, `_total` for what only rises; no label is a step, a process or an address.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from nebula import __version__
from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.journal import Happened
from nebula.elastic.controller.ledger import LOST
from nebula.elastic.goodput import Category

FAILURES = {"failed": "exit", "hang": "hang", "lost": "node"}
"""Kinds of events that tell of a failure, and its label."""
STAGES = {
    "told": "detect",
    "stopped": "stop",
    "planned": "rendezvous",
    "loading": "start",
    "loaded": "load",
    "first": "first_step",
    "redone": "recompute",
    "stepped": "new_step",
    "all": "all",
}
"""Stages of a recovery as events name them, and as people read them."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STATES = ("member", "standby", "away", "draining", "aside")


class Meter:
    """The metrics of one controller; used on its event loop alone."""

    def __init__(self, brain: Brain) -> None:
        """Counts what has happened so far."""
        self.brain, self.registry = brain, CollectorRegistry()
        Info("nebula_build", "The version of Nebula.", registry=self.registry).info({"version": __version__})
        self._workers = self._gauge("nebula_workers", "Workers that nodes can run, by what the node does.", "state")
        self._world = self._gauge("nebula_world_size", "Ranks of the generation that runs.")
        self._generation = self._gauge("nebula_generation", "Number of the job's membership.")
        self._last_step = self._gauge("nebula_last_step_timestamp_seconds", "When all ranks had done a step.")
        self._goodput = self._gauge("nebula_goodput_ratio", "Share of the job's time that was progress.")
        self._steps = self._counter("nebula_steps", "Steps that all ranks have done, repeated ones included.")
        self._failures = self._counter("nebula_failures", "Failures that were told.", "kind")
        self._lost = self._counter("nebula_lost_steps", "Steps that had to be done again.")
        self._badput = self._counter("nebula_badput_seconds", "Seconds of the job that were no progress.", "category")
        self._bytes = self._counter("nebula_checkpoint_bytes", "Bytes of copies of the training.", "tier")
        self._step = self._histogram("nebula_step_duration_seconds", "Seconds of a step.")
        self._detection = self._histogram(
            "nebula_failure_detection_seconds", "From the last step to the event of a failure.", "kind"
        )
        self._recovery = self._histogram("nebula_recovery_duration_seconds", "Stages of recoveries.", "stage")
        self._stall = self._histogram("nebula_checkpoint_stall_seconds", "By which saves held steps up.")
        self._steps.inc(brain.state.step)
        self._spent = dict.fromkeys(Category, 0)
        for event in brain.journal.after(0):
            self.happened(event)

    def happened(self, event: Happened) -> None:
        """Counts an event."""
        kind = FAILURES.get(event.kind)
        if kind:
            self._failures.labels(kind).inc()
            if Category.DETECTING.value in event.seconds:
                self._detection.labels(kind).observe(event.seconds[Category.DETECTING.value])
        if event.kind == "stepping":
            for stage in STAGES.keys() & event.seconds.keys():
                self._recovery.labels(STAGES[stage]).observe(event.seconds[stage])
        self._lost.inc(event.seconds.get(LOST, 0))

    def stepped(self, steps: int, step_s: float) -> None:
        """Counts steps that were done, of about so many seconds each."""
        self._steps.inc(steps)
        for _ in range(steps if step_s else 0):
            self._step.observe(step_s)

    def saved(self, stall_s: float) -> None:
        """Counts the time by which saves held steps up."""
        self._stall.observe(stall_s)

    def wrote(self, tier: str, nbytes: int) -> None:
        """Counts bytes of copies."""
        self._bytes.labels(tier).inc(nbytes)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        brain, state = self.brain, self.brain.state
        world = len(brain.group.roll.members) if state.apart else len(brain.deeds.plan.ranks)
        self._world.set(world if state.members and not state.phase.over else 0)
        self._generation.set(state.generation)
        self._last_step.set(brain.steps.last_s if brain.steps.last_s < float("inf") else 0)
        self._goodput.set(brain.account().goodput)
        slots = dict.fromkeys(STATES, 0)
        for name, node in state.nodes.items():
            slots[node.word(member=name in state.members)] += node.slots
        for word, count in slots.items():
            self._workers.labels(word).set(count)
        self._count_badput()
        return generate_latest(self.registry)

    def _count_badput(self) -> None:
        """Adds what has become certain: what the seconds since the last event go into may still be told otherwise."""
        settled = self.brain.ledger.settled()
        for category in Category:
            if category is not Category.PRODUCTIVE:
                self._badput.labels(category.value).inc((settled[category] - self._spent[category]) / 1e9)
        self._spent = dict(settled)

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        return Gauge(name, told, labels, registry=self.registry)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(name, told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, *labels: str) -> Histogram:
        return Histogram(name, told, labels, registry=self.registry, buckets=SECONDS)
