"""A relay's lines, over real sockets: what is slow, lossy or cut arrives late and whole, and the other way is free."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from nebula.elastic.agent.relay import Relay
from nebula.elastic.chaos.values import Weather


@pytest.fixture
def line():
    """A relay, and both ends of a connection through it: the node's own and the one far away."""
    relay, server = Relay(seed=3), socket.create_server(("127.0.0.1", 0))
    host, _, port = relay.through(f"127.0.0.1:{server.getsockname()[1]}").rpartition(":")
    near = socket.create_connection((host, int(port)))
    far, _ = server.accept()
    for one in (near, far):
        one.settimeout(20)
    yield relay, near, far
    for one in (near, far, server):
        one.close()


def whole(end, size):
    found = b""
    while len(found) < size:
        found += end.recv(size - len(found))
    return found


def took_s(begin, end, data):
    """Seconds until what is sent at one end is at the other."""
    began_s = time.monotonic()
    sending = threading.Thread(target=begin.sendall, args=(data,))
    sending.start()
    assert whole(end, len(data)) == data
    sending.join()
    return time.monotonic() - began_s


def test_in_fair_weather_bytes_pass_as_they_are(line):
    _, near, far = line
    data = bytes(range(256)) * 4096
    assert took_s(near, far, data) < 5
    assert took_s(far, near, data) < 5
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    assert took_s(far, near, b"still") < 5


def test_a_slow_line_is_as_late_and_as_narrow_as_asked(line):
    relay, near, far = line
    relay.set(Weather(delay_s=0.3), 60)
    assert took_s(near, far, b"out") >= 0.3
    assert took_s(far, near, b"in") >= 0.3
    relay.set(Weather(bytes_per_s=100e3), 60)
    assert took_s(near, far, bytes(100_000)) + took_s(near, far, b"behind") >= 0.9


def test_what_a_lossy_line_loses_comes_late_and_nothing_is_missing(line):
    relay, near, far = line
    relay.set(Weather(loss=0.5), 60)
    data = bytes(range(256)) * 64
    assert took_s(near, far, data) >= 0.2


def test_a_partition_holds_what_goes_one_way_and_lets_it_through_after(line):
    relay, near, far = line
    relay.set(Weather(out=False), 60)
    assert took_s(far, near, b"in") < 5
    near.sendall(b"out")
    far.settimeout(0.3)
    with pytest.raises(TimeoutError):
        far.recv(1)
    far.settimeout(20)
    relay.set(Weather(into=False), 60)
    assert whole(far, 3) == b"out"
    far.sendall(b"back")
    near.settimeout(0.3)
    with pytest.raises(TimeoutError):
        near.recv(1)
    near.settimeout(20)
    relay.set(Weather(), 0)
    assert whole(near, 4) == b"back"


def test_a_partition_ends_by_itself(line):
    relay, near, far = line
    relay.set(Weather(out=False, into=False), 0.5)
    assert 0.4 < took_s(near, far, b"late") < 5


def test_others_reach_a_server_through_its_front_under_the_same_weather():
    relay, server = Relay(), socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(("127.0.0.1", relay.front("127.0.0.1", server.getsockname()[1]))) as other:
        own, _ = server.accept()
        with own:
            for one in (own, other):
                one.settimeout(20)
            assert took_s(other, own, b"in") < 5
            relay.set(Weather(out=False), 60)
            assert took_s(other, own, b"in") < 5
            relay.set(Weather(into=False), 60)
            assert took_s(own, other, b"out") < 5


def test_nobody_behind_it_is_as_nobody_at_all():
    relay = Relay()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    host, _, port = relay.through(f"127.0.0.1:{port}").rpartition(":")
    with socket.create_connection((host, int(port))) as near:
        near.settimeout(20)
        assert near.recv(1) == b""
