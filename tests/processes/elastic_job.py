"""An elastic job of real processes on this machine: a controller, agents, their workers; what tests do to them."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

RUN = """
model: {{preset: ernie-3.0-small, seq_len: 16}}
cluster:
  name: two
  devices: {{core: {{like: cpu, peak_flops: {{fp32: 2e10}}}}}}  # slow enough for two nodes to be worth while
  nodes:
    - name: host
      count: 2
      device: core
      devices_per_node: 1
      intra: {{kind: memory, bandwidth: 10GB/s, latency: 10us}}
      nic: {{count: 1, bandwidth: 10GB/s}}
  network: {{tiers: [{{name: leaf, nodes: 2, oversubscription: 1, latency: 10us}}]}}
job: {{global_batch: 2, steps: {steps}, precision: fp32}}
checkpoint: {{every: {every}}}
"""


class Job:
    """Starts processes in a folder; `close` ends what is left of them."""

    def __init__(self, folder, *, steps=40, every=10, nodes="1:2", options=(), run=RUN, secure=False):
        self.folder, self.nodes, self.options = Path(folder), nodes, options
        (self.folder / "run.yaml").write_text(run.format(steps=steps, every=every))
        self.processes, self.port = {}, 0
        self.agent_options, self.secure, self.environment = [], secure, {}

    def start(self, name, *words, env=None):
        """Starts `nebula WORDS`, its output in NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "nebula.cli.main", *map(str, words)],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment, **(env or {})},
            )
        return self.processes[name]

    def controller(self, name="controller", *more):
        """Starts a controller and waits until it says its port."""
        log = self.folder / f"{name}.log"
        seen = log.stat().st_size if log.exists() else 0
        listen = f"127.0.0.1:{self.port}"
        words = ("--nodes", self.nodes, "--listen", listen, "-o", "run", *self._trust("certs"), *self.options, *more)
        self.start(name, "controller", "run.yaml", *words)
        self.port = int(
            self.wait(lambda: re.search(r"on port (\d+)", log.read_bytes()[seen:].decode(errors="replace")), 60, name)[
                1
            ]
        )
        return self

    def _trust(self, certs):
        return ("--certs", certs) if self.secure else ("--insecure",)

    def agents(self, *names, certs="certs"):
        """Starts an agent of each name."""
        for name in names:
            at = f"127.0.0.1:{self.port}"
            self.start(name, "agent", "--controller", at, "--name", name, *self._trust(certs), *self.agent_options)
        return self

    def log(self, name="controller"):
        return (self.folder / f"{name}.log").read_text()

    def wait(self, answer, timeout_s, *logs):
        """Waits for an answer that counts as true; says what the logs hold where it does not come."""
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                found = answer()
            except (OSError, psutil.Error):
                found = None
            if found:
                return found
            if time.monotonic() > until_s:
                told = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in logs or self.processes)
                raise AssertionError(f"nothing in {timeout_s} s\n{told}")
            time.sleep(0.01)

    def steps(self):
        """The steps that rank 0 has written down, in order."""
        path = self.folder / "run" / "steps.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def events(self):
        """The texts of all events, from the store."""
        with sqlite3.connect(self.folder / "run" / "job.db") as store:
            return [row[0] for row in store.execute("SELECT value FROM entries WHERE key LIKE 'event/%' ORDER BY key")]

    def last_step(self):
        return max((one["step"] for one in self.steps()), default=0)

    def wait_step(self, step, timeout_s=60):
        return self.wait(lambda: self.last_step() >= step, timeout_s)

    def client(self):
        """One that asks the controller, without TLS."""
        from nebula.elastic.client import Client

        return Client(f"127.0.0.1:{self.port}", None)

    def worker(self, node):
        """The process that trains on a node."""
        return self.wait(lambda: self._workers(node), 30)[0]

    def _workers(self, node):
        children = psutil.Process(self.processes[node].pid).children()
        return [child for child in children if self._trains(child)]

    @staticmethod
    def _trains(process):
        return "workerlog" in os.readlink(f"/proc/{process.pid}/fd/1")

    def kill(self, name, number=signal.SIGKILL):
        """Kills a controller or an agent."""
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def ends(self, name="controller", timeout_s=120):
        """The exit code of a process."""
        try:
            return self.processes[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            told = "\n".join(f"--- {one}\n{self.log(one)[-3000:]}" for one in self.processes)
            raise AssertionError(f"{name} has not ended in {timeout_s} s\n{told}") from None

    def end_well(self, *names, timeout_s=120):
        """Each of these processes ends with 0; its log says why it does not."""
        codes = {name: self.ends(name, timeout_s) for name in names}
        assert not any(codes.values()), "\n".join(f"--- {one}: {codes[one]}\n{self.log(one)[-3000:]}" for one in codes)

    def close(self):
        for process in self.processes.values():
            if process.poll() is None:
                family = [*psutil.Process(process.pid).children(recursive=True), process]
                for one in family:
                    with suppress(psutil.NoSuchProcess):  # it ended when another one did
                        one.kill()
                process.wait()
