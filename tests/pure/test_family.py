"""A family of plans: which cases it has, that each plan is for what is left, and what a person and a script get."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nebula.cli.main import app
from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import exclude
from nebula.errors import BadInput
from nebula.plan.files import load_plan
from nebula.plan.legality import violations
from nebula.plan.values import Job
from nebula.planner.family import cases, family
from nebula.planner.replan import Replanner
from nebula.planner.search import search
from tests.pure.cost_samples import chain, cluster, device

GRAPH, JOB = chain(4), Job(global_batch=8)
WHERE = cluster(nodes=3, per_node=2, nic=5e9)

RUN = """\
model: {preset: ernie-3.0-small}
cluster:
  name: three
  nodes:
    - {name: fast, count: 3, device: A100-80GB-SXM, devices_per_node: 2,
       intra: {kind: nvswitch, bandwidth: 300GB/s, latency: 5us}, nic: {count: 2, bandwidth: 200Gb/s}}
job: {global_batch: 24, precision: bf16}
"""


def nebula(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A run file and its plan."""
    folder = tmp_path_factory.mktemp("made")
    run, old = folder / "run.yaml", folder / "old.json"
    run.write_text(RUN)
    assert nebula("plan", run, "-o", old).exit_code == 0
    return run, old


def mixed():
    """Three groups, two of them of one type."""
    group = WHERE.groups[0]
    other = replace(group, name="o", count=2, device=device(name="e"))
    return replace(WHERE, groups=(group, other, replace(other, name="p")))


def test_the_cases_of_one_group():
    own = search(GRAPH, WHERE, JOB).plan
    assert [(case.name, len(case.missing)) for case in cases(WHERE, own)] == [("n-minus-1", 1), ("n-minus-2", 2)]
    assert [case.name for case in cases(WHERE, own, 9)] == ["n-minus-1", "n-minus-2"]
    used = {place.node for place in own.ranks}
    assert set(cases(WHERE, own, 1)[0].missing) <= used


def test_the_cases_of_several_groups_and_types():
    own = search(GRAPH, WHERE, JOB).plan
    found = {case.name: case.missing for case in cases(mixed(), own, 1)}
    assert found.keys() == {
        "n-minus-1",
        "o-minus-1",
        "p-minus-1",
        "without-n",
        "without-o",
        "without-p",
        "without-device-e",
    }
    assert found["without-device-e"] == ("o", "p")


def test_every_member_is_a_plan_for_what_is_left():
    kept = Replanner(GRAPH, WHERE, search(GRAPH, WHERE, JOB).plan)
    members = list(family(kept))
    for lost, member in enumerate(members, 1):
        left = exclude(WHERE, member.case.missing)
        assert violations(member.replanned.plan, layers=4, cluster=left) == ()
        assert (member.nodes, member.devices) == (3 - lost, 2 * (3 - lost))
        assert member.left_hash == cluster_hash(cluster(nodes=3 - lost, per_node=2, nic=5e9))
        assert set(member.case.missing).isdisjoint(place.node for place in member.replanned.plan.ranks)


def test_a_case_that_nothing_fits_says_why():
    small = cluster(nodes=2, per_node=2, kind=device(memory_bytes=1.4e6), nic=5e9)
    graph = chain(6, hidden=64, tokens=32)
    (member,) = family(Replanner(graph, small, search(graph, small, Job(global_batch=4)).plan))
    assert member.replanned is None
    assert "memory" in member.why_not


def test_what_has_no_family_is_refused():
    with pytest.raises(BadInput, match="one node"):
        cases(cluster(nodes=1), search(GRAPH, cluster(nodes=1), JOB).plan)
    with pytest.raises(BadInput, match="1 lost node or more"):
        cases(WHERE, search(GRAPH, WHERE, JOB).plan, 0)


def test_the_verb_replan(made, tmp_path):
    (run_file, old), new = made, tmp_path / "new.json"
    done = nebula("replan", run_file, "--plan", old, "--lost", "fast/1", "-o", new, "--json")
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    assert said["lost"] == ["fast/1"]
    assert said["moves"]["total_bytes"] >= 0
    assert said["step_time_before_s"] <= said["prediction"]["step_time_s"]
    assert load_plan(new).because == said["because"]
    assert "fast/1" not in {place.node for place in load_plan(new).ranks}
    assert sum(len(stage["ranks"]) for stage in said["survivors"]) == load_plan(old).world_size - 2
    for words in ("because", "from the old plan", "what was weighed"):
        assert words in nebula("replan", run_file, "--plan", old, "--lost", "fast/1,fast/2").stdout
    assert nebula("replan", run_file, "--plan", old, "-o", new).exit_code == 2
    same = nebula("replan", run_file, "--plan", old, "--json")
    assert json.loads(same.stdout)["search"]["looked"] == "kept"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--lost", "fst/1"), "did you mean 'fast'"),
        (("--lost", "fast/9"), "no 'fast/9'"),
        (("job.global_batch=48",), "global_batch is 24, the run's is 48"),
        (("--lost", "fast", "--json"), "offers no device"),
        (("--patience", "soon"), "not a duration"),
    ],
)
def test_mistakes_get_one_sentence_each(made, more, words):
    run_file, old = made
    done = nebula("replan", run_file, *(m for m in more if "=" in m), "--plan", old, *(m for m in more if "=" not in m))
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_the_verb_family(made, tmp_path):
    (run_file, old), folder = made, tmp_path / "plans"
    done = nebula("family", run_file, "--plan", old, "--patience", "0s", "-o", folder, "--json")
    assert done.exit_code == 0
    index = json.loads((folder / "index.json").read_text())
    assert json.loads(done.stdout) == index
    base = load_plan(folder / "base.json")
    assert index["cluster"]["hash"] == base.made_from.cluster_hash
    assert [member["name"] for member in index["members"]] == ["fast-minus-1", "fast-minus-2"]
    for member in index["members"]:
        own = load_plan(folder / member["file"])
        assert own.split == member["split"]
        assert own.prediction.step_time_s == member["step_time_s"]
        assert member["from_base"]["seconds"] >= 0
    again = nebula("family", run_file, "-o", folder)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr
    less = nebula("family", run_file, "--plan", old, "--patience", "0s", "-o", folder, "--force", "--most-lost", "1")
    assert "fast-minus-1" in less.stdout
    assert "fast-minus-2" not in less.stdout
