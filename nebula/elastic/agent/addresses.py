"""Free ports of this node, kept until they are needed, and the address under which others reach it."""

from __future__ import annotations

import socket
from collections.abc import Sequence


class Ports:
    """Ports that nobody else gets while they are kept."""

    def __init__(self, host: str, count: int) -> None:
        """Keeps so many."""
        self.host, self.count = host, count
        self._sockets: list[socket.socket] = []
        self.numbers: Sequence[int] = ()
        self.fresh()

    def fresh(self) -> Sequence[int]:
        """Lets go of the ports and keeps others."""
        self.let_go()
        self._sockets = [self._bound() for _ in range(self.count)]
        self.numbers = tuple(one.getsockname()[1] for one in self._sockets)
        return self.numbers

    def let_go(self) -> None:
        """Makes the ports free for the workers."""
        for one in self._sockets:
            one.close()
        self._sockets = []

    def _bound(self) -> socket.socket:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((self.host, 0))
        return one


def own_address(controller: str) -> str:
    """The address of this node on the way to a controller.

    >>> own_address("127.0.0.1:1")
    '127.0.0.1'
    """
    host, _, port = controller.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])
