"""Runs the test tiers one after the other, each with the parallelism that it stands, and prints how long each took."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# tier -> pytest-xdist workers: tests of emulated devices keep all cores busy, so they run one after the other
TIERS = {"pure": 2, "paddle": 2, "processes": 2, "emulated": 0}


def run(tier: str, workers: int, select: list[str]) -> tuple[int, float]:
    """Exit code (no test found counts as fine) and seconds of one tier."""
    parallel = ["-n", str(workers), "--dist", "worksteal"] if workers else []
    start = time.monotonic()
    code = subprocess.call(
        [sys.executable, "-m", "pytest", f"tests/{tier}", "--durations=15", *parallel, *select], cwd=ROOT
    )
    return (0 if code == 5 else code), time.monotonic() - start


def main() -> int:
    """Run all tiers; the first exit code that is not 0 is ours."""
    select = ["--hypothesis-profile=thorough"] if "--all" in sys.argv else ["-m", "not slow"]
    rows = []
    for tier, workers in TIERS.items():
        print(f"== {tier}", flush=True)
        rows.append((tier, *run(tier, workers, select)))
    for tier, code, seconds in rows:
        print(f"{tier:10} {'passed' if code == 0 else 'FAILED'}  {seconds:6.1f} s")
    return next((code for _, code, _ in rows if code), 0)


if __name__ == "__main__":
    sys.exit(main())
