"""Nodes are tried before they join: a real device, real ways between agents, and a peer that takes bytes slowly."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from elastic_job import Job

from nebula.elastic.agent import check
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import PeerServicer, add_PeerServicer_to_server
from nebula.errors import RunFailed


class Taker(PeerServicer):
    """Takes a piece in so many seconds."""

    def __init__(self, piece_s):
        self.piece_s = piece_s

    def Swallow(self, request_iterator, context):  # noqa: N802
        for _ in request_iterator:
            time.sleep(self.piece_s)
        return wire.Answer(done=True)


def serving(piece_s):
    server = grpc.server(ThreadPoolExecutor(2))
    add_PeerServicer_to_server(Taker(piece_s), server)
    return server, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"


def test_rates_tell_a_slow_peer_and_one_that_is_not_there():
    quick, at_quick = serving(0.0)
    slow, at_slow = serving(0.05)
    for server in (quick, slow):
        server.start()
    peers = [wire.Source(node=name, address=at) for name, at in (("q", at_quick), ("s", at_slow), ("n", "127.0.0.1:1"))]
    try:
        found = {rate.node: rate.bytes_per_s for rate in check.rates(peers, grpc.insecure_channel)}
    finally:
        for server in (quick, slow):
            server.stop(0)
    assert found["q"] > 2 * found["s"] > 0.0
    assert 0.5 < found["s"] * 0.05 / check.PIECE_BYTES < 1.3
    assert found["n"] == 0.0


def test_a_device_that_cannot_be_used_keeps_the_node_out(tmp_path):
    (tmp_path / "paddle.py").write_text("raise OSError('no driver')")
    with pytest.raises(RunFailed, match=r"--check: the device of this node cannot be used: OSError: no driver"):
        check.tried({**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})


def test_a_device_that_gives_back_other_bytes_keeps_the_node_out(tmp_path):
    code = 'print(\'{"flops": 1.0, "copy_bytes_per_s": 1.0, "wrong_bytes": 3}\'); raise SystemExit'
    (tmp_path / "paddle.py").write_text(code)
    with pytest.raises(RunFailed, match="gave back 3 other bytes: take it out"):
        check.tried({**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=20)
    yield made
    made.close()


@pytest.mark.slow
def test_agents_are_tried_and_train(job):
    job.agent_options = ["--check"]
    job.controller().agents("a", "b")
    assert job.ends() == 0
    for name in "ab":
        assert "GFLOP/s in fp32" in job.log(name)
        assert "no byte wrong" in job.log(name)
