"""One phase of a training as plans are tried in it: what its own search found, and what plans of other phases come to.

A plan goes from phase to phase with its stages, shares and devices; the micro-batches follow from the batch. Its rows
of a micro-batch and what it computes again may be another phase's, which moves no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.cost_model.economy import DAY_S, Outlook, outlook
from nebula.cost_model.fleet import Pricing
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Conditions
from nebula.plan.job import Objective
from nebula.plan.legality import kind_of, violations
from nebula.plan.values import Job, Plan, RankPlace, Stage
from nebula.planner.engines import runs
from nebula.planner.options import fits
from nebula.planner.placed_answer import placed_search, split_and_boundaries
from nebula.planner.search import Answer, Told

FEW = 4
"""Of what a search found, so many plans are tried in the other phases as well."""

Way = tuple[tuple[Stage, ...], tuple[RankPlace, ...], str]
"""What goes from phase to phase: stages, places and schedule."""


def way_of(plan: Plan) -> Way:
    """What of a plan other phases can keep."""
    return plan.stages, plan.ranks, plan.schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A plan in a phase.

    Attributes:
        plan: with the phase's job and its prediction.
        outlook: what it comes to there.
    """

    plan: Plan
    outlook: Outlook

    @property
    def seconds(self) -> float:
        """Of the phase, failures counted."""
        return self.outlook.days.with_failures * DAY_S


class Stretch:
    """A phase on a cluster.

    Args:
        name: for people.
        graph: the model at the phase's sequence length.
        cluster: what may be used.
        job: with the phase's batch and tokens.
        objective: fixed degrees and nodes to leave out.
        batches: rows of one step of all phases.
        conditions: under which failures are counted.
        on_progress: called each time a candidate has been priced.

    Attributes:
        answer: of the phase's own search.
        shared: of the search for what divides the batches of all phases; empty where nothing of that fits, where each
            batch divides into this one, and where the phase's own search was interrupted.

    Raises:
        BadInput: the phase is shorter than a step, or the objective cannot be used.
        Infeasible: nothing fits.
    """

    def __init__(
        self,
        name: str,
        graph: DistributedGraph,
        cluster: Cluster,
        job: Job,
        objective: Objective,
        batches: tuple[int, ...],
        conditions: Conditions,
        on_progress: Told,
    ) -> None:
        self.name, self.graph, self.cluster, self.job, self.conditions = name, graph, cluster, job, conditions
        if job.tokens < self.step_tokens:
            raise BadInput(f"{name}: its {job.tokens:g} tokens are less than one step of {self.step_tokens:,} tokens")
        self.chains = Chains(graph)

        def found(shared: tuple[int, ...]) -> Answer:
            return placed_search(
                graph, cluster, job, objective, chains=self.chains, on_progress=on_progress, batches=shared
            )

        try:
            self.answer = found(())
        except Infeasible as error:
            raise Infeasible(f"{name}: {error}") from None
        self.shared: tuple[Plan, ...] = ()
        if not self.answer.ended_by and any(batch % job.global_batch for batch in batches):
            with suppress(Infeasible):
                self.shared = found(batches).candidates
        self._pricing = Pricing(graph, cluster, job, self.chains)
        self._kind = kind_of(cluster)

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return int(self.job.global_batch * self.graph.tokens_per_row)

    @property
    def least_s(self) -> float:
        """What no plan of the space takes less than, failures apart."""
        return self.job.tokens / self.step_tokens * self.answer.bound_s

    def offered(self) -> Iterator[Plan]:
        """The plans of this phase that others try as well, its own best first."""
        yield from self.answer.candidates[:FEW]
        yield from self.shared[:FEW]

    def tried(self, plans: Iterable[Plan]) -> dict[Way, Tried]:
        """What plans of any phase come to in this one, those that serve here, with their rows and with its own ones."""
        own = {_policy(plan): None for plan in self.offered()}
        found: dict[Way, Tried] = {}
        for plan in plans:
            for rows, recompute in {_policy(plan): None, **own}:
                if isinstance(one := self.adapted(with_policy(plan, rows, recompute)), Tried):
                    found.setdefault(way_of(one.plan), one)
        return found

    def adapted(self, plan: Plan) -> Tried | str:
        """A plan of another phase in this one, or why it does not serve here."""
        rows = rows_at_once(plan)
        if self.job.global_batch % rows:
            return f"its {rows:,} rows at once do not divide {self.job.global_batch:,}"
        new = replace(
            plan,
            micro_batches=self.job.global_batch // rows,
            job=self.job,
            made_from=self.answer.plan.made_from,
            because="",
            runner_up=None,
            bound_s=0.0,
        )
        if not runs(split_and_boundaries(new)[0], self.job, self._kind):
            return "no engine runs it"
        broken = violations(new, layers=len(self.graph.layers), cluster=self.cluster)
        if broken:
            return broken[0].sentence
        try:
            new = replace(new, prediction=self._pricing.predict(new))
        except BadInput as error:
            return str(error)
        if not fits(new):
            return "it does not fit into memory"
        return Tried(plan=new, outlook=outlook(self.graph, self.cluster, new, self.conditions))


def rows_at_once(plan: Plan) -> int:
    """Rows of a micro-batch of all replicas."""
    return sum(replica.micro_batch_rows for replica in plan.stages[0].replicas)


def _policy(plan: Plan) -> tuple[int, str]:
    """Rows of a micro-batch of one replica, and what is computed again."""
    return plan.stages[0].replicas[0].micro_batch_rows, plan.stages[0].recompute


def with_policy(plan: Plan, rows: int, recompute: str) -> Plan:
    """The plan with so many rows of a micro-batch of each replica, and another recompute policy."""

    def stage_with(stage: Stage) -> Stage:
        replicas = tuple(replace(replica, micro_batch_rows=rows) for replica in stage.replicas)
        return replace(stage, replicas=replicas, recompute=recompute, recompute_layers=0)

    return plan if _policy(plan) == (rows, recompute) else replace(plan, stages=tuple(map(stage_with, plan.stages)))
