"""Plans for phases: what is kept, what is switched and what that takes, held against trying every split."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cost_model.chain import Chains
from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.conditions import Conditions, Reliability
from nebula.plan.job import Objective, Phase
from nebula.plan.legality import violations
from nebula.plan.values import Job
from nebula.planner.kept_plan import descended, variations
from nebula.planner.legs import Switch, total_s
from nebula.planner.moves import moves, plan_sizes
from nebula.planner.phases import plan_phases
from nebula.planner.search import search
from nebula.planner.stretch import way_of
from tests.pure.cost_samples import chain, cluster, device

JOB = Job(global_batch=1)
WHERE = cluster(2, 2, kind=device(memory_bytes=4e6), nic=1e8)
GROWING = (Phase(global_batch=16, seq_len=32, tokens=2e9), Phase(global_batch=24, seq_len=256, tokens=2e8))


@cache
def graph_at(seq_len):
    return chain(6, hidden=64, tokens=seq_len or 64)


def found(phases=GROWING, on=WHERE, objective=None, **reliability):
    under = Conditions(reliability=Reliability(**reliability))
    return plan_phases(phases, graph_at, on, JOB, objective, under)


@cache
def growing(restart_s=300.0):
    return found(restart_s=restart_s, failures_per_device_hour=0.0)


def test_dear_switches_keep_one_plan_for_all_phases():
    kept = growing(1e12)
    assert len({way_of(leg.plan) for leg in kept.legs}) == 1
    assert [leg.plan for leg in kept.legs] == [leg.plan for leg in kept.one_plan]
    assert {leg.switch for leg in kept.legs} == {Switch()}
    assert kept.because.startswith("One plan for all phases: ")


def test_free_switches_take_the_best_plan_of_each_phase():
    # state moves in no time over such links
    fast = cluster(2, 2, kind=device(memory_bytes=4e6), nic=1e15, intra=1e15)
    free = found(on=fast, restart_s=0.0, failures_per_device_hour=0.0)
    for leg, phase in zip(free.legs, GROWING, strict=True):
        job = replace(JOB, global_batch=phase.global_batch)
        assert leg.plan.prediction.step_time_s <= search(graph_at(phase.seq_len), fast, job).bound_s * (1 + 1e-9)
    assert total_s(free.legs) == pytest.approx(total_s(free.each_best))


@pytest.mark.parametrize("restart_s", [0.0, 300.0, 1e12])
def test_what_is_chosen_is_never_worse_than_one_plan_or_the_best_of_each(restart_s):
    chosen = growing(restart_s)
    assert total_s(chosen.legs) <= min(total_s(chosen.one_plan), total_s(chosen.each_best)) * (1 + 1e-12)
    assert chosen.gap >= 0.0


def test_plans_are_legal_and_priced_in_their_phase_and_switches_cost_what_moves_say():
    chosen = growing()
    assert chosen.legs[1].switch.because.startswith("Before phase 2: moves ")
    for leg, phase in zip(chosen.legs, GROWING, strict=True):
        graph = graph_at(phase.seq_len)
        assert violations(leg.plan, layers=6, cluster=WHERE) == ()
        assert leg.plan.prediction == evaluate(graph, WHERE, leg.plan)
        assert all(held.total_bytes <= held.limit_bytes for held in leg.plan.prediction.memory)
        assert leg.steps * phase.global_batch * phase.seq_len == pytest.approx(phase.tokens)
        assert leg.row_tokens == phase.seq_len
    (old, new), switch = (leg.plan for leg in chosen.legs), chosen.legs[1].switch
    sizes = plan_sizes(Chains(graph_at(32)), old)
    assert switch.seconds == pytest.approx(300.0 + moves(old, new, WHERE, sizes).seconds)


def test_an_interruption_ends_the_search_for_one_phase():
    told = []

    def stop_once(progress):
        told.append(progress)
        if len(told) == 2:
            raise KeyboardInterrupt

    stopped = plan_phases(GROWING, graph_at, WHERE, JOB, on_progress=stop_once)
    assert stopped.interrupted == (1,)
    assert len(stopped.legs) == 2
    assert growing().interrupted == ()


def test_equal_phases_have_one_plan():
    phase = GROWING[0]
    same = found((phase, phase, phase))
    assert same.because == "One plan is the best of every phase."
    assert total_s(same.legs) == pytest.approx(3 * same.legs[0].seconds)


def test_a_plan_that_cannot_go_on_says_why():
    # 7 and 16 rows have no common divisor: one replica alone serves both
    odd = found((Phase(global_batch=16, seq_len=32, tokens=2e9), Phase(global_batch=7, seq_len=32, tokens=2e9)))
    assert {leg.plan.stages[0].data for leg in odd.one_plan} == {1}
    assert "do not divide 7" in odd.legs[1].switch.because


def test_fixed_degrees_hold_in_all_phases():
    fixed = {"tensor": 2, "sharding": 0}
    for leg in found(objective=Objective(fixed=fixed)).legs:
        assert (leg.plan.stages[0].tensor, leg.plan.stages[0].sharding.stage) == (2, 0)


def test_nothing_near_a_kept_plan_is_better():
    one = growing().one_plan[0].plan

    def taken_s(plan):
        return 1.0 + abs(plan.stages[0].sharding.degree - 2) + plan.stages[0].replicas[0].micro_batch_rows

    best = descended(one, taken_s, {}, 8)
    assert taken_s(best) == min(taken_s(near) for near in variations(best, {}, 8))


def test_mistakes_are_one_sentence():
    with pytest.raises(BadInput, match=r"phase 2: its 100 tokens are less than one step of 768 tokens"):
        found((GROWING[0], Phase(global_batch=24, seq_len=32, tokens=100)))
    with pytest.raises(BadInput, match="planned for the shortest training"):
        found(objective=Objective(minimise="cost"))
    with pytest.raises(BadInput, match="such phases cannot follow each other"):
        plan_phases(GROWING, lambda n: chain(6, hidden=n, tokens=n), WHERE, JOB)
    with pytest.raises(Infeasible, match="no plan ends"):
        found(failures_per_device_hour=1.0, restart_s=1e6)
    with pytest.raises(Infeasible, match=r"^phase 2: "):
        found((GROWING[0], Phase(global_batch=8, seq_len=65536, tokens=1e9)))


RUN = """\
model: {preset: ernie-3.0-small}
cluster: %s
job:
  global_batch: 32
  phases:
    - {seq_len: 64, tokens: 1e8}
    - {global_batch: 64, seq_len: 128, tokens: 1e9}
