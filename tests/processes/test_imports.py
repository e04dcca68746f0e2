"""What the pure part may cost and touch when it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

PURE = (
    *(
        "nebula.graph.values",
        "nebula.graph.partition",
        "nebula.cluster.topology",
        "nebula.cluster.places",
        "nebula.cluster.identity",
    ),
    *("nebula.plan.legality", "nebula.plan.files", "nebula.cost_model.evaluate", "nebula.planner.search"),
)
"""Not the edge modules that read files people write (cluster.schema, plan.run_file): they bring pydantic."""
BLOCK = "import sys; sys.modules['paddle'] = None; "


def child(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_pure_part_imports_without_paddle_and_sockets():
    code = BLOCK + f"import {', '.join(PURE)}; print('socket' in sys.modules, 'asyncio' in sys.modules)"
    assert child(code).split() == ["False", "False"]


def test_importing_nebula_does_not_import_paddle():
    assert child("import sys, nebula; print('paddle' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("folder", ["planner", "cost_model", "models", "deploy"])
def test_root_folders_refuse_a_bare_import(folder):
    code = f"import sys; sys.path.insert(0, '.')\ntry:\n import {folder}\nexcept ImportError as e: print(e)"
    assert f"import nebula.{folder}" in child(code)


def import_seconds() -> tuple[float, float]:
    """Processor seconds of importing numpy, and of importing all of the pure part, numpy included."""
    clock = "import time; start = time.process_time(); "
    told = "print(after_numpy - start, time.process_time() - start)"
    code = BLOCK + clock + f"import numpy; after_numpy = time.process_time(); import {', '.join(PURE)}; {told}"
    numpy_s, all_s = map(float, child(code).split())
    return numpy_s, all_s


def test_the_pure_part_imports_nothing_heavy():
    """`make bench` holds the promised 250 ms (about 2.5 times numpy's on an idle machine); one heavy library more, such
    as pydantic, makes it 5 times, on a loaded machine too."""
    assert min(all_s / numpy_s for numpy_s, all_s in (import_seconds() for _ in range(7))) < 4
