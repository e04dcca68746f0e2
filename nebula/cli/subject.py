"""From what a user names to what verbs work on: a run file to model, cluster and job, a plan to its findings.

Paddle is imported only for a model that has to be traced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from nebula.cli.search_bar import SearchBar
from nebula.errors import Infeasible
from nebula.report.findings import Contender, Findings, Search

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster
    from nebula.cost_model.chain import Chains
    from nebula.cost_model.simulate import Timeline
    from nebula.graph.values import DistributedGraph
    from nebula.plan.conditions import Conditions
    from nebula.plan.job import ModelSpec, Objective
    from nebula.plan.run_file import Run
    from nebula.plan.values import Plan
    from nebula.planner.aims import Aimed, Tried
    from nebula.planner.by_engine import Asked
    from nebula.planner.scale import Question
    from nebula.planner.search import Answer
    from nebula.planner.setting import Setting
    from nebula.runtime.training import Training


PATIENCE_S = 60.0
"""After so many seconds a search of the executor's space answers with the best so far and its gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is to be planned.

    Attributes:
        run: the run file's values.
        graph: of the model.
        chains: of the graph, made when they are first asked for, so that its blocks are cut once for all.
    """

    run: Run
    graph: DistributedGraph
    chains: Callable[[], Chains]

    @property
    def question(self) -> Question:
        """What a plan is asked for."""
        from nebula.planner.scale import Question

        run = self.run
        return Question(
            graph=self.graph, cluster=run.cluster, job=run.job, objective=run.objective, conditions=run.conditions
        )


def load_subject(path: Path, overrides: Sequence[str] | None) -> Subject:
    """Reads a run file and describes (or traces) its model.

    Raises:
        BadInput: a mistake in the file, in an override or in the model; or the job has phases.
    """
    from nebula.plan.phases_section import refuse_phases
    from nebula.plan.run_file import load_run

    run = load_run(path, list(overrides or ()))
    refuse_phases(run.phases, run.source)
    return run_subject(run)


def run_subject(run: Run) -> Subject:
    """What a run file asks to be planned, its model described or traced."""
    graph = model_graph(run.model, run.job.precision)
    return Subject(run=run, graph=graph, chains=cache(partial(_chains, graph)))


def _chains(graph: DistributedGraph) -> Chains:
    from nebula.cost_model.chain import Chains

    return Chains(graph)


def model_graph(model: ModelSpec, precision: str) -> DistributedGraph:
    """The graph of a model under a precision: traced where it is the user's own layer, described otherwise."""
    if model.preset:
        return described_graph(model.preset, model.seq_len or 0, precision)
    if model.layer:
        from nebula.cli.traced import traced_graph

        return traced_graph(model, precision)
    from nebula.models.hugging_face import hugging_face_graph
    from nebula.plan.values import PRECISION_DTYPE

    return hugging_face_graph(Path(model.hf), seq_len=model.seq_len, dtype=PRECISION_DTYPE[precision])


def described_graph(preset: str, seq_len: int, precision: str) -> DistributedGraph:
    """The graph of a built-in model; a seq_len of 0 means the preset's own."""
    from nebula.models.describe import graph
    from nebula.plan.values import PRECISION_DTYPE

    return graph(preset, seq_len=seq_len or None, dtype=PRECISION_DTYPE[precision])


def trained_graph(training: Training, precision: str) -> DistributedGraph:
    """The graph of the model that a training names, or of the shape that it gives it."""
    if training.shape is None:
        return described_graph(training.preset, training.seq_len, precision)
    from nebula.models.describe import shape_graph
    from nebula.plan.values import PRECISION_DTYPE

    return shape_graph(f"{training.preset} narrow", training.shape, PRECISION_DTYPE[precision])


def find_plan(subject: Subject) -> Answer:
    """Searches for the plan of a run; a terminal sees how far it is.

    Raises:
        Infeasible: there is none; the text says by how much and what would help.
    """
    return find_plans(subject)[0]


def find_plans(subject: Subject) -> tuple[Answer, tuple[Tried, ...]]:
    """The same, and the plans on other numbers of nodes that were weighed, where the objective asks for that.

    Raises:
        Infeasible: there is none.
    """
    from nebula.planner.aims import wants_more
    from nebula.planner.by_aim import best_by_aim
    from nebula.planner.by_engine import planned
    from nebula.planner.placed_answer import placed_search

    run, line = subject.run, SearchBar()

    search = partial(placed_search, subject.graph, run.cluster, run.job, chains=subject.chains(), on_progress=line)
    try:
        if not wants_more(run.objective):
            until_s = time.monotonic() + PATIENCE_S
            late = replace(asked_of(subject), on_progress=line, enough=lambda _: time.monotonic() > until_s)
            return planned(late), ()
        return with_front(best_by_aim(subject.question, search))
    except Infeasible as error:
        more = "; only plans of fleet are compared by that: leave out minimise and limits, or add --explore"
        raise Infeasible(f"{error}{more * wants_more(run.objective)}") from None
    finally:
        line.clear()


def asked_of(subject: Subject) -> Asked:
    """What a plan of the shortest step is asked for."""
    from nebula.planner.by_engine import Asked

    run = subject.run
    return Asked(
        graph=subject.graph,
        cluster=run.cluster,
        job=run.job,
        objective=run.objective,
        token_wise=token_wise(run.model),
        chains=subject.chains(),
    )


def token_wise(model: ModelSpec) -> bool:
    """Whether all elements of a model promise to work on each token by itself, as sharing a sequence asks.

    Those of a recurrence memory do not, and of a user's own layer it is not known before it is made.
    """
    if model.layer:
        return False
    if not model.preset:
        return True
    from nebula.models.describe import remembers

    return not remembers(model.preset)


