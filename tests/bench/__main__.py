"""Runs every benchmark (or those named as arguments) and prints one line a figure."""

from __future__ import annotations

import importlib
import os
import sys

BENCHMARKS = ("start_up", "titan", "planning", "pricing", "replan", "cpu_step")


def main() -> int:
    """Print all rows; 1 when a promise was missed."""
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    missed = False
    for name in sys.argv[1:] or BENCHMARKS:
        for row in importlib.import_module(f"tests.bench.{name}").rows():
            print(row.text(), flush=True)
            missed |= row.missed
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
