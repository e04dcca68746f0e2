"""Llama and ERNIE 4.5 of PaddleFormers, unchanged, train under any split as in one serial process."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import ranks
import test_own_script as scripts
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, compare, losses_of

if importlib.util.find_spec("paddleformers") is None:
    pytest.skip("PaddleFormers has an environment of its own: make test-formers", allow_module_level=True)

WORKER = Path(__file__).with_name("formers_worker.py")
MODELS = ("llama", "ernie 4.5")
PLANS = {2: ("data 2", "tensor 2", "pipeline 2"), 4: ("data 2 x pipeline 2", "tensor 2 x pipeline 2")}
CASES = {count: [f"{model}|{plan}|" for model in MODELS for plan in plans] for count, plans in PLANS.items()}
# what fleet cannot run: a table that two stages share, stages of unlike degrees
CASES[2].append("ernie 4.5 tied|pipeline, 1f1b|")
CASES[4].append("llama|rows 3 : 1, then tensor 2|")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formers")
    ranks.run_serial(WORKER, [folder, *(f"{model}|serial|" for model in (*MODELS, "ernie 4.5 tied"))])
    for count, cases in CASES.items():
        ranks.run_emulated(count, WORKER, [folder, *cases], folder)
    return folder


@pytest.mark.parametrize("case", CASES[2] + CASES[4])
def test_it_trains_as_one_process_does(results, case):
    losses = losses_of(results, case)
    assert losses[-1] < losses[0]
    row = compare(results, case)
    print(f"{case:34} {row.losses:.1e} {row.weights:.1e}")
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


def test_the_example_is_planned_and_launched_as_its_page_says(tmp_path):
    script, cluster = "examples/formers.py", scripts.ROOT / "examples" / "clusters" / "emulated-4.yaml"
    scripts.run(scripts.NEBULA, "plan", "examples/own-formers.yaml", "-o", tmp_path / "plan.json")
    words = ["launch", "--cluster", cluster, "--logs", tmp_path / "log", tmp_path / "plan.json", script]
    said = scripts.run(scripts.NEBULA, *words)
    assert len(list((tmp_path / "log").glob("workerlog.*"))) == 4
    alone = scripts.losses(scripts.run(sys.executable, script))
    assert len(alone) == 8
    assert alone[-1] < alone[0]
    assert scripts.losses(said) == pytest.approx(alone, abs=2e-4)
