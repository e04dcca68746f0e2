"""A disk or a memory that is full in the middle of a write, real ones: it fails in words, and nothing torn is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk_script.py")


def test_a_full_disk_fails_one_save_which_leaves_nothing_behind(tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    words = ["unshare", "-m", sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, third, left = done.stdout.splitlines()
    assert (first, third) == ("1 saved", "3 saved")
    assert "rank-00001.safetensors cannot be written: No space left on device | commit: rank 1: " in second
    assert left == "['step-00000001', 'step-00000003']"


def test_a_copy_that_memory_has_no_room_for_kills_nobody_and_the_one_before_stays(tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small memory (root)")
    script = SCRIPT.with_name("small_memory_script.py")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.splitlines() == ["1 holds 1", "2 No space left on device", "2 holds 1", "3 holds 3"]
