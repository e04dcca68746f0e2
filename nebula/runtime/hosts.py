"""How do ranks exchange whose devices share no communicator? Through the memory of their hosts, over TCP.

Every rank listens on a port of its own and tells where in the job's store. A connection carries bytes one way, opens
when it is first used, and has a thread that writes: a send waits for nobody, so no order of sends and receives blocks
two ranks. What a rank receives from another over one lane comes in the order in which it was sent.
"""

from __future__ import annotations

import pickle
import secrets
import socket
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import reduce
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nebula.errors import RunFailed

Array = npt.NDArray[Any]
PATIENCE_S = 1800.0
"""How long a rank waits for another before it gives up: as long as Paddle's groups do."""

SMALL_BYTES = 2**16
"""Arrays below are summed by one rank: a message costs more than its bytes."""

_HELLO = struct.Struct("!16siI")
_LENGTH = struct.Struct("!Q")


class Store(Protocol):
    """What all ranks of a job can write to and read from, such as Paddle's TCPStore."""

    def set(self, key: str, value: bytes) -> None:
        """Writes a value."""

    def wait(self, key: str) -> None:
        """Returns once a key has been written."""

    def get(self, key: str) -> bytes:
        """Reads a value."""


class Hosts:
    """One rank's connections to the others; used by one thread.

    Args:
        address: of this host, as the other ranks reach it.
        patience_s: how long a receive waits.
    """

    def __init__(self, rank: int, store: Store, address: str, patience_s: float = PATIENCE_S) -> None:
        self.rank, self._store, self._patience_s = rank, store, patience_s
        self._writers: dict[tuple[int, str], _Writer] = {}
        self._readers: dict[tuple[int, str], socket.socket] = {}
        self._arrival = threading.Condition()
        if rank == 0:
            store.set("nebula/hosts/token", secrets.token_bytes(16))
        store.wait("nebula/hosts/token")
        self._token = bytes(store.get("nebula/hosts/token"))
        self._listener = socket.create_server((address, 0), backlog=1024)
        store.set(f"nebula/hosts/{rank}", f"{address}:{self._listener.getsockname()[1]}".encode())
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Lets what was sent leave, then hangs up."""
        for writer in self._writers.values():
            writer.close()
        self._listener.close()
        for connection in self._readers.values():
            connection.close()

    def send(self, taker: int, array: Array, lane: str = "") -> Future[None]:
        """Sends the bytes of an array, which stays as it is until the future is done."""
        return self._writer(taker, lane).send(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def receive(self, giver: int, array: Array, lane: str = "") -> None:
        """Waits for what a rank sends, which fills the array.

        Raises:
            RunFailed: the rank has hung up, sends nothing, or something of another size.
        """
        view = array.reshape(-1).view(np.uint8).data
        length = self._length(giver, lane)
        if length != len(view):
            raise RunFailed(f"rank {self.rank} expects {len(view)} bytes of rank {giver}, which sent {length}")
        self._fill(giver, lane, view)

    def gathered(self, value: Any, ranks: Sequence[int]) -> list[Any]:
        """A small plain value of each of some ranks, on all of them, in their order; they call it together."""
        first, *others = ranks
        if self.rank != first:
            self.send(first, _pickled(value), "values")
            found: list[Any] = pickle.loads(self._bytes(first, "values"))
            return found
        found = [value, *(pickle.loads(self._bytes(rank, "values")) for rank in others)]
        _finish([self.send(rank, _pickled(found), "values") for rank in others])
        return found

    def all_reduce(self, array: Array, ranks: Sequence[int], operation: np.ufunc = np.add) -> Array:
        """The sum (or maximum) of an array of each of some ranks, on all of them; they call it together.

        Each rank adds up a slice of the arrays, in the order of the ranks, and hands it to the others: all get the same
        bits, and each sends twice the array but for its slice, as around a ring. The first rank adds up small arrays.
        """
        if array.nbytes < SMALL_BYTES:
            total = self.reduce(array, ranks, ranks[0], operation)
            return self.broadcast(total, ranks, ranks[0])
        parts = np.array_split(array.reshape(-1), len(ranks))
        slices = dict(zip(ranks, parts, strict=True))
        sends = [self.send(rank, part, "sums") for rank, part in slices.items() if rank != self.rank]
        own = slices[self.rank]
        addends = [own if rank == self.rank else self._like(own, rank) for rank in ranks]
        total = reduce(operation, addends)
        sends += [self.send(rank, total, "totals") for rank in ranks if rank != self.rank]
        totals = [total if rank == self.rank else self._like(slices[rank], rank, "totals") for rank in ranks]
        _finish(sends)
        return np.concatenate(totals).reshape(array.shape)

    def reduce(self, array: Array, ranks: Sequence[int], to: int, operation: np.ufunc = np.add) -> Array:
        """The sum (or maximum) of an array of each of some ranks, on one of them; the others get theirs back."""
        if self.rank != to:
            self.send(to, array, "sums").result()
            return array
        return reduce(operation, [array if rank == to else self._like(array, rank) for rank in ranks])

    def broadcast(self, array: Array, ranks: Sequence[int], owner: int) -> Array:
        """The owner's array, on all of some ranks."""
        if self.rank != owner:
            return self._like(array, owner, "totals")
        _finish([self.send(rank, array, "totals") for rank in ranks if rank != owner])
        return array

    def _like(self, array: Array, giver: int, lane: str = "sums") -> Array:
        found = np.empty_like(array)
        self.receive(giver, found, lane)
        return found

    def _bytes(self, giver: int, lane: str) -> bytes:
        found = bytearray(self._length(giver, lane))
        self._fill(giver, lane, memoryview(found))
        return bytes(found)

    def _length(self, giver: int, lane: str) -> int:
        told = bytearray(_LENGTH.size)
        self._fill(giver, lane, memoryview(told))
        return int(_LENGTH.unpack(told)[0])

    def _fill(self, giver: int, lane: str, view: memoryview) -> None:
        connection = self._reader(giver, lane)
        try:
            if not _filled(connection, view):
                raise RunFailed(f"rank {giver} has hung up while rank {self.rank} waited for it")
        except TimeoutError:
            raise RunFailed(f"rank {giver} has sent rank {self.rank} nothing for {self._patience_s:.0f} s") from None
        except OSError as error:
            raise RunFailed(f"rank {self.rank} has lost rank {giver}: {error}") from None

    def _reader(self, giver: int, lane: str) -> socket.socket:
        with self._arrival:
            if not self._arrival.wait_for(lambda: (giver, lane) in self._readers, self._patience_s):
                raise RunFailed(f"rank {giver} has not called rank {self.rank} for {self._patience_s:.0f} s")
            return self._readers[giver, lane]

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:  # closed
                return
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        """Learns who calls; a caller that does not know the job's token is not listened to."""
        connection.settimeout(self._patience_s)
        hello = bytearray(_HELLO.size)
        if _filled(connection, memoryview(hello)):
            token, giver, length = _HELLO.unpack(hello)
            lane = bytearray(min(length, 64))
            if secrets.compare_digest(token, self._token) and _filled(connection, memoryview(lane)):
                with self._arrival:
                    self._readers[giver, lane.decode()] = connection
                    self._arrival.notify_all()
                return
        connection.close()

    def _writer(self, taker: int, lane: str) -> _Writer:
        if (taker, lane) not in self._writers:
            self._store.wait(f"nebula/hosts/{taker}")
            host, _, port = bytes(self._store.get(f"nebula/hosts/{taker}")).decode().rpartition(":")
            connection = socket.create_connection((host, int(port)), timeout=self._patience_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(_HELLO.pack(self._token, self.rank, len(lane.encode())) + lane.encode())
            self._writers[taker, lane] = _Writer(connection, taker)
        return self._writers[taker, lane]


class _Writer:
    """A connection to one rank, and the thread that writes to it."""

    def __init__(self, connection: socket.socket, taker: int) -> None:
        self._connection, self._taker = connection, taker
        self._queue: SimpleQueue[tuple[memoryview, Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def send(self, view: memoryview) -> Future[None]:
        future: Future[None] = Future()
        self._queue.put((view, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            view, future = item
            try:
                self._connection.sendall(_LENGTH.pack(len(view)))
                self._connection.sendall(view)
            except OSError as error:
                future.set_exception(RunFailed(f"rank {self._taker} cannot be sent to: {error}"))
            else:
                future.set_result(None)


def _filled(connection: socket.socket, view: memoryview) -> bool:
    """Whether a view could be filled before the other side hung up."""
    while view:
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def _pickled(value: Any) -> Array:
    return np.frombuffer(pickle.dumps(value), dtype=np.uint8)


def _finish(sends: Sequence[Future[None]]) -> None:
    for send in sends:
        send.result()