"""


@pytest.fixture
def run_file(tmp_path):
    where = Path(__file__).parents[2] / "examples" / "clusters" / "emulated-4.yaml"
    path = tmp_path / "run.yaml"
    path.write_text(RUN % where)
    return path


def nebula(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_with_phases_is_planned_phase_by_phase(run_file, tmp_path):
    told = json.loads(nebula("plan", run_file, "--json").stdout)
    assert [(p["global_batch"], p["seq_len"], p["tokens"]) for p in told["phases"]] == [(32, 64, 1e8), (64, 128, 1e9)]
    hours = sum(p["hours"] + p["switch"]["seconds"] / 3600 for p in told["phases"])
    assert told["days"] * 24 == pytest.approx(hours)
    assert told["days"] <= min(told["one_plan"]["days"], told["each_best"]["days"]) * (1 + 1e-12)
    done = nebula("plan", run_file, "-o", tmp_path / "plan.json")
    assert done.exit_code == 0
    assert told["because"] in " ".join(done.stdout.split())
    for number, phase in enumerate(told["phases"], 1):
        assert json.loads((tmp_path / f"plan-{number}.json").read_text())["stages"] == phase["plan"]["stages"]
        assert nebula("check", tmp_path / f"plan-{number}.json", "--run", run_file).exit_code == 0
    run_file.write_text(run_file.read_text().replace("64, seq_len", "16, seq_len"))
    assert "for none of the phases" in nebula("check", tmp_path / "plan-2.json", "--run", run_file).stderr
    again = nebula("plan", run_file, "-o", tmp_path / "plan.json")
    assert (again.exit_code, "plan-1.json exists" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("job.tokens=2e9", "the phases' tokens do not add up: 1e+08 + 1e+09 = 1.1e+09, job.tokens says 2e+09"),
        ("job.phases.0.global_batch=0", "job.phases[0].global_batch must be at least 1, not 0"),
        ("job.phases.1.sequence=5", "unknown key 'sequence' in job.phases[1]; did you mean 'seq_len'?"),
        ("job.phases.1.tokens=0", "job.phases[1].tokens must be above 0, not 0"),
        ("job.phases=[{seq_len: 64}]", "the key 'tokens' of job.phases[0] is missing"),
        ("objective.minimise=cost", "phases are planned for the shortest training"),
    ],
)
def test_a_mistake_in_phases_is_one_sentence_with_its_place(run_file, override, sentence):
    done = nebula("plan", run_file, override)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_what_works_on_one_plan_refuses_phases(run_file):
    for verb in ("simulate", "report", "what-if", "graph"):
        done = nebula(verb, run_file)
        assert done.exit_code == 2
        assert "name one of them here, such as job.phases=[] job.global_batch=32 job.tokens=1e+08" in done.stderr
    assert "--explore is for one plan" in nebula("plan", run_file, "--explore").stderr
    assert nebula("graph", run_file, "job.phases=[]").exit_code == 0
