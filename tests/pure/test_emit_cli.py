"""`nebula emit` and `nebula plan --emit`: what is printed, what is written, what is refused before a search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from nebula.cli.main import app

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = EXAMPLES / "llama3-8b-a100-64.yaml"


def nebula(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    assert nebula("plan", RUN, "objective.fixed.engine=fleet", "-o", path).exit_code == 0
    return path


def test_a_plan_file_and_a_search_give_the_same(plan_file):
    given, found = nebula("emit", "fleet", RUN, "--plan", plan_file), nebula("emit", "fleet", RUN)
    assert given.exit_code == found.exit_code == 0
    assert given.stdout == found.stdout
    assert nebula("plan", RUN, "--emit", "fleet").stdout == found.stdout


def test_plan_prints_the_table_and_writes_what_is_emitted(tmp_path):
    made = nebula("plan", RUN, "--emit", "auto-tuner", "--emit-to", tmp_path / "tuner.json")
    assert made.exit_code == 0
    assert "because" in made.stdout
    table = Path(json.loads((tmp_path / "tuner.json").read_text())["configs_csv"])
    assert len(table.read_text().splitlines()) > 2


def test_a_config_gets_the_plan_in_place(plan_file, tmp_path):
    theirs = tmp_path / "sft.yaml"
    theirs.write_bytes(b"# mine\r\ntensor_model_parallel_size: 8  # of 8\r\nmax_steps: -1\r\n")
    made = nebula("emit", "paddleformers", RUN, "--plan", plan_file, "--into", theirs, "-o", theirs, "--force")
    assert made.exit_code == 0
    text = theirs.read_bytes()
    assert text.startswith(b"# mine\r\ntensor_model_parallel_size: 2  # of 8\r\n")
    assert b"\n" not in text.replace(b"\r\n", b"")
    assert text.endswith(b"max_steps: -1\r\n")
    assert yaml.safe_load(text)["sharding_parallel_size"] == 4
    assert "tensor_model_parallel_size: 8 → 2" in made.stderr


def test_machines_get_the_document_and_the_notes(plan_file):
    said = json.loads(nebula("emit", "launch", RUN, "--plan", plan_file, "--json").stdout)
    assert (said["format"], len(said["document"]["nodes"])) == ("launch", 8)
    assert said["notes"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("emit", "flet", RUN), "there is no format 'flet'; did you mean 'fleet'?"),
        (("emit", "fleet", RUN, "--into", RUN), "--into goes with the format paddleformers"),
        (("emit", "fleet", RUN, "-o", RUN), "cannot both be written"),
        (("emit", "fleet", RUN, "--plan", RUN, "--candidate", "2"), "--candidate counts the plans of a search"),
        (("emit", "paddleformers", RUN, "--into", "nowhere.yaml"), "nowhere.yaml: there is no such file"),
        (("plan", RUN, "--emit", "flet"), "did you mean 'fleet'?"),
        (("plan", RUN, "--emit-to", "a.json"), "say what with --emit"),
        (("plan", RUN, "--emit", "fleet", "--json"), "name a file with --emit-to"),
        (("emit", "fleet", RUN, "--candidate", "99"), "--candidate 99: the search kept 8 plans"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    made = nebula(*arguments)
    assert made.exit_code == 2
    assert sentence in made.stderr
    assert made.stdout == ""


def test_a_later_candidate_is_another_plan():
    first, second = nebula("emit", "fleet", RUN), nebula("emit", "fleet", RUN, "--candidate", "2")
    assert second.exit_code == 0
    assert first.stdout != second.stdout
