"""Explorations that end early, go on from a file, or are for another aim than the shortest step."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nebula.cli.exploring import Watch, explored_plans
from nebula.cli.main import app
from nebula.cli.resuming import Found, found_before, goes_on, keep
from nebula.cli.search_bar import SearchBar
from nebula.cli.subject import ended_words, load_subject
from nebula.cost_model.economy import outlook
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import Objective
from nebula.plan.plain import decode, encode
from nebula.planner.aims import SCORES, Tried, aimed, most_attempts
from nebula.planner.explore.search import NOTHING_LISTED, explore
from nebula.planner.explore.waiting import Frontier
from nebula.planner.explored_way import explored_way
from nebula.planner.giving_up import given_up, order_words
from nebula.planner.scale import Question
from nebula.planner.search import INTERRUPTION, PATIENCE, search
from tests.pure.cost_samples import chain
from tests.pure.test_explore import DENSE, EXPERTS, JOB, cluster, device, mixed_cluster

ASKED = ["job.global_batch=8", "cluster.devices.small-npu.memory=16GiB"]
SMALL = Path(__file__).parents[2] / "examples" / "ernie-small.yaml"
PRICED = cluster(4, 2, nic=2e8, kind=device(price_per_hour=2.0, power_w=300.0))


def interrupting(after):
    """A listener that interrupts once so many ways are priced."""

    def stop(progress):
        if progress.priced == after:
            raise KeyboardInterrupt

    return stop


def plain(answer):
    """All of an answer but the time that it took."""
    return encode(replace(answer, seconds=0.0))


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize(
    ("graph", "where"),
    [
        (DENSE, cluster(2, 2)),
        (EXPERTS, cluster(2, 4)),
        (DENSE, mixed_cluster(peak_flops={"float32": 5e11})),
        (EXPERTS, mixed_cluster(memory_bytes=1.5e9)),
    ],
)
def test_any_number_of_processes_comes_to_the_same_answer(graph, where, processes):
    before, alone, told = children(), explore(graph, where, JOB, processes=1), []
    together = explore(graph, where, JOB, on_progress=told.append, processes=processes)
    assert plain(together) == plain(alone)
    assert len(told) == together.priced
    assert children() == before


def test_an_interruption_ends_all_processes_and_gives_the_best_so_far():
    before = children()
    found = explore(EXPERTS, cluster(2, 4), JOB, on_progress=interrupting(2), processes=2)
    assert found.ended_by == INTERRUPTION
    assert plain(found) == plain(explore(EXPERTS, cluster(2, 4), JOB, on_progress=interrupting(2), processes=1))
    assert children() == before


def test_what_cannot_be_planned_leaves_no_process():
    before = children()
    with pytest.raises(Infeasible, match="does not fit"):
        explore(DENSE, cluster(2, 2, kind=device(memory_bytes=1e5)), JOB, processes=2)
    assert children() == before


def children():
    """Processes that this one has started and that are there still."""
    listed = Path("/proc/self/task").glob("*/children")
    return [pid for each in listed for pid in each.read_text().split()]


@pytest.mark.parametrize(
    ("graph", "where", "fixed"),
    [
        (DENSE, cluster(2, 2), {}),
        (DENSE, cluster(2, 2), {"schedule": "interleaved", "pipeline": 2}),
        (EXPERTS, cluster(1, 4), {}),
        (DENSE, mixed_cluster(peak_flops={"float32": 5e11}), {}),
    ],
)
def test_what_is_known_is_where_a_search_goes_on(graph, where, fixed):
    found = explore(graph, where, JOB, Objective(fixed=fixed))
    ways = [explored_way(plan, where) for plan in found.candidates]
    first = []
    again = explore(graph, where, JOB, Objective(fixed=fixed), known=ways, on_progress=first.append)
    assert first[0].best_s == pytest.approx(found.plan.prediction.step_time_s, rel=1e-12)
    assert [again.plan.stages, again.plan.ranks] == [found.plan.stages, found.plan.ranks]
    assert again.bound_s == found.bound_s


@pytest.mark.parametrize(
    ("graph", "where", "sets"),
    [(DENSE, cluster(2, 2), 2), (EXPERTS, cluster(1, 4), 5), (DENSE, mixed_cluster(peak_flops={"float32": 5e11}), 5)],
)
def test_a_search_in_short_pieces_comes_to_what_one_in_one_piece_does(graph, where, sets):
    whole = explore(graph, where, JOB)
    pieces = [explore(graph, where, JOB, enough=looked_at(sets))]
    while pieces[-1].ended_by:
        assert len(pieces) < 1000
        # a file keeps plain data
        kept = decode(Frontier, json.loads(json.dumps(encode(pieces[-1].frontier))))
        ways = [explored_way(plan, where) for plan in pieces[-1].candidates]
        pieces.append(explore(graph, where, JOB, known=ways, frontier=kept, enough=looked_at(sets)))
    assert len(pieces) > 2
    assert pieces[-1].plan.prediction.step_time_s == whole.plan.prediction.step_time_s
    assert pieces[-1].bound_s == whole.bound_s
    assert sorted(piece.bound_s for piece in pieces) == pytest.approx([piece.bound_s for piece in pieces])


def looked_at(sets):
    """Ends a search once so many sets have been looked at."""
    number = iter(range(sets))
    return lambda gap: next(number, None) is None


@pytest.mark.parametrize("priced", [1, 4, 7])
def test_nothing_is_lost_when_an_interruption_falls_anywhere(priced):
    whole = explore(EXPERTS, cluster(1, 4), JOB)
    first = explore(EXPERTS, cluster(1, 4), JOB, on_progress=interrupting(priced))
    assert first.ended_by == INTERRUPTION
    ways = [explored_way(plan, cluster(1, 4)) for plan in first.candidates]
    then = explore(EXPERTS, cluster(1, 4), JOB, known=ways, frontier=first.frontier)
    assert (then.ended_by, then.bound_s) == ("", whole.bound_s)
    assert then.plan.prediction.step_time_s == whole.plan.prediction.step_time_s


def test_a_search_says_what_ended_it():
    assert explore(DENSE, cluster(2, 2), JOB).ended_by == ""
    assert search(chain(6), cluster(2, 2), JOB).ended_by == ""
    late = explore(EXPERTS, cluster(1, 4), JOB, enough=lambda gap: True)
    stopped = explore(EXPERTS, cluster(1, 4), JOB, on_progress=interrupting(3))
    assert (late.ended_by, stopped.ended_by) == (PATIENCE, INTERRUPTION)
    fleet = search(chain(6), cluster(2, 2), JOB, on_progress=interrupting(2))
    assert fleet.ended_by == INTERRUPTION
    assert fleet.bound_s <= search(chain(6), cluster(2, 2), JOB).plan.prediction.step_time_s
    assert ended_words(stopped)[0].startswith("Interrupted: this is the best so far; no plan of the space takes less ")
    assert ended_words(late)[0].startswith("Out of patience: ")


def test_what_was_found_is_not_lost_while_it_is_placed():
    def interrupted(answer, prices, scale):
        raise KeyboardInterrupt

    whole, stopped = (search(chain(6), cluster(2, 2), JOB, settle=settle) for settle in (None, interrupted))
    assert (stopped.plan, stopped.ended_by) == (whole.plan, INTERRUPTION)


def test_an_interruption_ends_all_searches_of_an_aim():
    asked = []

    def searching(objective):
        asked.append(objective)
        if len(asked) == 2:
            return search(chain(6), PRICED, JOB, objective, on_progress=interrupting(1))
        return search(chain(6), PRICED, JOB, objective)

    found = aimed(Question(graph=chain(6), cluster=PRICED, job=JOB, objective=Objective(minimise="cost")), searching)
    assert (len(asked), len(found.tried), found.answer.ended_by) == (2, 2, INTERRUPTION)


def test_an_aim_is_explored_like_any_search():
    job = replace(JOB, tokens=1e9)
    asked = []

    def searching(objective):
        asked.append(objective)
        return explore(DENSE, PRICED, job, objective)

    found = aimed(Question(graph=DENSE, cluster=PRICED, job=job, objective=Objective(minimise="cost")), searching)
    assert len(asked) <= most_attempts(PRICED)
    chosen = SCORES["cost"][1](next(t for t in found.tried if t.answer.plan.ranks == found.answer.plan.ranks))
    for nodes in range(1, 5):
        fewer = replace(PRICED, groups=(replace(PRICED.groups[0], count=nodes),))
        one = explore(DENSE, fewer, job)
        value = SCORES["cost"][1](Tried(nodes=nodes, answer=one, outlook=outlook(DENSE, fewer, one.plan)))
        assert chosen <= value * (1 + 1e-9)


UNLIKE = mixed_cluster(peak_flops={"float32": 5e11}, price_per_hour=0.5, power_w=400.0)
UNLIKE = replace(
    UNLIKE,
    groups=(replace(UNLIKE.groups[0], device=device(price_per_hour=2.0, power_w=300.0)), UNLIKE.groups[1]),
)
"""d computes twice as fast as e, and costs four times as much; e draws more for an operation."""


@pytest.mark.parametrize(
    ("objective", "last"),
    [
        (Objective(minimise="cost"), "m"),
        (Objective(minimise="days", budget=1.0), "m"),
        (Objective(minimise="days"), "n"),
        (Objective(minimise="energy"), "n"),
    ],
)
def test_nodes_whose_computing_costs_most_are_given_up_first(objective, last):
    order = given_up(UNLIKE, JOB, objective)
    assert [name.partition("/")[0] for names in order for name in names] == [last] * 2 + ["nm".replace(last, "")] * 2
    assert order_words(order, UNLIKE) == (
        f"Fewer nodes are those without {'d' if last == 'm' else 'e'}: computing costs most there.",
    )
    out = replace(objective, exclude=("m",))
    assert given_up(UNLIKE, JOB, out) == (("n/0", "n/1"),)
    assert order_words(given_up(UNLIKE, JOB, out), UNLIKE) == ()


def test_an_aim_is_explored_on_unlike_devices():
    asked = []

    def searching(objective):
        asked.append(objective.exclude)
        return explore(DENSE, UNLIKE, JOB, objective)

    objective = Objective(minimise="cost")
    found = aimed(
        Question(graph=DENSE, cluster=UNLIKE, job=JOB, objective=objective), searching, given_up(UNLIKE, JOB, objective)
    )
    assert {(), ("n/1",), ("n/0", "n/1"), ("m/1", "n/0", "n/1")} >= set(asked) >= {(), ("n/0", "n/1")}
    chosen = outlook(DENSE, UNLIKE, found.answer.plan).money.per_million_tokens
    for out in asked:
        one = explore(DENSE, UNLIKE, JOB, Objective(exclude=out)).plan
        assert chosen <= outlook(DENSE, UNLIKE, one).money.per_million_tokens * (1 + 1e-12)


def test_time_is_over_when_it_is_over():
    now = [0.0]
    watch = Watch(10.0, SearchBar(), clock=lambda: now[0])
    for second, late in ((5.0, False), (10.5, True)):
        now[0] = second
        assert watch.late(0.1) is late
    assert not watch.late(0.1, share=1.5)


@pytest.fixture(scope="module")
def subject():
    return load_subject(SMALL, ASKED)


@pytest.fixture(scope="module")
def answer(subject):
    run = subject.run
    return explore(subject.graph, run.cluster, run.job, run.objective, on_progress=interrupting(2))


def test_a_file_keeps_ways_and_bound(subject, answer, tmp_path):
    path = tmp_path / "search.json"
    assert found_before(path, subject) == Found()
    keep(path, subject, answer, Found())
    before = found_before(path, subject)
    assert (before.bound_s, before.frontier) == (answer.bound_s, answer.frontier)
    assert [way.ranks for way in before.ways] == [plan.world_size for plan in answer.candidates]
    better = goes_on(answer, replace(before, bound_s=answer.plan.prediction.step_time_s * 2))
    assert better.gap == 0.0
    assert goes_on(answer, Found()) == answer


def test_an_exploration_goes_on_from_its_file(subject, answer, tmp_path):
    path = tmp_path / "search.json"
    keep(path, subject, answer, Found())
    found, _ = explored_plans(subject, 600.0, path)
    assert found.ended_by == ""
    assert found.plan.prediction.step_time_s <= answer.plan.prediction.step_time_s
    after = found_before(path, subject)
    assert after.bound_s == found.bound_s >= answer.bound_s
    assert after.frontier.sets == ()
    # nothing is left to look at, and nothing is lost by an interruption before that is known
    keep(path, subject, replace(found, frontier=NOTHING_LISTED), after)
    assert found_before(path, subject) == after


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.seq_len=32"], "keeps a search for another model: hash "),
        (["cluster.nodes.0.count=1"], "keeps a search for another cluster: hash "),
        (["job.global_batch=16"], "keeps a search for another job: global_batch 8 there, 16 here; name another file"),
        (["objective.fixed.tensor=2"], "another job: fixed degrees 'none' there, 'tensor 2' here"),
        (["objective.exclude=[pair/1]"], "another set of nodes: 'all' there, 'without pair/1' here"),
    ],
)
def test_a_file_of_another_search_is_refused(subject, answer, tmp_path, overrides, sentence):
    path = tmp_path / "search.json"
    keep(path, subject, answer, Found())
    other = load_subject(SMALL, [*ASKED, *overrides])
    with pytest.raises(BadInput) as refused:
        found_before(path, other)
    assert sentence in str(refused.value)


def test_a_file_that_is_damaged_or_something_else_is_refused_and_stays(subject, answer, tmp_path):
    path = tmp_path / "search.json"
    keep(path, subject, answer, Found())
    value = json.loads(path.read_text())
    value["found"]["bound_s"] = 1e9
    path.write_text(json.dumps(value))
    with pytest.raises(BadInput, match="was changed or damaged"):
        found_before(path, subject)
    for text in ("[]", "{", '{"format": "nebula-plan/1"}', "model: {}"):
        path.write_text(text)
        with pytest.raises(BadInput, match="is no file that --resume wrote"):
            found_before(path, subject)
        assert path.read_text() == text


def test_options_that_do_not_go_together_are_refused(tmp_path):
    nebula = partial(CliRunner().invoke, app)
    file = ["--resume", str(tmp_path / "search.json")]
    assert "--resume goes on with an exploration: add --explore" in nebula(["plan", str(SMALL), *file]).stderr
    cost = ["--explore", "objective.minimise=cost"]
    assert "for the shortest step: leave out minimise" in nebula(["plan", str(SMALL), *cost, *file]).stderr


def test_the_cheapest_explored_plan_is_told_with_the_front():
    prices = ["cluster.devices.small-npu.price_per_hour=2", "objective.minimise=cost"]
    done = CliRunner().invoke(app, ["plan", str(SMALL), *ASKED, *prices, "--explore"])
    assert done.exit_code == 0
    words = " ".join(done.stdout.split())
    assert "Least money for a token on " in words
    assert "On the front: " in words
