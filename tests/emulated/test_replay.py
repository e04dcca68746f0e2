"""Times from the records of all ranks are the clocks' own where no link is shared; a busy host changes none."""

import json
import os
from unittest import mock

import numpy as np
import pytest
import ranks
from emulated_run import busy_host

from nebula.emulator import RECORD
from nebula.emulator.replay import step_starts
from nebula.emulator.table import Fault, Link, SharedLinks, uniform_links
from nebula.emulator.work import read_work

NAMES = [
    "data 2 x tensor 2",
    "pipeline 2 x sharding stage 2",
    "data 2 x sharding stage 3",
    "rows 3 : 1, then tensor 2",
    "1 rank, 1 rank, tensor 2, zb-h1",
]
FAST, SLOW = ranks.LINK, Link(bytes_per_s=1e8, latency_s=3e-5)
LINKS = {pair: FAST if pair[0] // 2 == pair[1] // 2 else SLOW for pair in uniform_links(4, FAST)}


WORKER = ranks.WORKERS / "replay_worker.py"


def recorded(folder):
    """Runs the worker; (records, when each step began by each rank's clock)."""
    folder.mkdir()
    with mock.patch.dict(os.environ, {RECORD: str(folder)}):
        ranks.run_emulated(4, WORKER, [folder, *NAMES], folder, links=LINKS)
    begun = [json.loads((folder / f"begun.{rank}.json").read_text()) for rank in range(4)]
    return read_work(folder, 4), begun


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    quiet = recorded(folder / "quiet")
    with busy_host():
        return quiet, recorded(folder / "busy")


def test_without_shared_links_the_replay_is_what_the_clocks_said(runs):
    work, begun = runs[0]
    for found, told in zip(step_starts(work, LINKS, None), begun, strict=True):
        assert list(found.values()) == pytest.approx(told, rel=1e-9)


def test_a_busy_host_changes_no_time(runs):
    (quiet, quiet_begun), (busy, busy_begun) = runs
    assert quiet_begun == busy_begun
    assert step_starts(quiet, LINKS, None) == step_starts(busy, LINKS, None)


def test_links_that_are_shared_while_busy_take_longer_than_alone_and_less_than_one_after_another(runs):
    work, _ = runs[0]
    nodes = {(a, b): (SLOW.bytes_per_s, (a // 2, 2 + b // 2)) for a, b in LINKS if a // 2 != b // 2}
    wide = SharedLinks(ports=(4e8,) * 4, through=nodes)
    narrow = SharedLinks(ports=(1e8,) * 4, through=nodes)
    half = {pair: link if link is FAST else Link(bytes_per_s=5e7, latency_s=3e-5) for pair, link in LINKS.items()}
    alone, shared, halved = (
        step_starts(work, links, common)[0] for links, common in ((LINKS, wide), (LINKS, narrow), (half, None))
    )
    last = max(alone)
    assert alone[last] == pytest.approx(step_starts(work, LINKS, None)[0][last], rel=1e-9)
    assert alone[last] < shared[last] < halved[last]


def test_a_device_is_slow_in_the_steps_that_are_asked_for(tmp_path):
    slow = Fault(rank=1, first_step=1, last_step=1, factor=3.0)
    ranks.run_emulated(2, WORKER, [tmp_path, "data 2"], tmp_path, faults=[slow])
    begun = np.array(json.loads((tmp_path / "begun.0.json").read_text()))
    took = np.diff(begun)
    assert 1.5 < took[1] / took[2] < 3.0  # what is sent is no slower


def test_a_device_fails_when_it_is_asked_to(tmp_path):
    with pytest.raises(AssertionError, match="device of this rank fails as step 3 begins"):
        ranks.run_emulated(2, WORKER, [tmp_path, "data 2"], tmp_path, faults=[Fault(rank=1, first_step=2)])
