"""The largest dry run: tracing ERNIE 3.0 Titan (260 B parameters) and planning it on 1,920 Ascend 910."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.rows import Row, child_floats, median_seconds

TRACE = """
import re, time
import paddle
from paddle.static import InputSpec
from nebula.graph.capture import About, capture
from nebula.models.ernie import chain
from nebula.models.presets import preset

config = preset("ernie-3.0-titan")

def peak_megabytes():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1e3

before = peak_megabytes()
start = time.perf_counter()
with paddle.LazyGuard():
    layers = chain(config)
ids = InputSpec([None, 2, config.seq_len], "int64", "ids")
capture(layers, [ids], About(name="ernie-3.0-titan", tokens_per_row=2 * config.seq_len))
print(time.perf_counter() - start, peak_megabytes() - before)
"""


def rows() -> list[Row]:
    """Seconds and peak memory of tracing, and seconds of the command line's planning; medians of 3 processes."""
    seconds, megabytes = child_floats(TRACE, 3)
    nebula = str(Path(sys.executable).parent / "nebula")
    plan_s = median_seconds([nebula, "plan", "examples/titan-1920.yaml", "--json"], 3)
    return [
        Row(name="tracing Titan, import of Paddle apart", value=seconds, unit="s", promise=3),
        Row(name="memory that tracing Titan adds", value=megabytes, unit="MB", promise=500),
        Row(name="nebula plan, Titan on 1,920 Ascend 910", value=plan_s, unit="s", promise=10),
    ]
