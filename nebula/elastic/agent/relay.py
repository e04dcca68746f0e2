"""Leads a node's connections through this process, so that its lines can be made slow, lossy or dead on purpose.

Bytes pass unread, so that TLS goes from end to end. What is cut is held, as by a network that drops packets: nobody
hears of it, and it arrives once the cut is over. A lost piece is late, and all behind it, as TCP has it. Used only by
agents that were started with --allow-faults; the workers' own connections do not pass here.
"""

from __future__ import annotations

import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from nebula.elastic.chaos.values import FAIR, Weather

PIECE_BYTES = 1448
"""What a packet carries."""
AGAIN_S = 0.2
"""After which TCP sends a lost piece again; then after twice as long."""
_READ_BYTES = 1 << 16
_HELD = 64
"""Reads that wait in a line before their sender has to."""


class Relay:
    """All lines of a node, under one weather.

    Args:
        seed: of the pieces that are lost.
    """

    def __init__(self, seed: int = 0) -> None:
        self._weather, self._until_s, self._change = FAIR, 0.0, threading.Condition()
        self._through: dict[str, str] = {}
        self._rng = random.Random(seed)

    def set(self, weather: Weather, seconds: float) -> None:
        """Has the lines meet that for a while."""
        with self._change:
            self._weather, self._until_s = weather, time.monotonic() + seconds
            self._change.notify_all()

    def now(self) -> Weather:
        """What bytes meet at this moment."""
        return self._weather if time.monotonic() < self._until_s else FAIR

    def through(self, address: str) -> str:
        """The address of this process by which another is reached."""
        with self._change:
            if address not in self._through:
                host, _, port = address.rpartition(":")
                local = self._listen("127.0.0.1", lambda: socket.create_connection((host, int(port)), 5), inwards=False)
                self._through[address] = f"127.0.0.1:{local}"
            return self._through[address]

    def front(self, host: str, port: int) -> int:
        """The port by which others reach a server of this process."""
        return self._listen(host, lambda: socket.create_connection((host, port), 5), inwards=True)

    def _listen(self, host: str, reach: Callable[[], socket.socket], *, inwards: bool) -> int:
        server = socket.create_server((host, 0))
        threading.Thread(target=self._accept, args=(server, reach, inwards), name="relay", daemon=True).start()
        return int(server.getsockname()[1])

    def _accept(self, server: socket.socket, reach: Callable[[], socket.socket], inwards: bool) -> None:
        while True:
            near, _ = server.accept()
            try:
                far = reach()
            except OSError:
                near.close()  # nobody is there, and who called hears of it
                continue
            ways = [_Way(self, near, far, inwards), _Way(self, far, near, not inwards)]
            for way in ways:
                way.start(ways)

    def wait_for_a_way(self, into: bool) -> None:
        """Returns once bytes pass in that direction."""
        with self._change:
            while not (self.now().into if into else self.now().out):
                self._change.wait(max(0.001, self._until_s - time.monotonic()))

    def late_s(self, size: int) -> float:
        """How much later bytes arrive that are sent now."""
        weather = self.now()
        late_s = weather.delay_s
        for _ in range(-(-size // PIECE_BYTES)):
            again_s = AGAIN_S
            while self._rng.random() < weather.loss:
                late_s, again_s = late_s + again_s, 2 * again_s
        return late_s


class _Way:
    """One direction of a connection: a thread reads, a thread sends when it is due.

    Attributes:
        over: its source has ended, and all of it was passed on.
    """

    def __init__(self, relay: Relay, source: socket.socket, target: socket.socket, into: bool) -> None:
        self._relay, self._source, self._target, self._into = relay, source, target, into
        self._ways, self.over = [self], False
        self._held: queue.Queue[tuple[float, bytes]] = queue.Queue(_HELD)

    def start(self, ways: list[_Way]) -> None:
        """Begins to pass bytes on.

        Args:
            ways: both of the connection; who ends last closes it.
        """
        self._source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ways = ways
        for work in (self._read, self._send):
            threading.Thread(target=work, name="relay", daemon=True).start()

    def _read(self) -> None:
        due_s, data = 0.0, b"-"
        while data:
            try:
                data = self._source.recv(_READ_BYTES)
            except OSError:
                data = b""
            due_s = max(due_s, time.monotonic() + self._relay.late_s(len(data)))
            self._held.put((due_s, data))

    def _send(self) -> None:
        data = b"-"
        while data:
            due_s, data = self._held.get()
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._relay.wait_for_a_way(self._into)
            try:
                self._pass_on(data)
            except OSError:
                self._break()
        self.over = True
        if all(way.over for way in self._ways):
            self._source.close()
            self._target.close()

    def _pass_on(self, data: bytes) -> None:
        if not data:
            self._target.shutdown(socket.SHUT_WR)
            return
        self._target.sendall(data)
        if rate := self._relay.now().bytes_per_s:
            time.sleep(len(data) / rate)

    def _break(self) -> None:
        """Has both readers come to their end."""
        for end in (self._source, self._target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
