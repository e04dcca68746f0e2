"""The verb calibrate: its document, its file, which a cluster file takes, its table, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cli.run_folder import make_folder
from nebula.cli.subject import described_graph
from nebula.cluster.identity import cluster_hash
from nebula.cluster.schema import load_cluster
from nebula.cost_model.calibration.table import LIMIT, efficiencies, numbers
from nebula.errors import BadInput
from nebula.graph.identity import graph_hash
from nebula.plan.conditions import Conditions
from nebula.plan.values import Job, MadeFrom
from nebula.report.findings import Search
from nebula.report.parameter_table import renewed
from nebula.runtime.training import Training, save
from tests.pure import cost_samples
from tests.pure.runs_samples import SMALL

CLUSTER = """\
name: c
calibration: fitted.yaml
nodes:
  - {{name: n, count: 1, device: {}, devices_per_node: 1}}
"""
ROOT = Path(__file__).parents[2]
WIDE = {"hidden": 4096, "heads": 32, "ffn_hidden": 16384, "layers": 2, "seq_len": 2048}
ALONE = {**SMALL, **WIDE, "devices": 1, "tp": 1, "pp": 1, "dp": 1}
ROWS = [
    {**ALONE, "id": "a", "source": {"repo": "one"}, "measured": {"step_time_s": 0.30}},
    {**ALONE, "id": "b", "source": {"repo": "two"}, "measured": {"step_time_s": 0.31}},
    {**ALONE, "id": "c", "source": {"repo": "two"}, "measured": {"peak_mem_gib": 20}},
]


def run(*arguments: object):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def runs(tmp_path) -> Path:
    path = tmp_path / "runs.yaml"
    path.write_text(yaml.safe_dump(ROWS))
    return path


def test_a_file_of_runs_becomes_a_calibration_that_a_cluster_file_takes(runs, tmp_path) -> None:
    output = tmp_path / "fitted.yaml"
    shown = run(runs, "--parameters", "devices", "--leave-one-out", "-o", output, "--json")
    document = json.loads(shown.stdout)
    (name,) = document["parameters"]
    moved = document["parameters"][name]
    assert (document["rows"], document["sources"], moved["rows"], moved["sources"]) == (2, ["one", "two"], 2, 2)
    assert set(document["errors"]) == {"before", "after", "unseen"}
    assert document["errors"]["after"]["median_abs_pct"] < document["errors"]["before"]["median_abs_pct"]

    (tmp_path / "cluster.yaml").write_text(CLUSTER.format("A100-80GB-SXM"))
    device = load_cluster(tmp_path / "cluster.yaml").groups[0].device
    assert device.product_efficiency == moved["after"] != moved["before"]
    assert dict(device.sources)["product_efficiency"].startswith("fitted to runs: 2 of 2 sources")
    written = yaml.safe_load(output.read_text())
    assert set(written) == {"source", "devices", "parameters", "errors", "made"}
    assert run(runs, "-o", output).exit_code == 2


def test_the_text_shows_what_moved_what_did_not_and_the_errors(runs) -> None:
    shown = run(runs, "--leave-one-out").stdout
    assert "A100-80GB-SXM.product_efficiency" in shown
    assert "not fitted: no row depends on intra_share, nic_share" in shown
    for heading in ("errors before", "errors after", "errors source left out"):
        assert heading in shown


@pytest.mark.parametrize(
    ("changed", "options", "sentence"),
    [
        ({}, ["--parameters", "pcie_share"], "no row depends on pcie_share; add runs on devices that PCIe joins"),
        ({}, ["--parameters", "nic-share"], "no parameter 'nic-share'; did you mean 'nic_share'?"),
        ({"measured": {"peak_mem_gib": 20}}, [], "no row has a measured time; add `step_time_s` under `measured`"),
        ({"ffn_hidden": 16384, "tp": 3, "devices": 3}, [], "no run can be priced; the first, a: "),
    ],
)
def test_bad_input_is_one_sentence(runs, changed, options, sentence) -> None:
    runs.write_text(yaml.safe_dump([ROWS[0] | changed]))
    shown = run(runs, *options)
    assert shown.exit_code == 2
    assert sentence in shown.stderr
    assert "Traceback" not in shown.stderr


def test_without_runs_it_says_what_to_name() -> None:
    shown = run()
    assert (shown.exit_code, "no runs: name a file" in shown.stderr) == (2, True)


def own_run(folder: Path, *, clock: str) -> Path:
    """The folder of a run of the small ERNIE on one device that is slower than its data sheet."""
    cluster = cost_samples.cluster(per_node=1, kind=cost_samples.device(emulated=clock == "virtual"))
    graph = described_graph("ernie-3.0-small", 64, "fp32")
    plan = replace(
        cost_samples.plan(boundaries=(0, len(graph.layers)), data=1),
        job=Job(global_batch=8, precision="fp32"),
        made_from=MadeFrom(
            model=graph.name, model_hash=graph_hash(graph), cluster=cluster.name, cluster_hash=cluster_hash(cluster)
        ),
    )
    make_folder(folder, plan, cluster, Search(), Conditions(), force=False)
    save(Training(preset="ernie-3.0-small", seq_len=64, steps=3), folder)
    step = {"step": 1, "loss": 1.0, "tokens": 1, "predicted_s": 0.0, "memory_bytes": 0, "mfu": 0.0, "clock": clock}
    (folder / "steps.jsonl").write_text("\n".join(json.dumps(step | {"took_s": t}) for t in (9.0, 9.0, 0.5)))
    return folder


def test_a_run_folder_counts_as_a_run(tmp_path) -> None:
    folder = own_run(tmp_path / "run", clock="wall")
    document = json.loads(run(folder, "--parameters", "devices", "--json").stdout)
    assert document["sources"] == ["nebula train on c"]
    assert document["errors"]["after"]["mean_abs_pct"] < document["errors"]["before"]["mean_abs_pct"]


def test_virtual_times_and_other_folders_are_refused(tmp_path) -> None:
    assert "virtual times say nothing" in run(own_run(tmp_path / "run", clock="virtual")).stderr
    assert "is not the folder of a run" in run(tmp_path).stderr


def test_a_cluster_without_the_fitted_devices_is_told(tmp_path) -> None:
    (tmp_path / "fitted.yaml").write_text(
        "source: fitted to runs\ndevices: {H100-80GB-SXM: {product_efficiency: 0.7}}\n"
    )
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(CLUSTER.format("T4-16GB"))
    with pytest.raises(BadInput, match=r"fitted\.yaml was fitted to runs on H100-80GB-SXM"):
        load_cluster(cluster)


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    page = (ROOT / "docs/cost-model.md").read_text()
    assert page == renewed(page), "run python3 -m nebula.report.parameter_table docs/cost-model.md"


def test_every_parameter_is_named_once_and_plausible() -> None:
    names = [n.name for n in numbers()]
    assert len(set(names)) == len(names)
    assert [n.name for n in (*numbers(), *efficiencies()) if not n.plausible] == []
    assert all(n.meaning and n.origin and (n.unit or n.value) for n in numbers())
    shown = run("--table").stdout
    assert f"{len(names)} parameters, {LIMIT} at most" in shown
