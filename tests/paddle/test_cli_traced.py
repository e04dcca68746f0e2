"""A user's own layer, named in a run file, is traced and planned like a built-in model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nebula.cli.main import app

MODULE = """\
from paddle import nn


class Block(nn.Layer):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x)))


def chain():
    return [nn.Embedding(100, 16), Block(), Block(), Block(), nn.Linear(16, 100)]


def number():
    return 3


def broken():
    raise RuntimeError("no weights here")


def loud():
    print("building")
    return chain()


def leaves():
    raise SystemExit(5)


class Names(nn.Layer):
    def forward(self, x):
        return {"a": x}


class Nothing(nn.Layer):
    def forward(self, x):
        return None
"""

RUN = """\
model: {layer: "own_model:chain", inputs: {ids: {shape: [rows, 8], dtype: int64}}}
cluster:
  name: pair
  nodes: [{name: local, count: 1, device: A100-80GB-SXM, devices_per_node: 2,
           intra: {kind: nvlink, bandwidth: 300GB/s, latency: 5us}}]
job: {global_batch: 4}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_model.py").write_text(MODULE)
    (tmp_path / "run.yaml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run.yaml"


def nebula(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_a_chain_of_own_layers_becomes_a_folded_graph(run):
    document = json.loads(nebula("graph", run, "--json").stdout)
    assert document["parameters"] == 100 * 16 + 3 * (16 * 64 + 64 + 64 * 16 + 16) + 16 * 100 + 100
    assert [r["layers"] for r in document["runs"]] == [1, 3, 1]
    assert document["tokens_per_row"] == 8


def test_it_is_planned(run):
    document = json.loads(nebula("plan", run, "--json").stdout)
    assert document["prediction"]["step_time_s"] > 0
    assert document["plan"]["stages"][-1]["layers"][1] == 5


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("nowhere:chain", "no module nowhere"),
        ("own_model:missing", "has no 'missing'"),
        ("own_model:number", "not Paddle layers"),
    ],
)
def test_a_factory_that_cannot_be_used_is_one_message(run, layer, said):
    done = nebula("graph", run, f"model.layer={layer}")
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("broken", r"cannot be made: RuntimeError: no weights here \(own_model.py, line \d+\)"),
        ("leaves", "cannot be made: SystemExit: 5"),
        ("Names", "Names returns something other than tensors"),
        ("Nothing", "Nothing returns nothing"),
    ],
)
def test_what_a_users_code_does_wrong_is_one_sentence(run, factory, words):
    done = nebula("graph", run, f"model.layer=own_model:{factory}")
    assert done.exit_code == 2
    assert re.search(words, done.stderr)


def test_a_module_that_fails_to_import_is_told_with_its_line(run):
    run.with_name("torn.py").write_text("import os\n1 / 0\n")
    done = nebula("graph", run, "model.layer=torn:chain")
    assert done.exit_code == 2
    assert "module torn cannot be imported: ZeroDivisionError: division by zero (torn.py, line 2)" in done.stderr


def test_what_a_users_code_prints_is_no_result(run):
    assert json.loads(nebula("graph", run, "model.layer=own_model:loud", "--json").stdout)["parameters"] > 0
