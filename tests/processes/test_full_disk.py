"""A disk that is full in the middle of a save, a real one: the save fails in words, and nothing of it is left."""

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
