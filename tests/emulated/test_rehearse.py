"""`nebula rehearse` as a user types it: a plan for unlike stages on unlike devices, and the verdict on it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """\
model: {preset: ernie-3.0-small}
cluster:
  name: mixed-3
  devices:
    quick: {kind: npu, peak_flops: {fp32: 400e9}, memory: 8GiB, memory_bandwidth: 40GB/s}
    slow: {kind: npu, peak_flops: {fp32: 200e9}, memory: 4GiB, memory_bandwidth: 20GB/s}
  nodes:
    - {name: one, count: 1, device: quick, devices_per_node: 1, nic: {bandwidth: 1GB/s, latency: 20us}}
    - {name: two, count: 1, device: slow, devices_per_node: 2, intra: {kind: pcie, bandwidth: 2GB/s, latency: 10us},
       nic: {bandwidth: 1GB/s, latency: 20us}}
job: {global_batch: 8}
"""


def replica(ranks, rows):
    return {"ranks": ranks, "tensor_shares": [1] * len(ranks), "micro_batch_rows": rows}


PLAN = {
    "engine": "executor",
    "schedule": "zb-h1",
    "micro_batches": 4,
    "stages": [
        {"layers": [0, 6], "replicas": [replica([0], 2)]},
        {"layers": [6, 11], "replicas": [replica([1], 1), replica([2], 1)]},
    ],
    "ranks": [{"node": "one/0", "device": 0}, {"node": "two/0", "device": 0}, {"node": "two/0", "device": 1}],
}


def nebula(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "nebula.cli.main", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )
    return done.returncode, done.stdout, done.stderr


def test_unlike_stages_are_rehearsed(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan()))
    code, out, err = nebula(tmp_path, "rehearse", "run.yaml", "--plan", "plan.json", "--steps", "3", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["holds"]
    assert found["loss_difference"] <= 1e-5
    assert abs(found["error_pct"]) <= 10
    assert 0.5 < found["measured_on_shared_links_s"] / found["measured_s"] <= 1.0
    assert [row["stages"] for row in found["stages"]] == [[0], [1]]
    assert (tmp_path / "rehearsals" / "ernie-3.0-small" / "split" / "trace.json").is_file()


def whole_plan():
    job = {"global_batch": 8, "precision": "fp32", "optimizer": "adamw"}
    return {"format": "nebula-plan/1", "job": job, **PLAN}


ONE, OTHERS = PLAN["stages"][0]["replicas"], PLAN["stages"][1]["replicas"]
WRONG = {
    "rank 9": {"stages": [PLAN["stages"][0], {"layers": [6, 11], "replicas": [replica([1], 1), replica([9], 1)]}]},
    "0 micro-batches": {"micro_batches": 0},
    "it leaves out layers": {"stages": [PLAN["stages"][0], {"layers": [7, 11], "replicas": OTHERS}]},
    "interleaved has it on 1": {
        "schedule": "interleaved",
        "stages": [
            {"layers": [3 * i, min(3 * i + 3, 11)], "replicas": held}
            for i, held in enumerate((ONE, ONE, OTHERS, OTHERS))
        ],
    },
    "fleet needs stages alike": {"engine": "fleet", "schedule": "1f1b"},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_plan_that_is_not_legal_is_refused_before_anything_runs(tmp_path, words):
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan() | WRONG[words]))
    code, out, err = nebula(tmp_path, "rehearse", "run.yaml", "--plan", "plan.json", "--json")
    assert (code, out) == (2, "")
    assert "not legal" in err
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "rehearsals").exists()


EXPERTS = {
    "engine": "executor",
    "schedule": "interleaved",
    "micro_batches": 2,
    "stages": [
        {"layers": [3 * i, 3 * i + 3], "replicas": [replica([0, 1], 4)], "context": 2, "expert": 2} for i in range(2)
    ],
    "ranks": [{"node": "two/0", "device": 0}, {"node": "two/0", "device": 1}],
}


@pytest.mark.slow
def test_a_decoder_with_experts_is_rehearsed(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN.replace("ernie-3.0-small", "ernie-4.5-small"))
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan() | EXPERTS))
    code, out, err = nebula(tmp_path, "rehearse", "run.yaml", "--plan", "plan.json", "--steps", "3", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["holds"]
    assert found["split"].startswith("data 1 · tensor 1 · context (ring) 2 · expert 2")


def test_a_device_that_fails_ends_a_rehearsal_with_its_rank(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan()))
    fault = ("--fault", "fail:1@2")
    code, out, err = nebula(tmp_path, "rehearse", "run.yaml", "--plan", "plan.json", "--steps", "3", *fault)
    assert (code, out) == (4, "")
    assert "rank 1 failed" in err


MANY = RUN.replace(
    "count: 1, device: slow, devices_per_node: 2", "count: 1, device: slow, devices_per_node: 64"
).replace("count: 1, device: quick, devices_per_node: 1", "count: 1, device: quick, devices_per_node: 32")
QUICK, SLOW = ([{"node": f"{name}/0", "device": i} for i in range(count)] for name, count in (("one", 32), ("two", 64)))


@pytest.mark.slow
def test_unlike_stages_of_many_ranks_run_folded_and_all_of_them_are_walked(tmp_path):
    (tmp_path / "run.yaml").write_text(MANY.replace("global_batch: 8", "global_batch: 128"))
    stages = [
        {"layers": [0, 6], "replicas": [replica([rank], 1) for rank in range(32)]},
        {"layers": [6, 11], "replicas": [replica([32 + 4 * i + j for j in range(4)], 2) for i in range(16)]},
    ]
    job = {"global_batch": 128, "precision": "fp32", "optimizer": "adamw"}
    plan = whole_plan() | {"stages": stages, "micro_batches": 4, "ranks": [*QUICK, *SLOW], "job": job}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ("rehearse", "run.yaml", "--plan", "plan.json", "--steps", "3", "--json")
    code, out, err = nebula(tmp_path, *words)
    assert code == 0, err
    found = json.loads(out)
    assert (found["whole_plan_ranks"], found["whole_plan_waits"]) == (96, "")
    assert any("of 16 alike parts of the replicas of every stage 2 ran" in each for each in found["does_not_show"])


@pytest.mark.slow
def test_titan_on_1920_devices_is_rehearsed_on_sixteen(tmp_path):
    code, out, err = nebula(ROOT, "rehearse", "examples/titan-1920.yaml", "-o", tmp_path / "titan", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["holds"]
    assert (found["whole_plan_ranks"], found["whole_plan_waits"]) == (1920, "")
    assert any("replicas" in each for each in found["does_not_show"])


def test_a_model_without_layers_of_ours_is_refused_before_the_search(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN.replace("ernie-3.0-small", "deepseek-v3"))
    code, _, err = nebula(tmp_path, "rehearse", "run.yaml")
    assert code == 2
    assert err.splitlines() == [err.strip()]
    assert "latent attention" in err
