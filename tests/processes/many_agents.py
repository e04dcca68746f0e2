"""A job of many nodes: a real controller under mutual TLS, and processes full of agents without workers."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
from elastic_job import Job

PATIENCE_S = 120.0
RUN = """
model: {{preset: ernie-3.0-small, seq_len: 16}}
cluster:
  name: many
  devices: {{core: {{like: cpu, peak_flops: {{fp32: 1e9}}}}}}
  nodes:
    - name: host
      count: COUNT
      device: core
      devices_per_node: 1
      intra: {{kind: memory, bandwidth: 10GB/s, latency: 10us}}
      nic: {{count: 1, bandwidth: 10GB/s}}
  network: {{tiers: [{{name: leaf, nodes: COUNT, oversubscription: 1, latency: 10us}}]}}
job: {{global_batch: ROWS, steps: {steps}, precision: fp32}}
checkpoint: {{every: {every}}}
"""


class Load:
    """A process full of agents; what it says is read by a thread.

    Attributes:
        broken: what was said of sessions that were refused or broke.
    """

    def __init__(self, *words: str) -> None:
        script = Path(__file__).with_name("light_agents.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.broken: list[str] = []
        self._told: list[tuple[int, float]] = []
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def told(self, after: int) -> tuple[int, float]:
        """The first generation after another that all of its agents were told to begin, and when they were."""
        while True:
            if found := next((one for one in self._told if one[0] > after), None):
                return found
            try:
                self._take(self._said.get(timeout=PATIENCE_S))
            except queue.Empty:
                said = f"no generation after {after} in {PATIENCE_S:.0f} s, but {self._told} and {self.broken[:5]}"
                raise AssertionError(said) from None

    def fail(self, tail_bytes: int) -> None:
        """Has all ranks fail, each with the end of a log."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{tail_bytes}\n".encode())
        self.process.stdin.flush()

    def kill(self) -> None:
        """All of its agents are gone at once."""
        self.process.kill()
        self.process.wait()

    def _take(self, said: dict[str, Any]) -> None:
        if "generation" in said:
            self._told.append((said["generation"], said["at_s"]))
        else:
            self.broken.append(said["broken"])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(json.loads(line))


def both(one: Load, other: Load, after: int = 0) -> tuple[int, float]:
    """The first generation after another that all agents of two processes were told to begin, and when they were."""
    told = {load: load.told(after) for load in (one, other)}
    while told[one][0] != told[other][0]:
        behind = min(told, key=lambda load: told[load][0])
        told[behind] = behind.told(told[behind][0])
    return told[one][0], max(at_s for _, at_s in told.values())


class ManyAgents:
    """A controller for so many nodes, and the processes that hold their agents."""

    def __init__(self, folder: Path, count: int) -> None:
        run = RUN.replace("COUNT", str(count)).replace("ROWS", str(4 * count))
        self.job = Job(folder, steps=1_000_000, every=1000, nodes=f"{count // 2}:{count}", run=run, secure=True)
        assert self.job.start("certs", "cert", "init").wait() == 0
        self.job.controller()
        self.controller = psutil.Process(self.job.processes["controller"].pid)
        self.loads: list[Load] = []

    def load(self, first: int, count: int) -> Load:
        """Agents of such numbers, in a process of their own."""
        load = Load(f"127.0.0.1:{self.job.port}", str(self.job.folder / "certs"), str(first), str(count))
        self.loads.append(load)
        return load

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What has happened of a kind."""
        return [event for event in map(json.loads, self.job.events()) if event["kind"] == kind]

    def megabytes(self) -> float:
        """That the controller holds."""
        return float(self.controller.memory_info().rss) / 1e6

    def peak_megabytes(self) -> float:
        """The most that it has held."""
        status = Path(f"/proc/{self.controller.pid}/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0]) / 1e3

    def close(self) -> None:
        """Ends all that is left."""
        for load in self.loads:
            load.kill()
        self.job.close()
