"""Ranks that exchange through their hosts; here each is a thread of one process, over loopback."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nebula.errors import RunFailed
from nebula.runtime import hosts


class Written:
    """A directory in memory."""

    def __init__(self):
        self._addresses, self._change = {}, threading.Condition()

    def token(self):
        return b"known to all 1:1"

    def tell(self, rank, address):
        with self._change:
            self._addresses[rank] = address
            self._change.notify_all()

    def find(self, rank):
        with self._change:
            assert self._change.wait_for(lambda: rank in self._addresses, 10)
        return self._addresses[rank]


def together(count, work, patience_s=10.0):
    """What `work(hosts, rank)` returns on each of so many ranks."""
    directory = Written()

    def one(rank):
        own = hosts.Hosts(rank, directory, "127.0.0.1", patience_s)
        try:
            return work(own, rank)
        finally:
            own.close()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(count)]]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 7, 50_001])
def test_all_ranks_get_the_bits_of_one_sum(count, size):
    arrays = [np.random.default_rng(rank).normal(size=(size, 1)).astype(np.float32) for rank in range(count)]
    expected = sum(arrays[1:], start=arrays[0])
    for found in together(count, lambda own, rank: own.all_reduce(arrays[rank], range(count))):
        assert found.shape == (size, 1)
        np.testing.assert_array_equal(found, expected)


def test_the_largest_the_sum_at_one_and_the_copy_of_one():
    arrays = [np.array([rank, -rank]) for rank in range(3)]
    work = [
        (lambda own, rank: own.all_reduce(arrays[rank], range(3), np.maximum), [[2, 0]] * 3),
        (lambda own, rank: own.reduce(arrays[rank], range(3), 1), [[0, 0], [3, -3], [2, -2]]),
        (lambda own, rank: own.broadcast(arrays[rank], range(3), 2), [[2, -2]] * 3),
    ]
    for each, expected in work:
        assert [found.tolist() for found in together(3, each)] == expected


def test_values_of_all_come_in_the_order_of_ranks():
    assert (
        together(3, lambda own, rank: own.gathered({"rank": rank}, range(3))) == [[{"rank": r} for r in range(3)]] * 3
    )


@pytest.mark.parametrize("odd", [0, 1])
def test_what_is_no_message_is_refused_by_whoever_gets_it(odd):
    refused = threading.Event()

    def work(own, rank):
        if rank == odd:
            own.send(1 - odd, np.frombuffer(pickle.dumps({"rank": rank}), np.uint8), "values").result()
            assert refused.wait(10)
            return
        with pytest.raises(RunFailed, match="bytes that a rank sent"):
            own.gathered({"rank": rank}, range(2))
        refused.set()

    together(2, work)


def test_both_may_send_much_before_either_receives():
    """More than sockets hold, so that a send that waited for its receiver would stop both."""

    def swap(own, rank):
        sends = [own.send(1 - rank, np.full(8_000_000, rank, dtype=np.int32), "border") for _ in range(2)]
        came = np.empty(8_000_000, dtype=np.int32)
        for _ in range(2):
            own.receive(1 - rank, came, "border")
        for send in sends:
            send.result()
        return int(came.min()), int(came.max())

    assert together(2, swap) == [(1, 1), (0, 0)]


def test_a_rank_that_hangs_up_is_named():
    def leave(own, rank):
        if rank == 1:
            own.send(0, np.zeros(1), "border").result()
            return
        own.receive(1, np.zeros(1), "border")
        own.receive(1, np.zeros(1), "border")

    with pytest.raises(RunFailed, match="rank 1 has hung up while rank 0 waited for it"):
        together(2, leave)


def test_a_rank_that_sends_nothing_is_named():
    with pytest.raises(RunFailed, match=r"rank 1 has not called rank 0 for 0 s"):
        together(2, lambda own, rank: own.receive(1, np.zeros(1)) if rank == 0 else None, patience_s=0.3)


def test_a_message_of_another_size_is_refused():
    def work(own, rank):
        if rank == 1:
            own.send(0, np.zeros(3), "border").result()
            return
        own.receive(1, np.zeros(2), "border")

    with pytest.raises(RunFailed, match="rank 0 expects 16 bytes of rank 1, which sent 24"):
        together(2, work)


def test_a_stranger_who_does_not_know_the_token_is_not_heard():
    import socket

    directory = Written()
    own = hosts.Hosts(0, directory, "127.0.0.1", 0.5)
    host, _, port = directory.find(0).rpartition(":")
    with socket.create_connection((host, int(port))) as stranger:
        hello = b"x" * 16 + (1).to_bytes(4, "big") + (6).to_bytes(4, "big") + b"border"
        stranger.sendall(hello + (8).to_bytes(8, "big") + b"\0" * 8)
        with pytest.raises(RunFailed, match="has not called"):
            own.receive(1, np.zeros(1), "border")
    own.close()


def test_lanes_that_are_hung_up_end_on_both_sides_and_others_go_on():
    met = threading.Barrier(2)

    def work(own, rank):
        if rank == 0:
            own.send(1, np.zeros(1), "1/sums").result()
            own.receive(1, np.zeros(1), "1/sums")
            met.wait()
            own.hang_up("1/")
            own.receive(1, np.zeros(1), "2/sums")
            with pytest.raises(RunFailed, match="rank 0 has hung up 1/sums"):
                own.send(1, np.zeros(1), "1/sums")
            return
        own.send(0, np.zeros(1), "1/sums").result()
        own.receive(0, np.zeros(1), "1/sums")
        met.wait()
        with pytest.raises(RunFailed, match="rank 0"):  # waits for what never comes
            own.receive(0, np.zeros(1), "1/sums")
        own.hang_up("1/")
        own.send(0, np.zeros(1), "2/sums").result()

    together(2, work)
