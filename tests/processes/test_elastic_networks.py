"""Two nodes in networks of their own with a wire between them, which is cut for real: all lines at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from elastic_job import Job

from nebula.elastic.authority import make_authority, sign
from nebula.elastic.trust import now

HOSTS = {"a": "10.231.0.1", "b": "10.231.0.2"}


class Networks:
    """One for each node, each as long as a process lives in it."""

    def __init__(self):
        self.keepers = {node: subprocess.Popen(["unshare", "-n", "sleep", "1000"]) for node in HOSTS}
        for keeper in self.keepers.values():
            while os.readlink(f"/proc/{keeper.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                time.sleep(0.01)
        peer = str(self.keepers["b"].pid)
        self.ip("a", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", peer)
        for node, host in HOSTS.items():
            self.ip(node, "addr", "add", f"{host}/24", "dev", "wire")
            self.ip(node, "link", "set", "wire", "up")
            self.ip(node, "link", "set", "lo", "up")

    def within(self, node):
        """Words that have a command run in a node's network."""
        return ["nsenter", "-t", str(self.keepers[node].pid), "-n"]

    def ip(self, node, *words):
        subprocess.run([*self.within(node), "ip", *words], check=True)

    def close(self):
        for keeper in self.keepers.values():
            keeper.kill()
            keeper.wait()


class Apart(Job):
    """A job whose controller and node a are in one network, node b in the other."""

    def __init__(self, folder, networks):
        super().__init__(folder, steps=100_000, every=1000, secure=True)
        self.networks = networks
        make_authority(folder / "certs", "job", now())
        for name in ("controller", "agent"):
            sign(folder / "certs", name, now())

    def start(self, name, *words, env=None):
        where = self.networks.within("b" if name == "b" else "a")
        with (self.folder / f"{name}.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [*where, sys.executable, "-m", "nebula.cli.main", *words],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def begin(self):
        listen = ("--listen", f"{HOSTS['a']}:0")
        self.start("controller", "controller", "run.yaml", "--nodes", "1:2", "-o", "run", *listen)
        self.port = self.wait(lambda: re.search(r"on port (\d+)", self.log()), 60)[1]
        for node in HOSTS:
            self.start(node, "agent", "--name", node, "--controller", f"{HOSTS['a']}:{self.port}")
        return self


@pytest.mark.slow
def test_a_node_behind_a_cut_wire_is_left_out_and_taken_back_once_it_is_whole(tmp_path):
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make networks (root)")
    networks = Networks()
    job = Apart(tmp_path, networks)
    try:
        job.begin().wait_step(3)
        assert "2 ranks begin under" in job.log()
        networks.ip("a", "link", "set", "wire", "down")
        job.wait(lambda: "b is lost" in job.log(), 20)
        job.wait(lambda: "1 ranks begin under" in job.log(), 20)
        job.wait_step(job.last_step() + 3)
        seen = len(job.log())
        networks.ip("a", "link", "set", "wire", "up")
        job.wait(lambda: "2 ranks begin under" in job.log()[seen:], 60)
        job.wait_step(job.last_step() + 3)
        assert [one["step"] for one in job.steps()] == list(range(1, len(job.steps()) + 1))
    finally:
        job.close()
        networks.close()
