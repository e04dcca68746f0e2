"""Where a job's state outlives its controller, and who may write it: the interface, its values, a store in memory.

A store keeps texts under keys, each with a version that rises with every write, and leases. Who leads under a lease has
a *token* that rises with every new holder; a write under an older token is refused, so that a controller that was
frozen and wakes up changes nothing. Expiry is judged by what a candidate sees, not by anybody's date: a lease is free
once its heartbeat has not changed for its ttl on the candidate's own clock, or its holder is seen to have ended.

All methods may block for as long as the store's medium takes, may be called from several threads, and raise StoreLost
where it does not answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from nebula.elastic.holder import has_ended
from nebula.errors import BadInput, NebulaError, RunFailed


class StoreLost(RunFailed):
    """The store cannot be reached or written. Exit code 4."""


class Conflict(NebulaError):
    """A key has another version than the writer expected."""


class Fenced(RunFailed):
    """The writer does not lead any longer. Exit code 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What stands under a key; the first version is 1."""

    value: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who leads.

    Attributes:
        name: of what is led.
        token: rises with every new holder.
        beat: rises with every renewal.
        ttl_s: without a beat for so long the lease is free.
    """

    name: str
    holder: str
    token: int
    beat: int
    ttl_s: float


class Store(Protocol):
    """A store; see the module."""

    def get(self, key: str) -> Entry | None:
        """What stands under a key."""

    def put(self, key: str, value: str, *, expected: int, lease: Lease) -> int:
        """Writes a key durably and returns its new version.

        Args:
            expected: the version that is there now; 0: none.

        Raises:
            Conflict: another version is there.
            Fenced: the lease has passed to another holder.
        """

    def list(self, prefix: str) -> Mapping[str, Entry]:
        """All keys that begin so."""

    def lead(self, name: str, holder: str, ttl_s: float) -> Lease:
        """Asks for a lease; the answer names who holds it now, this holder or another."""

    def renew(self, lease: Lease) -> Lease:
        """Keeps a lease.

        Raises:
            Fenced: it has passed to another holder.
        """


class Watcher:
    """Judges whether a lease that others hold has run out, by this process's clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._seen: dict[str, tuple[int, int, float]] = {}

    def expired(self, lease: Lease) -> bool:
        """Whether its beat has stood still for its ttl since this process first saw it, or nobody beats any longer."""
        if has_ended(lease.holder):
            return True
        token, beat, since_s = self._seen.get(lease.name, (0, 0, 0.0))
        now_s = self.clock()
        if (token, beat) != (lease.token, lease.beat):
            self._seen[lease.name] = (lease.token, lease.beat, now_s)
            return False
        return now_s - since_s >= lease.ttl_s


def answer(held: Lease | None, name: str, holder: str, ttl_s: float, watcher: Watcher) -> Lease:
    """The lease after somebody asked for it: what every store writes down, if it differs from `held`."""
    if ttl_s <= 0:
        raise BadInput(f"a lease of {ttl_s:g} s: give more than 0")
    if held is None:
        return Lease(name=name, holder=holder, token=1, beat=1, ttl_s=ttl_s)
    if held.holder == holder or watcher.expired(held):
        return Lease(name=name, holder=holder, token=held.token + 1, beat=held.beat + 1, ttl_s=ttl_s)
    return held


def renewed(held: Lease | None, lease: Lease) -> Lease:
    """The lease after a beat.

    Raises:
        Fenced: another holds it.
    """
    check_leads(held, lease)
    assert held is not None
    return replace(held, beat=held.beat + 1)


def check_leads(held: Lease | None, lease: Lease) -> None:
    """Refuses who does not lead any longer.

    Raises:
        Fenced: with who does.
    """
    if held is None or held.token != lease.token:
        now = "nobody" if held is None else f"{held.holder} (epoch {held.token})"
        raise Fenced(f"{lease.holder} (epoch {lease.token}) leads {lease.name} no longer: {now} does")


def check_version(found: int, expected: int, key: str) -> None:
    """Refuses a write upon something else than the writer has read.

    Raises:
        Conflict: with both versions.
    """
    if found != expected:
        raise Conflict(f"{key} has version {found}, the writer expected {expected}")


class MemoryStore:
    """A store that lives as long as its process; for tests and simulations."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[str, Entry] = {}
        self._leases: dict[str, Lease] = {}
        self._watcher, self._lock = Watcher(clock), threading.Lock()

    def get(self, key: str) -> Entry | None:
        """See Store."""
        return self._entries.get(key)

    def put(self, key: str, value: str, *, expected: int, lease: Lease) -> int:
        """See Store."""
        with self._lock:
            check_leads(self._leases.get(lease.name), lease)
            found = self._entries.get(key)
            check_version(found.version if found else 0, expected, key)
            self._entries[key] = Entry(value=value, version=expected + 1)
            return expected + 1

    def list(self, prefix: str) -> Mapping[str, Entry]:
        """See Store."""
        with self._lock:
            return {key: self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)}

    def lead(self, name: str, holder: str, ttl_s: float) -> Lease:
        """See Store."""
        with self._lock:
            self._leases[name] = answer(self._leases.get(name), name, holder, ttl_s, self._watcher)
            return self._leases[name]

    def renew(self, lease: Lease) -> Lease:
        """See Store."""
        with self._lock:
            self._leases[lease.name] = renewed(self._leases.get(lease.name), lease)
            return self._leases[lease.name]
