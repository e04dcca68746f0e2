"""The small ERNIE trained by nebula.launch.training: split as it is alone, timelines, a device that is too small."""

import io
import json

import numpy as np
import pytest
import toy_plans
from safetensors.numpy import load_file

from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup
from nebula.errors import RunFailed
from nebula.launch.training import train
from nebula.plan.files import save_plan
from nebula.runtime.training import Training

TRAINING = Training(
    preset="ernie-3.0-small",
    seq_len=16,
    steps=20,
    learning_rate=2e-3,
    epsilon=1e-6,  # above the rounding of gradients that are zero, or Adam makes steps of it
    evaluate=False,
)
MICRO_BATCHES = 2


def cluster(**device):
    shown = {
        "name": "toy",
        "kind": "npu",
        "peak_flops": {"float32": 1e12},
        "memory_bytes": 2**30,
        "memory_bytes_per_s": 1e11,
        "emulated": True,
    }
    link = Link(kind="pcie", bytes_per_s=1e10, latency_s=5e-6)
    kind = DeviceType(**(shown | device))
    return Cluster(
        name="toy", groups=(NodeGroup(name="host", count=1, device=kind, devices_per_node=4, intra=link, nic=link),)
    )


def run(folder, where, **split):
    folder.mkdir()
    save_plan(toy_plans.plan(rows=8, **split), folder / "plan.json")
    out = io.StringIO()
    assert train(folder / "plan.json", TRAINING, run_dir=folder, cluster=where, out=out) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ernie")
    run(folder / "serial", cluster(kind="cpu", emulated=False), stages=(0, 11), micro_batches=1)
    split = {"tensor": 2, "stages": (0, 5, 11), "micro_batches": MICRO_BATCHES, "recompute": "selective"}
    out = run(folder / "split", cluster(), **split)
    return folder, out


def steps(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_small_ernie_learns_split_as_it_does_alone(runs):
    folder, _ = runs
    serial, split = ([step["loss"] for step in steps(folder / name)] for name in ("serial", "split"))
    assert np.mean(serial[-5:]) < 0.93 * serial[0]
    assert max(abs(a - b) / b for a, b in zip(split, serial, strict=True)) < 1e-5
    alone, gathered = (load_file(folder / name / "weights.safetensors") for name in ("serial", "split"))
    assert set(alone) == set(gathered)
    assert sum(array.size for array in gathered.values()) >= 8_000_000
    assert max(float(np.abs(alone[name] - gathered[name]).max()) for name in alone) < 1e-4


def test_every_step_is_one_line_that_names_its_clock(runs):
    folder, out = runs
    lines = out.splitlines()
    assert len(lines) == TRAINING.steps
    assert all(line.startswith(f"step {i} · loss ") for i, line in enumerate(lines, start=1))
    assert all("tok/s" in line and "(virtual)" in line for line in lines)
    assert {step["clock"] for step in steps(folder / "split")} == {"virtual"}
    assert {step["clock"] for step in steps(folder / "serial")} == {"wall"}


def test_virtual_steps_take_the_same_time(runs):
    took = [step["took_s"] for step in steps(runs[0] / "split")][2:]
    assert max(took) - min(took) < 1e-9 + 1e-6 * max(took)


def test_timelines_hold_every_micro_batch_and_the_devices_log(runs):
    values = [json.loads((runs[0] / "split" / f"timeline.{rank}.json").read_text()) for rank in range(4)]
    for rank, value in enumerate(values):
        assert (value["rank"], value["stage"], value["clock"]) == (rank, rank // 2, "virtual")
        done = sorted((span["kind"], span["micro_batch"]) for span in value["spans"])
        assert done == [("B", 0), ("B", 1), ("F", 0), ("F", 1), ("update", -1)]
        assert all(0 <= s["start_s"] <= s["end_s"] <= 1.5 * value["step_s"] for s in value["spans"])
        assert {event["kind"] for event in value["events"]} >= {"kernel", "collective"}
    first, second = (value["spans"] for value in values[::2])
    forward = {name: next(s for s in spans if s["kind"] == "F") for name, spans in (("up", first), ("down", second))}
    assert forward["up"]["end_s"] <= forward["down"]["start_s"]


def test_a_device_that_is_too_small_ends_the_run_with_its_reason(tmp_path):
    with pytest.raises(RunFailed, match=r"rank \d failed\b.*[Oo]ut of memory"):
        run(tmp_path / "small", cluster(memory_bytes=24 * 2**20), tensor=2, stages=(0, 11), micro_batches=1)
