"""Runs every benchmark (or those named as arguments) and prints one table: a line a figure, with what is promised."""

from __future__ import annotations

import importlib
import os
import sys

from tests.bench.rows import HEADER, Row

BENCHMARKS = (
    "start_up",
    "titan",
    "searching",
    "replan",
    "pricing",
    "exploring",
    "mixed",
    "published",
    "cpu_step",
    "emulated",
    "experts",
    "heldout",
    "overhead",
    "perturbed",
    "recovery",
    "replicas",
    "goodput",
    "agents",
    "stalls",
    "alarms",
    "hangs",
)


def main() -> int:
    """Print all rows; 1 when a promise was missed."""
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    print(HEADER)
    promised: list[Row] = []
    for name in sys.argv[1:] or BENCHMARKS:
        module = importlib.import_module(f"tests.bench.{name}")
        print(f"-- {name}: {str(module.__doc__).partition(chr(10))[0]}", flush=True)
        for row in module.rows():
            print(row.text(), flush=True)
            promised += [row] if row.promise is not None else []
    missed = [row for row in promised if row.missed]
    print(f"{len(promised) - len(missed)} of {len(promised)} promises kept")
    for row in missed:
        print(f"missed: {row.name}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
