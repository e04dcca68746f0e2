"""Is one emulated device exact, rightly priced, limited in memory, and untouched by the host's load?"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from emulated_run import DEVICE, Outcome, busy_host, run_alone

from nebula.emulator import environment

F32 = 4


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    done = run_alone("device_checks.py", tmp_path_factory.mktemp("device"))
    assert done.exit_code == 0, done.outputs[0][-3000:]
    return done


@pytest.fixture(scope="module")
def answers(outcome: Outcome) -> dict[str, Any]:
    return outcome.answers[0]


def seconds(flops: float, moved_bytes: float, peak: float = DEVICE.float32_flops_per_s) -> float:
    """The price of one kernel, written out again."""
    return DEVICE.kernel_s + max(flops / peak, moved_bytes / DEVICE.memory_bytes_per_s)


def matches(event: dict[str, Any], flops: float, moved_bytes: float, lasts: float | None = None) -> bool:
    expected = seconds(flops, moved_bytes) if lasts is None else lasts
    assert (event["flops"], event["bytes"]) == (flops, moved_bytes), event
    return math.isclose(event["seconds"], expected, rel_tol=1e-9)


def test_training_is_bit_identical_to_the_cpu(answers: dict[str, Any]) -> None:
    training = answers["training"]
    assert training["device"] == training["cpu"]
    losses = [float.fromhex(loss) for loss in training["cpu"]["losses"]]
    assert losses[-1] < 0.8 * losses[0]


def test_virtual_time_is_the_same_on_a_loaded_host(answers: dict[str, Any], tmp_path: Path) -> None:
    with busy_host():
        loaded = run_alone("device_checks.py", tmp_path, "training")
    assert loaded.answers[0]["training"]["virtual_s"] == answers["training"]["virtual_s"]
    assert float.fromhex(answers["training"]["virtual_s"]) > 0


def test_products_cost_their_flops(answers: dict[str, Any]) -> None:
    prices = answers["prices"]
    (plain,) = prices["plain"]
    assert matches(plain, 2 * 24 * 32 * 16, F32 * (24 * 32 + 32 * 16 + 24 * 16))
    (broadcast,) = prices["broadcast_transposed"]
    assert matches(broadcast, 2 * 6 * 8 * 8 * 16, F32 * (6 * 8 * 16 + 2 * 8 * 16 + 6 * 8 * 8))
    (vector,) = prices["vector"]
    assert matches(vector, 2 * 64 * 2048, F32 * (64 * 2048 + 2048 + 64))
    assert [event["flops"] for event in prices["einsum"]] == [plain["flops"]]
    assert sum(event["flops"] for event in prices["einsum_grad"]) == 2 * plain["flops"]
    assert sum(event["flops"] for event in prices["einsum_dots"]) == broadcast["flops"]
    assert prices["recurrent"][0]["flops"] == 2 * (4 * 7) * (32 + 16) * (4 * 16)
    assert prices["linear"][0]["flops"] == 2 * 5 * 64 * 2048


def test_gradients_cost_only_the_products_that_are_computed(answers: dict[str, Any]) -> None:
    both, one = answers["prices"]["plain_grad"][0], answers["prices"]["frozen_grad"][0]
    x, w, out = 24 * 32, 32 * 16, 24 * 16
    flops, moved = 2 * 24 * 32 * 16, F32 * (x + w + out)
    assert matches(both, 2 * flops, 2 * moved, lasts=2 * seconds(flops, moved))
    assert matches(one, flops, moved)


def test_convolutions_cost_their_flops(answers: dict[str, Any]) -> None:
    prices = answers["prices"]
    taps, out = 3 * 3 * 3, 2 * 8 * 8 * 8
    image, filters = 2 * 3 * 10 * 10, 8 * taps
    assert matches(prices["conv"][0], 2 * out * taps, F32 * (image + filters + out))
    assert prices["conv_grad"][0]["flops"] == 2 * 2 * out * taps
    assert prices["conv_grouped"][0]["flops"] == 2 * (6 * 3 * 3) * 9
    assert prices["conv_transposed"][0]["flops"] == 2 * image * (8 * 9)


def test_lookups_move_rows_and_not_the_table(answers: dict[str, Any]) -> None:
    prices = answers["prices"]
    rows, ids = F32 * 3 * 32, 3 * 8
    assert matches(prices["lookup"][0], 0, 2 * rows + ids)
    assert matches(prices["lookup_grad"][0], 0, F32 * 1000 * 32 + rows + ids)


def test_other_kernels_cost_their_bytes_and_views_nothing(answers: dict[str, Any]) -> None:
    (sum_,) = answers["prices"]["sum"]
    assert matches(sum_, 0, 2 * F32 * 64 * 2048)  # the same tensor twice is read once
    assert answers["prices"]["views"] == []
    (moved,) = answers["prices"]["moved"]
    assert matches(moved, 0, 2 * F32 * 64 * 2048)


def test_a_gradient_that_is_passed_on_is_not_written_again(answers: dict[str, Any]) -> None:
    add_grad = answers["prices"]["sum_grad"][0]
    assert add_grad["name"] == "add_grad"
    assert matches(add_grad, 0, F32 * (64 * 2048 + 2048))  # the bias's share; the other lies where the incoming lies


def test_a_missing_or_damaged_table_is_named(tmp_path: Path) -> None:
    for text in (None, "nebula-emulated-devices 1\ndevice 0 12 34\n"):
        table = tmp_path / "devices.txt"
        if text is not None:
            table.write_text(text)
        code = "import paddle; print(paddle.device.get_all_custom_device_type())"
        env = os.environ | environment(table)
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        wrong = "cannot be read" if text is None else "line 2: a device has an index and seven numbers"
        assert f"{table}" in done.stderr
        assert f"{wrong}; no emulated device is available" in done.stderr


def test_writes_through_views_arrive(answers: dict[str, Any]) -> None:
    assert answers["aliases"] == {
        "slice": [0, 1, 1, 0],
        "reshape": [1, 1, 1, 1],
        "_slice": [0, 1, 1, 0],
        "detach": [1, 1, 1, 1],
        "shared": [1, 1, 1, 1],
    }


def test_outputs_lie_on_the_device(answers: dict[str, Any]) -> None:
    assert answers["places"] == ["Place(sim_npu:0)"] * 2


def test_memory_ends_at_the_limit_with_one_clear_line(outcome: Outcome) -> None:
    memory = outcome.answers[0]["memory"]
    assert 0 <= memory["grown"] - 4 * 2**22 < 2**16
    assert "Out of memory" in memory["raised"]
    assert memory["again"] == 2**20
    assert memory["peak"] <= DEVICE.memory_bytes
    lines = [line for line in outcome.outputs[0].splitlines() if line.startswith("[sim_npu]")]
    assert len(lines) == 1
    assert f"device sim_npu:0 is out of memory: asked for {2**26}" in lines[0]
    assert f"of its limit of {DEVICE.memory_bytes} bytes" in lines[0]


def test_the_log_holds_work_between_its_marks(answers: dict[str, Any]) -> None:
    events = answers["log"]["events"]
    assert [event[:2] for event in events] == [
        ["MARK", "forward 0"],
        ["KERNEL", "full"],
        ["MARK", "forward 0 done"],
        ["KERNEL", "sum"],
        ["COPY", "copy_to_host"],
    ]
    assert events[1][2] == events[0][2]
    assert events[1][3] == events[2][2]
    assert answers["log"]["left"] == 0
