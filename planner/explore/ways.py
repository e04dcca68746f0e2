"""Which ways there are to train a model beyond what fleet runs: what one rank computes, and how ranks work together.

A way has two halves. The inner one decides what one rank computes of a layer and costs a cut of the graph; the outer
one decides how many such ranks there are and in which order they work, and costs arithmetic. What is left out by rule
is said in RULES.
"""

from __future__ import annotations

from typing import NamedTuple

from nebula.cost_model.offload import holds_activations
from nebula.plan.job import EXCHANGES, OFFLOAD
from nebula.plan.values import Job, Sharding

LEAST_TOKENS, MOST_ROWS, MOST_CHUNKS = 512, 8, 8

RULES = {
    "sequence": "tensor groups cut norms and residuals along the sequence, which saves memory and gathers once more; "
    "where it cannot be cut they keep it whole",
    "context": f"a rank of a context group keeps at least {LEAST_TOKENS} tokens of the sequence",
    "rows": f"micro-batches have up to {MOST_ROWS} rows",
    "deal": "layers are dealt to stages so that the slowest stage is as fast as it can be; of such deals the last "
    "stage holds most, and those before it are dealt likewise",
    "wan": "only pipeline and data cross a WAN: tensor, context, expert and sharding groups lie within one site",
    "order": "ranks lie tensor, context, data, pipeline from the inside out, stages on devices of one type",
}
"""What the explored space leaves out, by rule: the bound of an answer is valid for the rest."""

ALLOWED_RULES = {
    "offload": "all stages offload the same",
    "recompute_layers": "of the layers of a stage the first ones are computed again, as few as fit, as many on each "
    "virtual stage of a device; they are dealt as if all were; with activations on the host all of them or none",
}
"""The same of what is explored on request, by a name of ALLOWABLE."""

PLAIN = (("1f1b", 1), ("zb-h1", 1))
"""Schedules of one virtual stage on a device."""

FOLDED = (("zb-v", 2), ("dualpipe-v", 2))
"""Schedules of two, the second of which runs back."""


ALL, FEWEST = "all", "fewest"
"""Which layers of a stage are under the recompute policy: all of them, or the first ones, as few as fit into memory."""


class Inner(NamedTuple):
    """What one rank computes of a layer, and of which layers of a stage it computes some again (ALL or FEWEST).

    `sequence` says whether tensor groups cut the sequence, `exchange` how ranks that share it get what attention needs.
    """

    tensor: int
    context: int
    expert: int
    rows: int
    recompute: str
    offload: str = OFFLOAD[0]
    layers: str = ALL
    sequence: bool = True
    exchange: str = EXCHANGES[0]

    @property
    def passes(self) -> Inner:
        """The same as far as passes depend on it: where the states of the optimizer lie does not matter to them."""
        if self.offload == OFFLOAD[0]:
            return self
        return self._replace(offload="activations" if holds_activations(self.offload) else OFFLOAD[0])

    @property
    def width(self) -> int:
        """Ranks of one replica of one stage."""
        return self.tensor * self.context

    @property
    def degrees(self) -> tuple[int, int, int, int, int, int, int]:
        """As StepPricing takes them: rows, tensor, sequence, context, expert, expert_tensor, exchange."""
        cut, way = int(self.cuts_sequence), EXCHANGES.index(self.exchange)
        return (self.rows, self.tensor, cut, self.context, self.expert, 1, way)

    @property
    def cuts_sequence(self) -> bool:
        """Whether there are tensor groups, and they cut the sequence."""
        return self.tensor > 1 and self.sequence


class Outer(NamedTuple):
    """How ranks work together.

    Attributes:
        stages: for each pool of equal devices how many stages lie on it, in the order of the pools.
        chunks: virtual stages on each device.
    """

    data: int
    stages: tuple[int, ...]
    schedule: str
    chunks: int
    sharding: Sharding

    @property
    def pipeline(self) -> int:
        """Stages, virtual ones of a device counted once."""
        return sum(self.stages)


class Way(NamedTuple):
    """A way to train."""

    inner: Inner
    outer: Outer

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.inner.width * self.outer.data * self.outer.pipeline

    def micro_batches(self, job: Job) -> int:
        """Micro-batches of one replica in one step."""
        return job.global_batch // (self.outer.data * self.inner.rows)

    @property
    def words(self) -> str:
        """For people, degrees of 1 left out: `data 2 · tensor 4 · pipeline 3 · 1f1b · 2 rows · recompute full`."""
        inner, outer = self
        degrees = {
            "data": outer.data,
            "tensor": inner.tensor,
            "context": inner.context,
            "expert": inner.expert,
            "pipeline": outer.pipeline,
        }
        parts = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1] or ["1 device"]
        if inner.tensor > 1 and not inner.sequence:
            parts.append("whole sequences")
        if outer.pipeline > 1:
            parts.append(outer.schedule)
        if outer.sharding.stage:
            parts.append(f"sharding stage {outer.sharding.stage} over {outer.sharding.degree}")
        parts.append(f"{inner.rows} row{'s' if inner.rows > 1 else ''}")
        if inner.recompute != "none":
            parts.append(f"recompute {inner.recompute}" + " where it must" * (inner.layers == FEWEST))
        if inner.offload != OFFLOAD[0]:
            parts.append(f"offload {inner.offload}")
        return " · ".join(parts)
