"""The store in a real etcd: the contract of all stores, an etcd that goes away, and a job whose state it is."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from elastic_job import Job
from etcd_server import Etcd

sys.path.insert(0, str(Path(__file__).parents[1] / "pure"))

from store_contract import *  # noqa: F403  (its tests and its clock)

from nebula.elastic import etcd_store
from nebula.elastic.etcd_store import EtcdStore
from nebula.elastic.store import Entry, StoreLost


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    yield server
    server.kill()


@pytest.fixture
def store(request, etcd, clock):
    found = EtcdStore([etcd.client], f"test/{request.node.name}", clock)
    yield found
    found.close()


def test_more_entries_than_one_answer_holds(store, monkeypatch):
    monkeypatch.setattr(etcd_store, "PAGE", 7)
    lease = store.lead("job", "first", 60.0)
    for number in range(30):
        store.put(f"event/{number:02}", str(number), expected=0, lease=lease)
    assert [entry.value for entry in store.list("event/").values()] == [str(number) for number in range(30)]


def test_prefixes_are_jobs_of_their_own(etcd, clock):
    one, other = (EtcdStore([etcd.client], f"jobs/{name}", clock) for name in ("one", "one2"))
    one.put("state", "x", expected=0, lease=one.lead("job", "first", 1.0))
    assert other.get("state") is None
    assert other.list("") == {}
    assert other.lead("job", "second", 1.0).holder == "second"


def test_an_etcd_that_is_away_for_a_moment_is_waited_for(etcd, store):
    lease = store.lead("job", "first", 60.0)
    store.put("state", "one", expected=0, lease=lease)
    etcd.kill()
    threading.Timer(0.3, etcd.start).start()
    assert store.put("state", "two", expected=1, lease=lease) == 2
    assert store.get("state") == Entry(value="two", version=2)
    assert store.renew(lease).token == lease.token


def test_an_etcd_that_does_not_answer_is_said_and_nothing_is_lost(etcd, store, monkeypatch):
    lease = store.lead("job", "first", 60.0)
    store.put("state", "one", expected=0, lease=lease)
    monkeypatch.setattr(etcd_store, "PATIENCE_S", 0.2)
    etcd.kill()
    with pytest.raises(StoreLost, match=r"etcd does not answer \(http.*refused.*Nothing is lost"):
        store.put("state", "two", expected=1, lease=lease)
    with pytest.raises(StoreLost):
        EtcdStore([etcd.client], "x")
    etcd.start()
    assert store.put("state", "two", expected=1, lease=lease) == 2


def test_of_several_addresses_one_that_answers_is_enough(etcd, clock):
    store = EtcdStore(["http://127.0.0.1:1", etcd.client], "several", clock)
    assert store.put("state", "one", expected=0, lease=store.lead("job", "first", 1.0)) == 1


@pytest.fixture
def job(tmp_path, etcd):
    made = Job(tmp_path, steps=150, options=("--store", f"etcd:{etcd.client}/watched/{tmp_path.name}"))
    yield made
    made.close()


@pytest.mark.slow
def test_a_job_keeps_its_state_in_etcd(job, etcd):
    """A worker and the controller are killed, etcd goes away: workers train on, and the next controller takes over."""
    job.controller().agents("a", "b").wait_step(3)
    job.worker("b").send_signal(signal.SIGKILL)
    job.wait(lambda: "training goes on" in job.log(), 60)
    job.kill("controller")
    job.controller()
    job.wait(lambda: job.log().count("is connected again") == 2, 30)
    etcd.kill()
    assert job.ends("controller", 60) == 4
    assert "etcd does not answer" in job.log()
    step = job.last_step()
    time.sleep(1.0)
    etcd.start()
    job.controller()
    job.wait_step(step + 2)
    assert job.ends("controller") == 0
    assert sorted({one["step"] for one in job.steps()}) == list(range(1, 151))
