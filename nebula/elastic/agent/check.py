"""Tries this node before it trains: its device, in a process of its own, and how fast it reaches other agents."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc

from nebula.elastic.entry import preflight
from nebula.elastic.policy.fitness import Fitness
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import PeerStub
from nebula.errors import RunFailed

PATIENCE_S = 180.0
"""For the device: Paddle is imported first."""
PIECE_BYTES, PIECES = 2**20, 16
PROBE_S = 10.0
"""For one peer."""


def tried(environment: Mapping[str, str]) -> Fitness:
    """What a device of this node does.

    Raises:
        RunFailed: it does nothing, or gives back other bytes than it got.
    """
    words = [sys.executable, "-m", preflight.__name__]
    try:
        said = subprocess.run(words, env=dict(environment), capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"--check: the device of this node has not answered for {PATIENCE_S:g} s") from None
    if said.returncode:
        last = said.stderr.strip().splitlines()[-1:] or [f"it exited with code {said.returncode}"]
        raise RunFailed(f"--check: the device of this node cannot be used: {last[0]}")
    found = Fitness(**json.loads(said.stdout.strip().splitlines()[-1]))
    if found.wrong_bytes:
        raise RunFailed(f"--check: the device of this node gave back {found.wrong_bytes} other bytes: take it out")
    return found


def rates(peers: Sequence[wire.Source], dial: Callable[[str], grpc.Channel]) -> Iterator[wire.Rate]:
    """How fast this node sends to others, one after the other; 0: not at all."""
    for peer in peers:
        channel = dial(peer.address)
        try:
            stub = PeerStub(channel)
            stub.Swallow(_pieces(1), timeout=PROBE_S)  # connects
            begin_s = time.perf_counter()
            stub.Swallow(_pieces(PIECES), timeout=PROBE_S)
            yield wire.Rate(node=peer.node, bytes_per_s=PIECES * PIECE_BYTES / (time.perf_counter() - begin_s))
        except grpc.RpcError:
            yield wire.Rate(node=peer.node, bytes_per_s=0.0)
        finally:
            channel.close()


def _pieces(count: int) -> Iterator[wire.Chunk]:
    data = bytes(PIECE_BYTES)
    for _ in range(count):
        yield wire.Chunk(data=data)
