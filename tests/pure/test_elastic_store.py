"""One contract for every store: versions, leases whose tokens rise, and no write under an old one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from nebula.elastic.sqlite_store import SqliteStore
from nebula.elastic.store import Conflict, Entry, Fenced, MemoryStore, StoreLost
from nebula.errors import BadInput


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path, clock):
    return MemoryStore(clock) if request.param == "memory" else SqliteStore(tmp_path / "job.db", clock)


def test_versions_rise_and_a_write_upon_another_is_refused(store):
    lease = store.lead("job", "first", 1.0)
    assert store.get("state") is None
    assert store.put("state", "one", expected=0, lease=lease) == 1
    assert store.put("state", "two", expected=1, lease=lease) == 2
    assert store.get("state") == Entry(value="two", version=2)
    for wrong in (0, 1, 3):
        with pytest.raises(Conflict, match=f"version 2, the writer expected {wrong}"):
            store.put("state", "three", expected=wrong, lease=lease)
    assert store.get("state") == Entry(value="two", version=2)


def test_keys_are_listed_by_how_they_begin(store):
    lease = store.lead("job", "first", 1.0)
    for key in ("event/2", "event/1", "state", "event%3"):
        store.put(key, key.upper(), expected=0, lease=lease)
    assert list(store.list("event/").items()) == [
        ("event/1", Entry(value="EVENT/1", version=1)),
        ("event/2", Entry(value="EVENT/2", version=1)),
    ]
    assert len(store.list("")) == 4


def test_who_leads_is_told_to_others(store):
    assert store.lead("job", "first", 1.0).token == 1
    other = store.lead("job", "second", 1.0)
    assert (other.holder, other.token) == ("first", 1)
    assert store.lead("another job", "second", 1.0).holder == "second"


def test_a_lease_that_is_renewed_stays(store, clock):
    lease = store.lead("job", "first", 1.0)
    for _ in range(10):
        assert store.lead("job", "second", 1.0).holder == "first"
        clock.now_s += 0.9
        lease = store.renew(lease)


def test_a_lease_that_stands_still_passes_on_and_fences_its_holder(store, clock):
    lease = store.lead("job", "first", 1.0)
    store.put("state", "one", expected=0, lease=lease)
    assert store.lead("job", "second", 1.0).holder == "first"
    clock.now_s += 1.0
    taken = store.lead("job", "second", 1.0)
    assert (taken.holder, taken.token) == ("second", 2)
    with pytest.raises(Fenced, match=r"first \(epoch 1\) leads job no longer: second \(epoch 2\) does"):
        store.put("state", "stale", expected=1, lease=lease)
    with pytest.raises(Fenced):
        store.renew(lease)
    assert store.put("state", "two", expected=1, lease=taken) == 2


def test_nobody_takes_a_lease_by_a_wrong_clock_alone(store, clock):
    """A candidate whose clock is far ahead still has to see the lease stand still for its ttl."""
    lease = store.lead("job", "first", 1.0)
    clock.now_s += 1e9
    assert store.lead("job", "second", 1.0).holder == "first"
    store.renew(lease)
    clock.now_s += 1e9
    assert store.lead("job", "second", 1.0).holder == "first"


def test_a_lease_of_no_time_is_refused(store):
    with pytest.raises(BadInput, match="more than 0"):
        store.lead("job", "first", 0.0)


def test_of_writers_at_once_one_wins_each_version(store):
    lease = store.lead("job", "first", 60.0)
    wins, lock = [], threading.Lock()

    def write(name):
        for version in range(20):
            try:
                store.put("state", name, expected=version, lease=lease)
            except Conflict:
                continue
            with lock:
                wins.append(version)

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = store.get("state")
    assert sorted(wins) == list(range(entry.version))


def test_what_was_written_outlives_a_kill(tmp_path):
    path = tmp_path / "job.db"
    code = (
        "import sys; from pathlib import Path; from nebula.elastic.sqlite_store import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1])); lease = store.lead('job', 'first', 1.0)\n"
        "for version in range(10**6):\n"
        "    store.put('state', str(version), expected=version, lease=lease); print(version, flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    said = [writer.stdout.readline() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    said += writer.stdout.readlines()
    writer.wait()
    last = int(said[-1])
    entry = SqliteStore(path).get("state")
    assert entry.version in (last + 1, last + 2)
    assert int(entry.value) == entry.version - 1


def test_two_processes_share_a_file(tmp_path):
    first, second = SqliteStore(tmp_path / "job.db"), SqliteStore(tmp_path / "job.db")
    lease = first.lead("job", "first", 1.0)
    assert second.lead("job", "second", 1.0) == lease
    first.put("state", "one", expected=0, lease=lease)
    assert second.get("state") == Entry(value="one", version=1)


def test_a_file_that_is_no_store_and_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "text").write_text("no database at all, " * 100)
    with pytest.raises(StoreLost, match=r"text cannot be used.*file is not a database"):
        SqliteStore(tmp_path / "text")
    with pytest.raises(StoreLost, match="name a file on a local disk"):
        SqliteStore(tmp_path / "nowhere" / "job.db")


def test_a_store_that_another_process_holds_for_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("nebula.elastic.sqlite_store.PATIENCE_S", 0.1)
    store = SqliteStore(tmp_path / "job.db")
    lease = store.lead("job", "first", 1.0)
    other = sqlite3.connect(tmp_path / "job.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLost, match="locked"):
        store.put("state", "one", expected=0, lease=lease)
    other.execute("ROLLBACK")
    assert store.put("state", "one", expected=0, lease=lease) == 1
