"""The verbs explain and compare as a person types them: text and JSON say the same, mistakes are one sentence."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from nebula.cli.main import app
from nebula.plan.files import load_plan, save_plan
from nebula.planner.compare import compare
from nebula.report.comparison_text import Side, comparison_text
from nebula.units import format_seconds
from tests.pure.report_samples import large

EXAMPLE = Path(__file__).parents[2] / "examples/ernie-small.yaml"


def nebula(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def words(result: Result) -> str:
    return " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> tuple[Path, Path, Path]:
    """The best plan, one of another pipeline, and that one as a person would write it: without words and figures."""
    folder = tmp_path_factory.mktemp("plans")
    best, other, bare = folder / "best.json", folder / "other.json", folder / "bare.json"
    assert nebula("plan", EXAMPLE, "-o", best).exit_code == 0
    assert nebula("plan", EXAMPLE, "objective.fixed.pipeline=2", "-o", other).exit_code == 0
    value = json.loads(other.read_text())
    for key in ("checksum", "prediction", "because", "runner_up", "bound_s", "made_from"):
        del value[key]
    bare.write_text(json.dumps(value))
    return best, other, bare


def test_text_and_json_of_an_explanation_say_the_same(plans):
    document = json.loads(nebula("explain", EXAMPLE, "--json").stdout)
    text = words(nebula("explain", EXAMPLE))
    sentences = [document["because"], document["bound"]["sentence"], document["runner_up"]["split"]]
    sentences += [each["sentence"] for each in document["alternatives"]]
    sentences += [each["split"] for each in document["alternatives"]]
    for each in document["rejected"]:
        sentences += [each["meaning"], *each["facts"], *each["remedies"], f"{each['count']:,}"]
    assert [sentence for sentence in sentences if sentence not in text] == []
    assert document["alternatives"]
    assert {"bound"} <= {each["rule"] for each in document["rejected"]}
    on_fleet = json.loads(nebula("explain", EXAMPLE, "objective.fixed.engine=fleet", "--json").stdout)
    assert {"devices", "bound"} <= {each["rule"] for each in on_fleet["rejected"]}
    assert load_plan(plans[0]).because == document["because"]


def test_a_plan_file_is_explained_against_what_the_search_finds(plans):
    best, other, bare = plans
    assert json.loads(nebula("explain", EXAMPLE, "--plan", best, "--json").stdout)["better"] == []
    document = json.loads(nebula("explain", EXAMPLE, "--plan", other, "--json").stdout)
    assert load_plan(best).split in document["better"][0]
    assert document["because"] == load_plan(other).because
    assert document["plan"]["split"] == load_plan(other).split
    assert "The plan file gives no reason." in words(nebula("explain", EXAMPLE, "--plan", bare))


def test_text_and_json_of_an_alternative_say_the_same():
    document = json.loads(nebula("explain", EXAMPLE, "--why-not", "tensor=2,pipeline=2", "--json").stdout)
    text = words(nebula("explain", EXAMPLE, "--why-not", "tensor=2,pipeline=2"))
    assert document["outcome"] == "slower"
    assert document["alternative"]["degrees"]["tensor"] == document["alternative"]["degrees"]["pipeline"] == 2
    assert document["more_s"] > 0
    for sentence in (document["sentence"], *document["facts"]):
        assert sentence in text


def test_degrees_that_contradict_are_an_answer_and_end_with_0():
    done = nebula("explain", EXAMPLE, "--why-not", "tensor=4,data=4")
    assert done.exit_code == 0
    assert "Tensor 4, data 4 contradict: data 4 × tensor 4 = 16 > 4 devices." in words(done)
    assert "16 devices would do" in words(done)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--why-not", "tensr=8"), "--why-not: 'tensr' is no degree; did you mean 'tensor'?"),
        (("--why-not", ""), "write name=value"),
        (("--plan", "nothing.json"), "there is no such plan file"),
        (("job.globl_batch=16",), "did you mean 'global_batch'?"),
    ],
)
def test_a_mistake_is_one_sentence_and_ends_with_2(arguments, sentence):
    done = nebula("explain", EXAMPLE, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert sentence in " ".join(done.stderr.split())


def test_a_plan_for_another_job_is_refused(plans):
    done = nebula("explain", EXAMPLE, "job.global_batch=16", "--plan", plans[0])
    assert done.exit_code == 2
    assert "the plan's global_batch is 8, the run's is 16" in " ".join(done.stderr.split())


def test_where_nothing_fits_explaining_ends_with_3():
    done = nebula("explain", EXAMPLE, "cluster.devices.small-npu.memory=16MiB")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "more than" in done.stderr


def test_text_and_json_of_a_comparison_say_the_same(plans):
    best, other, _ = plans
    document = json.loads(nebula("compare", best, other, "--json").stdout)
    text = words(nebula("compare", best, other))
    assert document["better"] == str(best)
    assert document["verdict"].replace(str(best), "") in text.replace(str(best), "")
    assert document["more_s"] == pytest.approx(
        load_plan(other).prediction.step_time_s - load_plan(best).prediction.step_time_s
    )
    assert {"subject": "pipeline", "first": "4", "second": "2"} in document["differences"]
    assert [side["money"] for side in document["plans"]] == [None, None]
    assert f"{format_seconds(load_plan(best).prediction.step_time_s)} virtual" in text
    for note in document["notes"]:
        assert note in text


def test_a_run_predicts_what_has_no_prediction(plans):
    best, other, bare = plans
    alone = json.loads(nebula("compare", best, bare, "--json").stdout)
    assert (alone["better"], alone["more_s"]) == (None, None)
    with_run = json.loads(nebula("compare", best, bare, "--run", EXAMPLE, "--json").stdout)
    assert with_run["better"] == str(best)
    assert with_run["plans"][1]["prediction"]["step_time_s"] == load_plan(other).prediction.step_time_s
    assert with_run["plans"][1]["days"]["tokens_per_day"] > 0
    assert not any("not known" in note for note in with_run["notes"])


def test_a_plan_of_another_model_keeps_what_its_file_says(plans, tmp_path):
    strange = tmp_path / "strange.json"
    save_plan(large().plan, strange)
    document = json.loads(nebula("compare", plans[0], strange, "--run", EXAMPLE, "--json").stdout)
    assert document["plans"][1]["prediction"]["step_time_s"] == large().plan.prediction.step_time_s
    assert document["verdict"] == "They train unlike models, so neither is the better plan."
    assert any("was made for model ernie-3.0-titan" in note for note in document["notes"])


def test_a_prediction_of_nothing_is_refused(plans, tmp_path):
    broken = tmp_path / "broken.json"
    best = load_plan(plans[0])
    save_plan(replace(best, prediction=replace(best.prediction, tokens_per_s=0.0)), broken)
    done = nebula("compare", plans[0], broken)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "0 tokens/s; leave it out, or predict anew with --run" in " ".join(done.stderr.split())
    assert nebula("compare", plans[0], broken, "--run", EXAMPLE).exit_code == 0


def test_memory_that_no_limit_is_known_of_is_not_known(plans):
    plan = load_plan(plans[0])
    bare = replace(plan, prediction=replace(plan.prediction, memory=()))
    out = io.StringIO()
    sides = (Side(name="a", plan=plan), Side(name="b", plan=bare))
    Console(file=out, width=100).print(comparison_text(compare(plan, bare, ("a", "b")), sides))
    (line,) = (line for line in out.getvalue().splitlines() if "fullest device" in line)
    assert line.rstrip().endswith("not known")


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_comparison_fits_the_terminal(plans, columns):
    first, second = load_plan(plans[0]), large().plan
    out = io.StringIO()
    found = compare(first, second, ("best.json", "large.json"))
    sides = (Side(name="best.json", plan=first), Side(name="large.json", plan=second))
    Console(file=out, width=columns).print(comparison_text(found, sides))
    assert max(map(len, out.getvalue().splitlines())) <= columns
    assert "ernie-3.0-titan" in out.getvalue()
