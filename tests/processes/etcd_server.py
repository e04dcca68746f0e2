"""A real etcd on ports of its own, in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time

import httpx
import pytest


class Etcd:
    """Runs until it is killed; may start again with what it had."""

    def __init__(self, folder):
        if shutil.which("etcd") is None:
            pytest.skip("there is no etcd here: apt-get install etcd-server")
        self.folder = folder
        self.client, self.peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        self.start()

    def start(self):
        words = ["etcd", "--data-dir", "data", "--name", "one", "--initial-cluster", f"one={self.peer}"]
        words += ["--listen-client-urls", self.client, "--advertise-client-urls", self.client]
        words += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        with (self.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(words, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        until_s = time.monotonic() + 30
        while not self.answers():
            assert time.monotonic() < until_s, (self.folder / "etcd.log").read_text()[-3000:]
            time.sleep(0.05)

    def answers(self):
        try:
            return httpx.get(f"{self.client}/health", timeout=1.0).json()["health"] in ("true", True)
        except (httpx.HTTPError, KeyError, ValueError):
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
