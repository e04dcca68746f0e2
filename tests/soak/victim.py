"""The job that a soak strikes: a controller and two agents under TLS, each started again when a fault has killed it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

from nebula.elastic.authority import load_identity, make_authority, sign
from nebula.elastic.client import Client
from nebula.elastic.trust import now
from nebula.errors import NebulaError
from tests.soak.schedule import NODES

EVERY = 5
"""Steps between two checkpoints."""
REVIVAL_S = 1.0
"""How long what was killed stays dead."""
MARK = "NEBULA_SOAK"
"""Variable by which a process is known to belong to a soak."""


class Surprise(Exception):
    """Something that must not happen; the soak has failed."""


class Victim(Job):
    """See the module.

    Attributes:
        deaths: processes that were killed and started again.
    """

    def __init__(self, folder: Path, replicas: int = 0) -> None:
        """Makes a folder with certificates.

        Args:
            replicas: shards of a batch, where the workers are replicas; 0: they are not.
        """
        folder.mkdir(parents=True)
        apart = ("--replicas", str(replicas)) if replicas else ()
        options = ("--allow-faults", "--node-failures", "1000000", *apart)
        super().__init__(folder, steps=1_000_000, every=EVERY, secure=True, options=options)
        self.agent_options = ["--allow-faults"]
        self.mark = secrets.token_hex(8)
        self.environment = {MARK: self.mark}
        self.deaths, self._pids = 0, set[int]()
        self._dead_s: dict[str, float] = {}
        make_authority(folder / "certs", "soak", now())
        for name in ("controller", "user", *(f"agent-{node}" for node in NODES)):
            sign(folder / "certs", name, now())

    def start(self, name: str, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a process and remembers it."""
        process = super().start(name, *words, env=env)
        self._pids.add(process.pid)
        return process

    def begin(self) -> Victim:
        """Starts all."""
        self.controller().agents(*NODES)
        return self

    def client(self) -> Client:
        """One that asks the controller."""
        return Client(f"127.0.0.1:{self.port}", load_identity(self.folder / "certs", "user", now()))

    def revive(self) -> None:
        """Starts again what a fault has killed.

        Raises:
            Surprise: a process ended by itself.
        """
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            if code != -9:
                raise Surprise(f"{name} ended by itself with code {code}:\n{self.log(name)[-3000:]}")
            if name not in self._dead_s:
                self._dead_s[name] = time.monotonic()
            elif time.monotonic() - self._dead_s[name] > REVIVAL_S:
                del self._dead_s[name]
                self.deaths += 1
                self._start_again(name)

    def _start_again(self, name: str) -> None:
        if name == "controller":
            self.controller()
        else:
            self.agents(name)

    def end(self) -> None:
        """Drains both nodes at the border of a step, and ends the controller.

        Raises:
            Surprise: an agent does not leave, or not well.
        """
        for node in NODES:
            self._until_answered(node)
        for node in NODES:
            code = self.ends(node, 90)
            if code:
                raise Surprise(f"agent {node} was drained and ended with code {code}:\n{self.log(node)[-3000:]}")
        self.processes["controller"].terminate()
        self.processes["controller"].wait(30)

    def _until_answered(self, node: str) -> None:
        until_s = time.monotonic() + 30
        while True:
            try:
                self.client().drain(node, "the soak is over")
            except NebulaError as error:
                if time.monotonic() > until_s:
                    raise Surprise(f"{node} cannot be drained: {error}") from None
                time.sleep(0.5)
            else:
                return

    def left_behind(self) -> list[str]:
        """Processes and scratch folders that should be gone."""
        ours = [one for one in psutil.process_iter() if self._ours(one)]
        scratch = [
            path for path in Path("/dev/shm").glob("nebula-agent-*") if int(path.name.split("-")[2]) in self._pids
        ]
        return [*(f"process {one.pid}: {' '.join(one.cmdline())[:200]}" for one in ours), *map(str, scratch)]

    def _ours(self, process: psutil.Process) -> bool:
        try:
            return process.pid != os.getpid() and process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False
