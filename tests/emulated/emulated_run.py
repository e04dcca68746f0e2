"""How do the tests of the emulator start a program on emulated devices and read what it found?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebula.emulator import environment
from nebula.emulator.table import EmulatedDevice, Link, write_table

DEVICE = EmulatedDevice(
    memory_bytes=64 * 2**20,
    float32_flops_per_s=1e12,
    bfloat16_flops_per_s=4e12,
    float16_flops_per_s=2e12,
    memory_bytes_per_s=1e11,
    kernel_s=5e-6,
    host_bytes_per_s=1e10,
)


@dataclass(frozen=True)
class Outcome:
    """What a program left behind: its exit code, the JSON of each rank, and each rank's output."""

    exit_code: int
    answers: list[Any]
    outputs: list[str]


@contextmanager
def busy_host() -> Iterator[None]:
    """More work than this machine has cores for, while the block runs."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def start_environment(
    folder: Path, links: Mapping[tuple[int, int], Link], devices: int, patience_s: float
) -> dict[str, str]:
    table = write_table(folder / "devices.txt", [DEVICE] * devices, links, patience_s=patience_s)
    quiet = {"GLOG_minloglevel": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return os.environ | environment(table) | quiet


def run_alone(program: str, folder: Path, *words: str, timeout_s: float = 120) -> Outcome:
    """Runs tests/emulated/<program> in one process; it prints one JSON value as its last line."""
    path = Path(__file__).with_name(program)
    done = subprocess.run(
        [sys.executable, str(path), *words],
        env=start_environment(folder, {}, 1, 60),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    text = done.stdout + done.stderr
    answers = [json.loads(done.stdout.strip().splitlines()[-1])] if done.returncode == 0 else []
    return Outcome(done.returncode, answers, [text])


def run_ranks(
    program: str,
    folder: Path,
    ranks: int,
    links: Mapping[tuple[int, int], Link],
    *words: str,
    patience_s: float = 100,
    timeout_s: float = 150,
) -> Outcome:
    """Runs a program under paddle.distributed.launch; rank r writes its JSON to <folder>/answer.r."""
    logs = folder / "logs"
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", str(logs)]
    launch += ["--devices", ",".join(map(str, range(ranks)))]
    started = subprocess.Popen(
        [*launch, str(Path(__file__).with_name(program)), str(folder), *words],
        env=start_environment(folder, links, ranks, patience_s),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        exit_code = started.wait(timeout_s)
    except subprocess.TimeoutExpired:
        started.terminate()  # the launcher ends its workers, which live in sessions of their own
        started.wait(20)
        raise
    outputs = [(logs / f"workerlog.{rank}").read_text() for rank in range(ranks)]
    paths = [folder / f"answer.{rank}" for rank in range(ranks)]
    answers = [json.loads(path.read_text()) if path.is_file() else None for path in paths]
    return Outcome(exit_code, answers, outputs)
