"""Simulated jobs: times that can be worked out by hand, exact sums, the same for the same seed, and laws."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.elastic.goodput import Category
from nebula.elastic.policy.values import Bounds
from nebula.elastic.simulate.compare import NOTHING, compare, row, variants
from nebula.elastic.simulate.schema import load_scenario
from nebula.elastic.simulate.strike import played
from nebula.elastic.simulate.trace import drawn, trace
from nebula.elastic.simulate.values import NAMES, Fault, Kind, Mechanisms, Rates, Scenario, Timings
from nebula.errors import BadInput

EXAMPLES = Path(__file__).parents[2] / "examples" / "outlast"

TIMINGS = Timings(
    exit_s=1.0,
    silence_s=3.0,
    hang_s=20.0,
    hang_timeout_s=1800.0,
    slow_s=100.0,
    stop_s=2.0,
    plan_s=4.0,
    cold_s=60.0,
    warm_s=10.0,
    memory_load_s=5.0,
    disk_load_s=50.0,
    gap_s=3.0,
    save_s=0.0,
    durable_s=30.0,
    memory_save_s=0.0,
)
RATES = Rates(mtbf_s=86400.0, kinds={Kind.WORKER: 4, Kind.NODE: 3, Kind.HANG: 2, Kind.SLOW: 1}, repair_median_s=3600.0)
SCENARIO = Scenario(
    name="four nodes",
    bounds=Bounds(least=2, most=4),
    steps=1000,
    step_s=10.0,
    rates=RATES,
    timings=TIMINGS,
    spare_nodes=1,
    deadline_s=40_000.0,
    jobs=3,
)
REPLAYED = replace(Mechanisms(), continuation=False)


def with_faults(*faults, **changes):
    return replace(SCENARIO, faults=faults, **changes)


def spent(scenario, mechanisms=REPLAYED):
    outcome = played(scenario, trace(scenario, 0), mechanisms)
    assert outcome.done, outcome.because
    assert outcome.steps == scenario.steps
    return {category.value: round(took_s, 6) for category, took_s in outcome.account.seconds().items() if took_s}


def test_an_undisturbed_job_starts_and_steps():
    assert spent(with_faults(Fault(at_s=39_999.0, node=0, kind=Kind.WORKER))) == {
        "starting": 4.0 + 60.0 + 10.0,
        "productive": 9990.0,
    }


def test_a_worker_that_ends_costs_its_recovery():
    """Steps end at 74, 84, ...: the worker ends at 100, 6 s into step 4; what was done of that step is not kept."""
    assert spent(with_faults(Fault(at_s=100.0, node=1, kind=Kind.WORKER))) == {
        "starting": 74.0 + 4.0 + 10.0 + 10.0,
        "detecting": 6.0 + 1.0,
        "stopping": 2.0,
        "restoring": 5.0,
        "productive": 20.0 + 9960.0,
    }


def test_from_the_disk_steps_are_done_again():
    """Step 300 ends at 64 + 3000 s and is on the disk 30 s later; steps 301 to 310 are lost, the first starts anew."""
    fault = Fault(at_s=64.0 + 3100.0, node=1, kind=Kind.WORKER)
    found = spent(with_faults(fault), replace(REPLAYED, memory_copies=False))
    assert (found["recomputing"], found["restoring"]) == (90.0, 50.0)


def test_a_checkpoint_that_is_still_written_is_no_checkpoint():
    fault = Fault(at_s=64.0 + 3029.0, node=1, kind=Kind.WORKER)
    outcome = played(with_faults(fault), [fault], replace(REPLAYED, memory_copies=False))
    assert outcome.account.lost_steps == 102


def test_a_lost_node_is_replaced_by_a_spare_one_or_done_without():
    fault = Fault(at_s=100.0, node=1, kind=Kind.NODE, repair_s=1000.0)
    replaced = spent(with_faults(fault))
    assert replaced["detecting"] == 6.0 + 3.0 + SCENARIO.limits.grace_s
    assert "degraded" not in replaced
    fewer = spent(with_faults(fault, spare_nodes=0))
    assert 200.0 < fewer["degraded"] < 300.0
    waits = spent(with_faults(fault, spare_nodes=0), replace(REPLAYED, elastic=False))
    assert waits["waiting"] == pytest.approx(1000.0 - 3.0 - SCENARIO.limits.grace_s - TIMINGS.stop_s)


def test_a_hang_is_seen_by_progress_or_runs_into_a_timeout():
    fault = Fault(at_s=100.0, node=1, kind=Kind.HANG)
    assert spent(with_faults(fault))["detecting"] == 6.0 + 20.0
    assert spent(with_faults(fault), replace(REPLAYED, hang_detection=False))["detecting"] == 6.0 + 1800.0


def test_survivors_finish_the_step_and_go_on_until_the_worker_is_back():
    """Struck 6 s into step 4, they stand still for 3 s; the worker was heard of after 1 s, and is back 15 s later."""
    found = spent(with_faults(Fault(at_s=100.0, node=1, kind=Kind.WORKER)), Mechanisms())
    assert found["starting"] == 74.0
    assert found["detecting"] == 3.0
    assert found["degraded"] == pytest.approx((101.0 + 10.0 + 5.0 - 103.0) / 4, abs=1e-5)
    assert found.keys() == {"starting", "detecting", "degraded", "productive"}


def test_replicas_of_several_nodes_go_on_where_one_is_whole():
    fault = Fault(at_s=100.0, node=1, kind=Kind.WORKER)
    found = spent(with_faults(fault, replica_nodes=2), Mechanisms())
    # the other replica's step of 20 s begins at 104; at 120 the first replica is back, and the last fifth takes 2 s
    assert found["starting"] == pytest.approx(74.0 + 3.0 + 16.0 + 2.0, abs=1e-5)
    assert "recomputing" not in found
    alone = spent(with_faults(fault, replica_nodes=4), Mechanisms())
    assert alone["stopping"] == 2.0


def test_replicas_that_are_all_lost_go_on_from_the_disk():
    """Step 300 is on the disk; all fail in step 310, 96 s later, and read it again."""
    faults = [Fault(at_s=64.0 + 3096.0, node=node, kind=Kind.WORKER) for node in range(4)]
    scenario = with_faults(*faults, spare_nodes=0)
    outcome = played(scenario, faults, Mechanisms())
    assert outcome.done
    assert outcome.account.lost_steps == 9
    assert round(outcome.account.seconds()[Category.RESTORING], 6) == 50.0


def test_a_node_of_replicas_that_is_lost_is_done_without_until_it_is_back():
    fault = Fault(at_s=100.0, node=1, kind=Kind.NODE, repair_s=1000.0)
    found = spent(with_faults(fault, spare_nodes=0), Mechanisms())
    assert found["detecting"] == 6.0
    assert found["degraded"] == pytest.approx((1100.0 + 10.0 + 5.0 - 106.0) / 4, abs=1e-5)
    assert "starting" in found
    assert found["starting"] == 74.0


def test_two_neighbours_lost_at_once_take_the_memory_with_them():
    pair = [Fault(at_s=4000.0, node=n, kind=Kind.NODE, repair_s=50.0) for n in (1, 2)]
    assert "recomputing" in spent(with_faults(*pair))
    apart = [replace(fault, node=node) for fault, node in zip(pair, (1, 3), strict=True)]
    assert "recomputing" not in spent(with_faults(*apart))


def test_a_slow_node_holds_everybody_up_until_it_is_found():
    fault = Fault(at_s=1000.0, node=1, kind=Kind.SLOW, repair_s=5000.0, factor=2.0)
    assert spent(with_faults(fault))["degraded"] < 100.0
    assert spent(with_faults(fault), replace(REPLAYED, slow_detection=False))["degraded"] == pytest.approx(
        2500.0, abs=9
    )


def test_without_a_restart_the_first_fault_ends_the_job():
    fault = Fault(at_s=1000.0, node=1, kind=Kind.WORKER)
    outcome = played(with_faults(fault), [fault], replace(NOTHING, restart=False))
    assert not outcome.done
    assert outcome.because == "rank 1 on n1 ended, and nothing begins it anew"


def test_a_job_that_waits_too_long_fails_and_says_for_what():
    fault = Fault(at_s=1000.0, node=1, kind=Kind.NODE, repair_s=1e6)
    outcome = played(with_faults(fault), [fault], NOTHING)
    assert not outcome.done
    assert "not done by its deadline (waiting for nodes: 3 of at least 4 are there)" in outcome.because
    assert outcome.account.wall_s == SCENARIO.deadline_s


mechanisms = st.builds(Mechanisms, **{name: st.booleans() for name in (*NAMES, "restart")})
scenarios = st.builds(
    replace,
    st.just(SCENARIO),
    seed=st.integers(0, 10**6),
    bounds=st.sampled_from([Bounds(least=1, most=4), Bounds(least=4, most=4), Bounds(least=2, most=8, unit=2)]),
    spare_nodes=st.integers(0, 3),
    replica_nodes=st.sampled_from([1, 2, 4]),
    memory_every=st.sampled_from([1, 7]),
    save_every=st.sampled_from([1, 50]),
    rates=st.builds(
        replace,
        st.just(RATES),
        mtbf_s=st.sampled_from([300.0, 3000.0, 86400.0]),
        infant_share=st.sampled_from([0.0, 0.3]),
        infant_mtbf_s=st.just(100.0),
        shape=st.sampled_from([0.6, 1.0]),
    ),
)


@given(scenario=scenarios, mechanisms=mechanisms)
def test_whatever_fails_the_time_sums_and_no_step_is_counted_twice(scenario, mechanisms):
    outcome = played(scenario, trace(scenario, 0), mechanisms)
    account = outcome.account
    assert sum(account.spent_ns.values()) == account.wall_ns
    assert min(account.spent_ns.values()) >= 0
    assert account.wall_s <= scenario.deadline_s
    assert outcome.steps <= scenario.steps
    assert outcome.done == (outcome.steps == scenario.steps and "training is done" in outcome.because)
    least_s = outcome.steps * scenario.step_s
    assert account.wall_s >= least_s * (1 - 1e-9)
    assert account.spent_ns[Category.PRODUCTIVE] <= (least_s + scenario.step_s * (2 + outcome.restarts)) * 1e9


@given(scenario=scenarios)
def test_a_seed_gives_the_same_again(scenario):
    assert list(trace(scenario, 1)) == list(trace(scenario, 1))
    assert played(scenario, trace(scenario, 1), REPLAYED) == played(scenario, trace(scenario, 1), REPLAYED)


def test_seeds_and_jobs_differ():
    assert len({tuple(trace(replace(SCENARIO, seed=seed), job)) for seed in range(3) for job in range(3)}) == 9


@pytest.mark.parametrize("shape", [1.0, 0.7])
def test_a_trace_has_the_mean_that_was_asked_for(shape):
    rates = replace(RATES, shape=shape, repair_sigma=0.0, repair_median_s=1.0)
    faults = drawn(rates, 2000, 20 * 86400.0, np.random.Generator(np.random.PCG64(3)))
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    if shape == 1.0:
        assert len(faults) == pytest.approx(2000 * 20, rel=0.03)
    else:  # a heavy tail fails early: nodes that were just begun fail more often than old ones
        assert len(faults) > 2000 * 20 * 1.02
    count = {kind: sum(fault.kind is kind for fault in faults) for kind in Kind}
    assert count[Kind.WORKER] / len(faults) == pytest.approx(0.4, abs=0.02)
    assert all(bool(fault.repair_s) == (fault.kind in (Kind.NODE, Kind.SLOW)) for fault in faults)


def test_young_nodes_fail_early():
    rates = replace(RATES, infant_share=0.5, infant_mtbf_s=60.0)
    faults = drawn(rates, 1000, 3600.0, np.random.Generator(np.random.PCG64(3)))
    assert len(faults) > 10 * len(drawn(RATES, 1000, 3600.0, np.random.Generator(np.random.PCG64(3))))


def test_rows_compare_all_sets_on_the_same_faults():
    scenario = replace(SCENARIO, rates=replace(RATES, mtbf_s=7200.0))
    sets = variants(alone=True)
    rows = {one.name: one for one in compare(scenario, sets)}
    assert len(rows) == 3 + 2 * len(NAMES)
    assert all(one.jobs == 3 and sum(one.spent_ns.values()) == one.wall_ns for one in rows.values())
    assert rows["all"].goodput > rows["none of them"].goodput
    assert rows["all"].failed < rows["no restart"].failed == 3
    assert rows["no restart"].because.endswith("nothing begins it anew")
    alone = row("all", [played(scenario, trace(scenario, job), sets["all"]) for job in range(3)])
    assert alone == rows["all"]


def test_ten_thousand_nodes_stay_small():
    """A day of 10,000 nodes with a fault in 40 minutes: its peak memory, Python and numpy included."""
    code = (
        "import resource, sys; from dataclasses import replace; sys.path.insert(0, sys.argv[1])\n"
        "from test_elastic_simulate import *\n"
        "big = replace(SCENARIO, bounds=Bounds(least=7500, most=10_000), spare_nodes=0, steps=8000,\n"
        "              deadline_s=86400.0, rates=replace(RATES, mtbf_s=10_000 * 2400.0))\n"
        "outcome = played(big, trace(big, 0), Mechanisms())\n"
        "assert outcome.done and outcome.met > 20, outcome\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 500 * 1024


def test_files_of_the_repository_load():
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == {"1024-nodes", "two-workers"}
    for path in EXAMPLES.glob("*.yaml"):
        scenario, _ = load_scenario(path)
        assert scenario.timings.sources["exit"]


def test_a_seed_of_the_command_goes_before_the_file():
    assert load_scenario(EXAMPLES / "two-workers.yaml", 7)[0].seed == 7


GIVEN = """
name: one fault
job: {least: 1, most: 2, step: 1s, steps: 100, deadline: 10min}
faults: {node_mtbf: 1d, kinds: {worker: 1}}
given: [{at: 50s, node: 1, kind: node, repair: 20s}]
timings: {exit: 1s, silence: 3s, hang: 5s, hang_timeout: 30min, slow: 50s, stop: 1s, plan: 0, cold_start: 10s,
  warm_start: 1s, memory_load: 1s, disk_load: 1s, survivors_gap: 1s, save: 0, save_durable: 1s, memory_copy: 0}
