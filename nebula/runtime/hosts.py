"""How do ranks exchange whose devices share no communicator? Through the memory of their hosts, over TCP.

Every rank listens on a port of its own and tells where in the job's store. A connection carries bytes one way, opens
when it is first used, and has a thread that writes: a send waits for nobody, so no order of sends and receives blocks
two ranks. What a rank receives from another over one lane comes in the order in which it was sent.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import reduce
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nebula.errors import RunFailed
from nebula.runtime.message import joined, packed, parted, unpacked

Array = npt.NDArray[Any]
PATIENCE_S = 1800.0
"""How long a rank waits for another before it gives up: as long as Paddle's groups do."""

SMALL_BYTES = 2**16
"""Arrays below are summed by one rank: a message costs more than its bytes."""

_HELLO = struct.Struct("!16siI")
_LENGTH = struct.Struct("!Q")


class Directory(Protocol):
    """Where the ranks of a job find each other."""

    def token(self) -> bytes:
        """16 bytes that only ranks of the job know."""

    def tell(self, rank: int, address: str) -> None:
        """Says where a rank listens, as `HOST:PORT`."""

    def find(self, rank: int) -> str:
        """Where a rank listens, once it does."""


class Hosts:
    """One rank's connections to the others; used by one thread, but for `hang_up`.

    Args:
        host: name or address of this host, as the other ranks reach it.
        patience_s: how long a receive waits.
    """

    def __init__(self, rank: int, directory: Directory, host: str, patience_s: float = PATIENCE_S) -> None:
        self.rank, self._directory, self._patience_s = rank, directory, patience_s
        self._writers: dict[tuple[int, str], _Writer] = {}
        self._readers: dict[tuple[int, str], socket.socket] = {}
        self._gone: tuple[str, ...] = ()
        self._arrival = threading.Condition()
        self._token = directory.token()
        self._listener = socket.create_server((host, 0), backlog=1024)
        directory.tell(rank, f"{host}:{self._listener.getsockname()[1]}")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Lets what was sent leave, then hangs up."""
        for writer in self._writers.values():
            writer.close()
        _shut(self._listener)  # wakes who accepts
        self._listener.close()
        for connection in self._readers.values():
            connection.close()

    def hang_up(self, lanes: str) -> None:
        """Ends all lanes that begin so, at once and for good: those who wait for this rank there learn of it."""
        with self._arrival:
            self._gone += (lanes,)
            for key in [key for key in self._writers if key[1].startswith(lanes)]:
                self._writers.pop(key).abort()
            for key in [key for key in self._readers if key[1].startswith(lanes)]:
                # wakes who waits; to close it under them would let its number go to another connection
                _shut(self._readers.pop(key))
            self._arrival.notify_all()

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

    def gathered(self, value: Any, ranks: Sequence[int], lane: str = "values") -> list[Any]:
        """A small plain value of each of some ranks, on all of them, in their order; they call it together."""
        first, *others = ranks
        if self.rank == first:
            parts = [packed(value), *(self.receive_bytes(rank, lane) for rank in others)]
            _finish([self.send(rank, _as_array(joined(parts)), lane) for rank in others])
        else:
            self.send(first, _as_array(packed(value)), lane)
            parts = parted(self.receive_bytes(first, lane))
        return [unpacked(part) for part in parts]

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

    def receive_bytes(self, giver: int, lane: str = "") -> bytes:
        """Waits for what a rank sends, however much that is.

        Raises:
            RunFailed: the rank has hung up, or sends nothing.
        """
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
            if not self._arrival.wait_for(lambda: (giver, lane) in self._readers or self._over(lane), self._patience_s):
                raise RunFailed(f"rank {giver} has not called rank {self.rank} for {self._patience_s:.0f} s")
            if self._over(lane):
                raise RunFailed(f"rank {self.rank} has hung up {lane}")
            return self._readers[giver, lane]

    def _over(self, lane: str) -> bool:
        return lane.startswith(self._gone)

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
                    if not self._over(lane.decode()):
                        self._readers[giver, lane.decode()] = connection
                        self._arrival.notify_all()
                        return
        connection.close()

    def _writer(self, taker: int, lane: str) -> _Writer:
        with self._arrival:
            if self._over(lane):
                raise RunFailed(f"rank {self.rank} has hung up {lane}")
            if (taker, lane) in self._writers:
                return self._writers[taker, lane]
        writer = _Writer(self._called(taker, lane), taker)
        with self._arrival:
            self._writers[taker, lane] = writer
            if self._over(lane):
                writer.abort()
        return writer

    def _called(self, taker: int, lane: str) -> socket.socket:
        host, _, port = self._directory.find(taker).rpartition(":")
        try:
            connection = socket.create_connection((host, int(port)), timeout=self._patience_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(_HELLO.pack(self._token, self.rank, len(lane.encode())) + lane.encode())
        except OSError as error:
            raise RunFailed(f"rank {taker} cannot be called at {host}:{port}: {error}") from None
        return connection


class _Writer:
    """A connection to one rank, and the thread that writes to it."""

    def __init__(self, connection: socket.socket, taker: int) -> None:
        self._connection, self._taker = connection, taker
        self._queue: deque[tuple[memoryview, Future[None]]] = deque()
        self._over, self._change = False, threading.Condition()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def send(self, view: memoryview) -> Future[None]:
        future: Future[None] = Future()
        with self._change:
            if self._over:
                future.set_exception(RunFailed(f"rank {self._taker} is not called any longer"))
            else:
                self._queue.append((view, future))
                self._change.notify()
        return future

    def close(self) -> None:
        """Ends once all is written."""
        with self._change:
            self._over = True
            self._change.notify()
        self._thread.join()

    def abort(self) -> None:
        """Ends at once; what was not sent fails."""
        _shut(self._connection)
        with self._change:
            self._over = True
            self._change.notify()

    def _write(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue or self._over)
                if not self._queue:
                    break
                view, future = self._queue.popleft()
            try:
                self._connection.sendall(_LENGTH.pack(len(view)))
                self._connection.sendall(view)
            except OSError as error:
                future.set_exception(RunFailed(f"rank {self._taker} cannot be sent to: {error}"))
            else:
                future.set_result(None)
        self._connection.close()


def _shut(connection: socket.socket) -> None:
    """Ends a connection that another thread may be waiting on."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _filled(connection: socket.socket, view: memoryview) -> bool:
    """Whether a view could be filled before the other side hung up."""
    while view:
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def _as_array(message: bytes) -> Array:
    return np.frombuffer(message, dtype=np.uint8)


def _finish(sends: Sequence[Future[None]]) -> None:
    for send in sends:
        send.result()
