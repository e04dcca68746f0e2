"""The embedded durable store: one SQLite file, with a write-ahead log that is synced at every commit.

Several processes of one machine may open it; a write that another has in hand is waited for. It must lie on a local
disk: SQLite's locks do not hold on network file systems.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from nebula.elastic.store import Entry, Lease, StoreLost, Watcher, answer, check_leads, check_version, renewed

PATIENCE_S = 5.0
"""How long a write of another process is waited for."""

_TABLES = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, beat INTEGER NOT NULL, ttl_s REAL NOT NULL);
"""


class SqliteStore:
    """A store in a file; see nebula.elastic.store.Store."""

    def __init__(self, path: Path, clock: Callable[[], float] | None = None) -> None:
        """Opens the file, which is made where there is none.

        Raises:
            StoreLost: it cannot be opened, or is no store.
        """
        self.path, self._lock = path, threading.Lock()
        self._watcher = Watcher(clock) if clock else Watcher()
        with self._errors():
            self._db = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def get(self, key: str) -> Entry | None:
        """See Store."""
        with self._reading():
            row = self._db.execute("SELECT value, version FROM entries WHERE key = ?", (key,)).fetchone()
        return Entry(value=row[0], version=row[1]) if row else None

    def put(self, key: str, value: str, *, expected: int, lease: Lease) -> int:
        """See Store."""
        with self._writing():
            check_leads(self._held(lease.name), lease)
            row = self._db.execute("SELECT version FROM entries WHERE key = ?", (key,)).fetchone()
            check_version(row[0] if row else 0, expected, key)
            self._db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, value, expected + 1))
        return expected + 1

    def list(self, prefix: str) -> Mapping[str, Entry]:
        """See Store."""
        query = "SELECT key, value, version FROM entries WHERE substr(key, 1, ?) = ? ORDER BY key"
        with self._reading():
            rows = self._db.execute(query, (len(prefix), prefix)).fetchall()
        return {key: Entry(value=value, version=version) for key, value, version in rows}

    def lead(self, name: str, holder: str, ttl_s: float) -> Lease:
        """See Store."""
        with self._writing():
            held = self._held(name)
            lease = answer(held, name, holder, ttl_s, self._watcher)
            if lease != held:
                self._write(lease)
        return lease

    def renew(self, lease: Lease) -> Lease:
        """See Store."""
        with self._writing():
            kept = renewed(self._held(lease.name), lease)
            self._write(kept)
        return kept

    def _held(self, name: str) -> Lease | None:
        row = self._db.execute("SELECT holder, token, beat, ttl_s FROM leases WHERE name = ?", (name,)).fetchone()
        return Lease(name=name, holder=row[0], token=row[1], beat=row[2], ttl_s=row[3]) if row else None

    def _write(self, lease: Lease) -> None:
        row = (lease.name, lease.holder, lease.token, lease.beat, lease.ttl_s)
        self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", row)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._errors():
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction that begins with the right to write, so that what it reads stays true until it ends."""
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreLost(f"the store {self.path} cannot be used: {error}; name a file on a local disk") from None
