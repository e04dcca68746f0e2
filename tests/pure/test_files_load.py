"""Every YAML file of the repository loads as what it is, and the requirement files hold pins that pip can read."""

import re
import warnings
from pathlib import Path

import pytest
import yaml

from nebula.cluster.schema import dump_cluster, load_cluster
from nebula.elastic.chaos.schema import load_schedule
from nebula.elastic.simulate.schema import load_scenario
from nebula.plan.files import loads
from nebula.plan.legality import executable, kind_of, violations
from nebula.plan.run_file import load_run

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", ".git", "build", "dist", "runs", "demo", "log"}


def yaml_files():
    found = [p for p in ROOT.rglob("*.y*ml") if not SKIPPED & set(p.relative_to(ROOT).parts)]
    # links of the package to root folders show a file twice
    return sorted({p.resolve() for p in found})


def is_run(value):
    return isinstance(value, dict) and {"model", "cluster", "job"} <= set(value)


def is_cluster(value):
    return isinstance(value, dict) and {"name", "nodes"} <= set(value)


def is_scenario(value):
    return isinstance(value, dict) and {"job", "faults", "timings"} <= set(value)


def is_schedule(value):
    return isinstance(value, dict) and {"faults", "for"} <= set(value)


FILES = {str(p.relative_to(ROOT)): p for p in yaml_files()}


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_loads_without_a_warning(path):
    value = yaml.safe_load(path.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if is_run(value):
            run = load_run(path)
            assert run.cluster.device_count > 0
        elif is_cluster(value):
            assert load_cluster(path) == load_cluster(yaml.safe_load(dump_cluster(load_cluster(path))))
        elif is_scenario(value):
            assert load_scenario(path)[0].jobs > 0
        elif is_schedule(value):
            assert load_schedule(path).lasts_s > 0
        else:
            assert value


def test_examples_are_clusters_runs_and_scenarios():
    for path in (ROOT / "examples").rglob("*.yaml"):
        value = yaml.safe_load(path.read_text())
        kinds = {"clusters": is_cluster, "outlast": is_scenario}
        is_kind = is_schedule if path.stem == "faults" else kinds.get(path.parent.name, is_run)
        assert is_kind(value), path


def test_the_sizes_that_examples_promise():
    clusters = {p.stem: load_cluster(p) for p in (ROOT / "examples/clusters").glob("*.yaml")}
    assert {name: c.device_count for name, c in clusters.items()} == {
        "a100-64": 64,
        "ascend910-1920": 1920,
        "emulated-2": 2,
        "emulated-4": 4,
        "emulated-and-cpu": 4,
        "mixed": 192,
    }
    assert all(g.device.emulated for g in clusters["emulated-4"].groups)


@pytest.mark.parametrize("name", ["gpu", "npu", "nlp", "formers"])
def test_requirements_say_where_and_which(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    needed = [line for line in lines if line and not line.startswith(("#", "--"))]
    assert lines[0].startswith("# ")
    assert needed
    for line in needed:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z]+\])?((==|>=|<)[0-9][\w.]*,?)+", line), line


def test_the_plan_of_the_docs_is_legal():
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/plan-file.md").read_text(), re.DOTALL)
    plan = loads(block, "the docs")
    cluster = load_cluster(ROOT / "examples/clusters/emulated-4.yaml")
    assert violations(plan, layers=11, cluster=cluster) == ()
    assert executable(plan, kind_of(cluster)).engine == "fleet"


@pytest.mark.parametrize("page", ["run-file", "cluster-file"])
def test_blocks_of_the_docs_load(page, tmp_path):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert blocks
    (tmp_path / "clusters").mkdir()
    for cluster in (ROOT / "examples/clusters").glob("*.yaml"):
        (tmp_path / "clusters" / cluster.name).write_text(cluster.read_text())
    for block in blocks:
        path = tmp_path / "block.yaml"
        path.write_text(block)
        value = yaml.safe_load(block)
        assert load_run(path) if is_run(value) else load_cluster(path) if is_cluster(value) else value