def setting(subject: Subject) -> Setting:
    """What a search for the plan of a run works on.

    Raises:
        BadInput: the cluster offers no device, or a fixed degree has an unknown name.
    """
    from nebula.planner.setting import setting_of

    run = subject.run

    def find(wanted: Objective) -> Answer:
        return find_plan(replace(subject, run=replace(run, objective=wanted)))

    return setting_of(subject.graph, run.cluster, run.job, run.objective, find, subject.chains())


def with_front(found: Aimed) -> tuple[Answer, tuple[Tried, ...]]:
    """The answer to an aim, which tells of the front, and all plans that were tried."""
    return replace(found.answer, notes=(*found.answer.notes, *map(front_words, found.front))), found.tried


def front_words(one: Tried) -> str:
    """A point of the front of time against money, in words."""
    from nebula.planner.aims import counted
    from nebula.units import format_seconds

    money, energy = one.outlook.money, one.outlook.energy
    each = f"{energy.per_million_tokens_j / 3.6e6:.3g} kWh" if money.unknown else f"{money.per_million_tokens:.3g}"
    return f"On the front: {counted(one.nodes)}, {format_seconds(one.step_s)} a step, {each} for a million tokens."


def chosen_plan(subject: Subject, plan_file: Path | None) -> tuple[Plan, Search]:
    """The plan in a file, or else the one that a search finds, with the record of the search."""
    if plan_file:
        return given_plan(subject, plan_file), Search()
    answer = find_plan(subject)
    return answer.plan, search_record(answer)


def given_plan(subject: Subject, path: Path) -> Plan:
    """A plan file with its prediction on this run's model and cluster.

    Raises:
        BadInput: the file is damaged, was made for another model or cluster, or breaks a law that every plan keeps.
    """
    from nebula.cost_model.evaluate import evaluate

    plan = kept_plan(subject, path)
    return replace(plan, prediction=evaluate(subject.graph, subject.run.cluster, plan))


def kept_plan(subject: Subject, path: Path) -> Plan:
    """A plan file as it is, with the prediction that it was written with.

    Raises:
        BadInput: as given_plan does.
    """
    from nebula.errors import BadInput
    from nebula.plan.files import load_plan
    from nebula.plan.legality import lawless

    plan = load_plan(path)
    check_origin(plan, subject.graph, subject.run.cluster)
    broken = lawless(plan, layers=len(subject.graph.layers))
    if broken:
        raise BadInput(f"{path} is not legal: " + "; ".join(violation.sentence for violation in broken))
    return plan


def check_origin(plan: Plan, graph: DistributedGraph, cluster: Cluster) -> None:
    """Refuses a plan that was made for another model or cluster.

    Raises:
        BadInput: with both names and hashes.
    """
    from nebula.cluster.identity import cluster_hash
    from nebula.graph.identity import graph_hash
    from nebula.plan.files import check_made_for

    check_made_for(plan, graph_hash(graph), cluster_hash(cluster), model=graph.name, cluster=cluster.name)


def findings(
    plan: Plan,
    graph: DistributedGraph,
    cluster: Cluster,
    search: Search | None = None,
    conditions: Conditions | None = None,
    steps: Timeline | None = None,
) -> Findings:
    """What a table of a plan shows, its predicted timeline (`steps`, where it is known) and its outlook included."""
    from nebula.cost_model.economy import outlook
    from nebula.cost_model.evaluate import predicted_timeline
    from nebula.plan.legality import executable_on
    from nebula.report.spans import predicted_spans

    return Findings(
        plan=plan,
        graph=graph,
        cluster=cluster,
        spans=predicted_spans((steps or predicted_timeline(graph, cluster, plan)).events),
        search=search or Search(),
        outlook=outlook(graph, cluster, plan, conditions) if plan.prediction else None,
        missing=executable_on(plan, cluster).missing,
        versions=tuple((name, version(name)) for name in ("paddle-nebula", "paddlepaddle")),
    )


def subject_findings(
    plan: Plan, subject: Subject, search: Search | None = None, steps: Timeline | None = None
) -> Findings:
    """The findings of a plan for what a run file asks."""
    run = subject.run
    return findings(plan, subject.graph, run.cluster, search, run.conditions, steps)


def search_record(answer: Answer) -> Search:
    """What the search went through, as the table and the report keep it."""
    return Search(
        seconds=answer.seconds,
        candidates=answer.priced + sum(answer.cut.values()),
        contenders=tuple(_contender(plan, answer.plan) for plan in answer.candidates),
        cut=tuple(sorted(answer.cut.items(), key=lambda pair: -pair[1])),
        notes=(*ended_words(answer), *answer.notes),
    )


def ended_words(answer: Answer) -> tuple[str, ...]:
    """A sentence about a search that ended before its proof was complete; none about others."""
    from nebula.planner.search import INTERRUPTION
    from nebula.units import format_seconds

    if not answer.ended_by:
        return ()
    why = "Interrupted" if answer.ended_by == INTERRUPTION else "Out of patience"
    best = f"{why}: this is the best so far"
    if not answer.plan.bound_s:
        return (f"{best}.",)
    bound = f"no plan of the space takes less than {format_seconds(answer.bound_s)} a step, {answer.gap:.1%} below"
    return (f"{best}; {bound}.",)


def _contender(plan: Plan, best: Plan) -> Contender:
    from nebula.planner.explain import runner_up
    from nebula.report.bars import part_pairs
    from nebula.report.words import fullest

    assert plan.prediction is not None
    return Contender(
        split=plan.split,
        step_time_s=plan.prediction.step_time_s,
        memory_share=fullest(plan),
        parts_s=part_pairs(plan.prediction.parts),
        lost_by="" if plan.prediction == best.prediction else runner_up(best, plan).lost_by,
    )
