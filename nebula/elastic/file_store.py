"""A store of files in a folder: each key a file that is written aside, synced and renamed; one lock for all writers.

The folder may lie on a file system that several machines share, as long as that has flock and an atomic rename (NFSv4
does; object stores behind a mount do not). What is left of a writer that was killed is ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from nebula.elastic.store import Entry, Lease, StoreLost, Watcher, answer, check_leads, check_version, renewed

PATIENCE_S = 5.0
"""How long the lock of another writer is waited for."""
ENTRIES, LEASES, LOCK, ASIDE = "entries", "leases", "lock", ".new-"


def _name(key: str) -> str:
    """The name of a key's file; one that begins with a dot is spelt out, so that it is neither hidden nor a folder.

    >>> _name("event/7"), _name("..")
    ('event%2F7', '%2E.')
    """
    name = quote(key, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name


class FileStore:
    """A store in a folder; see nebula.elastic.store.Store."""

    def __init__(self, folder: Path, clock: Callable[[], float] | None = None) -> None:
        """Opens the folder, which is made where there is none.

        Raises:
            StoreLost: it cannot be made or written.
        """
        self.folder = folder
        self._watcher = Watcher(clock) if clock else Watcher()
        with self._errors():
            for part in (ENTRIES, LEASES):
                (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / LOCK).touch()

    def get(self, key: str) -> Entry | None:
        """See Store."""
        with self._errors():
            return self._entry(key)

    def put(self, key: str, value: str, *, expected: int, lease: Lease) -> int:
        """See Store."""
        with self._writing():
            check_leads(self._held(lease.name), lease)
            found = self._entry(key)
            check_version(found.version if found else 0, expected, key)
            self._write(ENTRIES, key, {"value": value, "version": expected + 1})
        return expected + 1

    def list(self, prefix: str) -> Mapping[str, Entry]:
        """See Store."""
        with self._errors():
            names = os.listdir(self.folder / ENTRIES)
            keys = sorted(key for name in names if not name.startswith(ASIDE) and (key := unquote(name)))
            found = {key: self._entry(key) for key in keys if key.startswith(prefix)}
        return {key: entry for key, entry in found.items() if entry is not None}

    def lead(self, name: str, holder: str, ttl_s: float) -> Lease:
        """See Store."""
        with self._writing():
            held = self._held(name)
            lease = answer(held, name, holder, ttl_s, self._watcher)
            if lease != held:
                self._write(LEASES, name, asdict(lease))
        return lease

    def renew(self, lease: Lease) -> Lease:
        """See Store."""
        with self._writing():
            kept = renewed(self._held(lease.name), lease)
            self._write(LEASES, lease.name, asdict(kept))
        return kept

    def _entry(self, key: str) -> Entry | None:
        plain = self._read(ENTRIES, key)
        return Entry(**plain) if plain is not None else None

    def _held(self, name: str) -> Lease | None:
        plain = self._read(LEASES, name)
        return Lease(**plain) if plain is not None else None

    def _read(self, part: str, key: str) -> dict[str, Any] | None:
        path = self.folder / part / _name(key)
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return found

    def _write(self, part: str, key: str, plain: Mapping[str, Any]) -> None:
        """Puts a file in its place once all of it is on the disk."""
        folder, name = self.folder / part, _name(key)
        aside = folder / f"{ASIDE}{name}"[:200]
        with aside.open("wb") as file:
            file.write(json.dumps(plain).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, folder / name)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone among all threads and processes."""
        with self._errors(), (self.folder / LOCK).open("rb") as lock:
            until_s = time.monotonic() + PATIENCE_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until_s:
                        raise StoreLost(
                            f"the store {self.folder} is locked by another process for {PATIENCE_S:g} s: "
                            "is a controller stopped there?"
                        ) from None
                    time.sleep(0.005)
            yield

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = f"{error.filename or self.folder}: {error.strerror}"
            raise StoreLost(
                f"the store {self.folder} cannot be used ({why}); name a folder that can be written"
            ) from None
        except (ValueError, TypeError) as error:
            raise StoreLost(f"the store {self.folder} is damaged: {error}; restore it or name another") from None
