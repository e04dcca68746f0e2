"""Does the graph know what Paddle keeps, and what it launches in both directions? Ten Layers on the emulated device."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from emulated_run import DEVICE

from nebula.emulator import environment
from nebula.emulator.table import write_table

NAMES = ("mlp with dropout", "encoder layer", "gpt", "llama", "experts")
NAMES += ("small ernie", "resnet18", "mobilenet", "vision transformer", "lstm")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    roomy = dataclasses.replace(DEVICE, memory_bytes=2**30)
    table = write_table(tmp_path_factory.mktemp("saved") / "devices.txt", [roomy], {})
    env = os.environ | environment(table) | {"GLOG_minloglevel": "2", "OMP_NUM_THREADS": "1"}
    worker = Path(__file__).with_name("saved_memory_worker.py")
    done = subprocess.run([sys.executable, str(worker)], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(found) == set(NAMES)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_kept_bytes_are_within_five_percent(answers: dict[str, Any], name: str) -> None:
    found = answers[name]
    print(f"{name}: measured {found['measured']} B, predicted {found['predicted']} B")
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.05)
    assert found["assumed"] == []


@pytest.mark.parametrize("name", NAMES)
def test_products_have_the_flops_that_the_device_records(answers: dict[str, Any], name: str) -> None:
    launched, foretold = answers[name]["launched"], answers[name]["foretold"]
    assert [flops for flops, _ in foretold] == [flops for flops, _ in launched]


@pytest.mark.parametrize("name", NAMES)
def test_moved_bytes_are_within_five_percent(answers: dict[str, Any], name: str) -> None:
    for (_, moved), (_, expected) in zip(answers[name]["launched"], answers[name]["foretold"], strict=True):
        assert expected == pytest.approx(moved, rel=0.05)