"""


def test_faults_can_be_given(tmp_path):
    (tmp_path / "given.yaml").write_text(GIVEN)
    scenario, mix = load_scenario(tmp_path / "given.yaml")
    assert mix is None
    assert trace(scenario, 5) == [Fault(at_s=50.0, node=1, kind=Kind.NODE, repair_s=20.0)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("least: 1", "least: 3", "3:2 nodes"),
        ("deadline: 10min", "deadline: 1min", r"the deadline of 60 s is before 100 steps x 1 s = 100 s"),
        ("node: 1, kind", "node: 2, kind", "there is no node 2: they are numbered from 0 to 1"),
        ("{worker: 1}", "{worker: 0}", "at least one kind a share above 0"),
        ("{worker: 1}", "{fire: 1}", "worker"),
        ("exit: 1s", "exit: 1 stone", "exit"),
        ("exit: 1s, ", "", "'exit' of timings is missing"),
        ("most: 2", "most: 20000", "at most 10000"),
        ("step: 1s", "steep: 1s", "unknown key 'steep'|steep"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, old, new, said):
    assert old in GIVEN
    (tmp_path / "given.yaml").write_text(GIVEN.replace(old, new, 1))
    with pytest.raises(BadInput, match=said):
        load_scenario(tmp_path / "given.yaml")


def test_the_command_prints_what_it_simulated(tmp_path):
    (tmp_path / "given.yaml").write_text(GIVEN)
    shown = CliRunner().invoke(app, ["outlast", str(tmp_path / "given.yaml")])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("Simulated:")
    assert "without hang detection" in shown.output
    said = CliRunner().invoke(app, ["outlast", str(tmp_path / "given.yaml"), "--json"])
    document = json.loads(said.output)
    assert document["simulated"] is True
    for one in document["rows"]:
        assert sum(one["seconds"].values()) == pytest.approx(one["wall_s"], abs=1e-6)


def test_a_file_that_is_not_there_is_bad_input(tmp_path):
    assert CliRunner().invoke(app, ["outlast", str(tmp_path / "none.yaml")]).exit_code == 2
