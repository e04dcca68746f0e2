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


def test_the_pure_part_imports_numpy_and_the_standard_library_alone():
    """How long that takes is held by `make bench`: 250 ms."""
    names = "{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names"
    code = BLOCK + f"before = set(sys.modules); import {', '.join(PURE)}; print(*sorted({names}))"
    assert child(code).split() == ["nebula", "numpy"]
