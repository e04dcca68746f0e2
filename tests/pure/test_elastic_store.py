"""One contract for every store: versions, leases whose tokens rise, and no write under an old one."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys

import httpx
import pytest
from kubernetes_api import Api
from store_contract import *  # noqa: F403  (its tests and its clock)

from nebula.elastic.file_store import FileStore
from nebula.elastic.kubernetes_store import KubernetesStore
from nebula.elastic.place import opened
from nebula.elastic.sqlite_store import SqliteStore
from nebula.elastic.store import Entry, Fenced, MemoryStore, StoreLost
from nebula.errors import BadInput


@pytest.fixture(params=["memory", "sqlite", "file", "kubernetes"])
def store(request, tmp_path, clock):
    if request.param == "kubernetes":
        api = Api()
        yield KubernetesStore(httpx.Client(base_url=api.address), "training", "small", clock)
        api.shutdown()
        api.server_close()
    elif request.param == "file":
        yield FileStore(tmp_path / "store", clock)
    else:
        yield MemoryStore(clock) if request.param == "memory" else SqliteStore(tmp_path / "job.db", clock)


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


def test_what_a_killed_writer_left_aside_is_ignored(tmp_path, clock):
    store = FileStore(tmp_path / "store", clock)
    lease = store.lead("job", "first", 1.0)
    store.put("state", "one", expected=0, lease=lease)
    (tmp_path / "store" / "entries" / ".new-state").write_text('{"val')
    assert list(store.list("")) == ["state"]
    assert FileStore(tmp_path / "store", clock).put("state", "two", expected=1, lease=lease) == 2


def test_a_file_store_that_was_written_to_by_hand_says_so(tmp_path):
    FileStore(tmp_path / "store")
    (tmp_path / "store" / "entries" / "state").write_text("half of a fi")
    with pytest.raises(StoreLost, match="is damaged"):
        FileStore(tmp_path / "store").get("state")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreLost, match="name a folder that can be written"):
        FileStore(tmp_path / "file" / "store")


def test_a_file_store_that_another_process_locks_for_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("nebula.elastic.file_store.PATIENCE_S", 0.1)
    store = FileStore(tmp_path / "store")
    with (tmp_path / "store" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreLost, match=r"is locked by another process for 0\.1 s"):
            store.lead("job", "first", 1.0)
    assert store.lead("job", "first", 1.0).holder == "first"


@pytest.fixture
def api():
    found = Api()
    yield found
    found.shutdown()
    found.server_close()


def kubernetes(api, clock):
    return KubernetesStore(httpx.Client(base_url=api.address), "training", "small", clock)


@pytest.mark.parametrize("moment", range(12))
def test_a_leader_that_is_frozen_between_any_two_requests_changes_nothing_after_another_leads(api, clock, moment):
    """The old leader's write of a new ConfigMap is stopped before one of its requests; there, another takes over."""
    old, new = kubernetes(api, clock), kubernetes(api, clock)
    lease = old.lead("job", "first", 1.0)
    old.put("state", "one", expected=0, lease=lease)
    new.lead("job", "second", 1.0)
    asked, taken = [], []

    def before(verb, path):
        asked.append(verb)
        if len(asked) == moment + 1:
            api.before = lambda verb, path: None
            clock.now_s += 1.0
            taken.append(new.lead("job", "second", 1.0))

    api.before = before
    try:
        old.put("event/0000000001", "old", expected=0, lease=lease)
        wrote = True
    except Fenced:
        wrote = False
    if not taken:
        assert wrote
        return
    assert taken[0].token == 2
    found = new.get("event/0000000001")
    assert wrote == (found is not None)
    if wrote:  # its last request came before the other led
        assert verb_of(asked, moment) is None
    with pytest.raises(Fenced):
        old.put("state", "stale", expected=1, lease=lease)
    assert new.put("state", "two", expected=1, lease=taken[0]) == 2


def verb_of(asked, moment):
    """What was asked when the other took over; None: nothing any longer."""
    return asked[moment] if moment < len(asked) else None


def test_kubernetes_objects_are_what_kubectl_shows(api, clock):
    store = kubernetes(api, clock)
    lease = store.renew(store.lead("job 1", "pod-a", 1.5))
    store.put("event/0000000500", "{}", expected=0, lease=lease)
    found = api.objects["/apis/coordination.k8s.io/v1/namespaces/training/leases/small-job-1"]
    assert found["spec"]["holderIdentity"] == "pod-a"
    assert (found["spec"]["leaseDurationSeconds"], found["spec"]["leaseTransitions"]) == (2, 1)
    names = {path.rpartition("/")[2] for path in api.objects}
    assert names == {"small-job-1", "small", "small-1", "small-2"} - {"small-1"}
    assert "event_2f0000000500" in api.objects["/api/v1/namespaces/training/configmaps/small-2"]["data"]


def test_an_api_that_refuses_or_does_not_answer(api, clock, monkeypatch):
    monkeypatch.setattr("nebula.elastic.kubernetes_store.PATIENCE_S", 0.1)
    with pytest.raises(StoreLost, match="does not answer"):
        KubernetesStore(httpx.Client(base_url="http://127.0.0.1:1"), "training", "small")
    api.answer = lambda verb, path, body: (403, {"message": "configmaps is forbidden"})
    with pytest.raises(StoreLost, match=r"refuses GET .* 403 configmaps is forbidden; may the pod's account"):
        kubernetes(api, clock)


def test_a_text_names_a_store(tmp_path, api):
    for text, kind in (
        (f"{tmp_path}/a.db", SqliteStore),
        (f"sqlite:{tmp_path}/a.db", SqliteStore),
        (f"file:{tmp_path}/folder", FileStore),
        (f"kubernetes:training/small@{api.address}", KubernetesStore),
    ):
        assert isinstance(opened(text, "small"), kind)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("etdc:http://127.0.0.1:2379", "did you mean 'etcd'"),
        ("file:", "write where it is after the colon"),
        ("etcd:127.0.0.1:2379", "write it as etcd:http://"),
        ("etcd:http://me:secret@127.0.0.1:2379", "without a user's name"),
        ("kubernetes:small", "write it as kubernetes:NAMESPACE/NAME"),
        ("kubernetes:training/small", "works in a pod with an account of its own"),
    ],
)
def test_a_text_that_names_no_store(text, said):
    with pytest.raises(BadInput, match=said):
        opened(text, "small", env={})
