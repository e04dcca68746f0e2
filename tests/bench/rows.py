"""One measured figure beside what is promised, and how a child process is timed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from nebula.elastic.agent.hang import percentile

HEADER = f"{'figure':60} {'value':>10} {'unit':6} {'promised, reported':18} kept"
"""Names of the columns of `Row.text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure: `value` in `unit`, at most `promise` where one was made, or at least where more is better.

    `reported` is what others measured or said, which nothing is held to.
    """

    name: str
    value: float
    unit: str
    promise: float | None = None
    more_is_better: bool = False
    reported: float | None = None

    @property
    def missed(self) -> bool:
        """Whether a promise was not kept."""
        if self.promise is None:
            return False
        return self.value < self.promise if self.more_is_better else self.value > self.promise

    def text(self) -> str:
        """One line for people."""
        sign = "≥" if self.more_is_better else "≤"
        promise = "" if self.promise is None else f"{sign} {self.promise:g} {self.unit}"
        if self.reported is not None:
            promise = f"paper: {self.reported:g} {self.unit}"
        verdict = "" if self.promise is None else ("MISSED" if self.missed else "ok")
        return f"{self.name:60} {self.value:10.4g} {self.unit:6} {promise:18} {verdict}".rstrip()


def spread(
    name: str, taken_s: Sequence[float], *, middle_s: float | None = None, most_s: float | None = None
) -> list[Row]:
    """Median, 95th percentile and most of what something took again and again, with what is promised of them."""
    return [
        Row(name=f"{name}, median of {len(taken_s)}", value=statistics.median(taken_s), unit="s", promise=middle_s),
        Row(name=f"{name}, p95", value=percentile(taken_s, 0.95), unit="s"),
        Row(name=f"{name}, most", value=max(taken_s), unit="s", promise=most_s),
    ]


def say_load(what: str) -> None:
    """Says how busy the machine is, beside the table: all of these figures depend on it."""
    print(f"   {what}: load {os.getloadavg()[0]:.1f}", flush=True)


def median_seconds(command: list[str], repeats: int = 9) -> float:
    """Median wall seconds of a command's run; its output is dropped."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(repeats))


class Memory:
    """The peak of this process and those that it forks together, looked at ten times a second while it is entered.

    Attributes:
        peak_megabytes: of what all hold, pages that several share counted once.
    """

    def __init__(self) -> None:
        self.peak_megabytes = 0.0
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._looking.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            children = (each.read_text().split() for each in Path("/proc/self/task").glob("*/children"))
            now = sum(_held_megabytes(pid) for pid in ("self", *chain.from_iterable(children)))
            self.peak_megabytes = max(self.peak_megabytes, now)


def _held_megabytes(pid: str) -> float:
    """What a process holds, its share of pages that it shares; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def child_floats(code: str, repeats: int = 1) -> list[float]:
    """What a fresh interpreter prints, as floats: the median of each over the repeats."""
    env = {**os.environ, "GLOG_minloglevel": "2"}

    def once() -> list[float]:
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout
        return [float(v) for v in out.strip().splitlines()[-1].split()]

    return [statistics.median(column) for column in zip(*(once() for _ in range(repeats)), strict=True)]
