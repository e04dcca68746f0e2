"""How long a person waits before anything happens."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.rows import Row, child_floats, median_seconds

PURE = (
    "nebula.graph.values, nebula.cluster.topology, nebula.cluster.identity, nebula.plan.legality, nebula.plan.files, "
    "nebula.cost_model.evaluate, nebula.planner.search"
)
IMPORT = (
    "import sys, time; sys.modules['paddle'] = None; t = time.perf_counter(); "
    f"import {PURE}; print(1e3 * (time.perf_counter() - t))"
)


def rows() -> list[Row]:
    """Help text and import of the pure part, medians of 9 fresh processes."""
    nebula = str(Path(sys.executable).parent / "nebula")
    return [
        Row(name="nebula --help", value=1e3 * median_seconds([nebula, "--help"]), unit="ms", promise=300),
        Row(name="import of the pure part, paddle blocked", value=child_floats(IMPORT, 9)[0], unit="ms", promise=250),
    ]
