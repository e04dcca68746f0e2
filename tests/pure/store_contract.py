"""What every store has to do; a test module imports these tests and gives a fixture `store` whose clock is `clock`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from nebula.elastic.holder import holder_name
from nebula.elastic.store import Conflict, Entry, Fenced
from nebula.errors import BadInput


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


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


def test_a_lease_passes_on_at_once_when_its_holder_is_seen_to_have_ended_and_not_while_that_is_frozen(store):
    first = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lease = store.lead("job", holder_name(first.pid), 1.0)
        assert store.lead("job", "second", 1.0) == lease
        first.send_signal(signal.SIGSTOP)
        assert store.lead("job", "second", 1.0) == lease
    finally:
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # ended, and still there as a zombie
    taken = store.lead("job", "second", 1.0)
    first.wait()
    assert (taken.holder, taken.token) == ("second", 2)
    with pytest.raises(Fenced):
        store.renew(lease)


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


def test_texts_and_keys_may_hold_anything(store):
    lease = store.lead("job", "first", 1.0)
    texts = {"a/b c": "", "ä_%2F": "line\nzwei \u2028 ü", "..": '{"json": null}', "x" * 60: "y" * 100_000}
    for key, text in texts.items():
        assert store.put(key, text, expected=0, lease=lease) == 1
    assert {key: entry.value for key, entry in store.list("").items()} == texts


def test_many_events_are_listed_in_order(store):
    lease = store.lead("job", "first", 60.0)
    keys = [f"event/{number:010}" for number in (1, 2, 499, 500, 501, 1000)]
    for key in reversed(keys):
        store.put(key, key, expected=0, lease=lease)
    assert list(store.list("event/")) == keys
    taken = store.lead("job", "first", 60.0)
    with pytest.raises(Fenced):
        store.put("event/0000000003", "stale", expected=0, lease=lease)
    with pytest.raises(Fenced):
        store.put("event/0000001501", "stale", expected=0, lease=lease)
    assert store.put("event/0000001501", "new", expected=0, lease=taken) == 1
