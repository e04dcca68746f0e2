"""How often a job fails, as its workers are told for their checkpoints: counted over the job, whoever has led it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, replace

import pytest

from nebula.elastic.controller.brain import STATE, Brain
from nebula.elastic.controller.journal import Happened, key
from nebula.elastic.controller.settings import Settings
from nebula.elastic.policy import JobState
from nebula.elastic.policy.record import dumps
from nebula.elastic.policy.values import Bounds
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.shared import whole
from nebula.elastic.store import MemoryStore
from nebula.runtime.progress import MTBF

HOUR_S = 3600.0
SETTINGS = Settings(name="job", bounds=Bounds(least=2, most=2), words=(), log_folder="", mtbf_s=HOUR_S)


def stored(ago_s, restarts):
    """A store of a job that began to train so long ago, and has waited for nodes for ten minutes."""
    store, now_s = MemoryStore(), time.time()
    lease = store.lead("job", "me", 60.0)
    began = Happened(
        number=1, wall_s=now_s - ago_s, epoch=1, generation=1, step=0, kind="begun", because="", phase="running"
    )
    waits = replace(began, number=2, wall_s=now_s - 600.0, kind="lost", phase="waiting")
    for event in (began, waits):
        store.put(key(event.number), json.dumps(asdict(event)), expected=0, lease=lease)
    state = JobState(bounds=SETTINGS.bounds, generation=restarts + 1, restarts=restarts)
    store.put(STATE, dumps(state, now_s=now_s), expected=0, lease=lease)
    return store


async def told(store, plans):
    """What the workers of a new generation are told by a controller that has just come."""
    brain = Brain(SETTINGS, store, store.lead("job", "me", 60.0), plans)
    for name in "ab":
        hello = wire.Hello(protocol=VERSION, node=name, slots=1, ports=[1, 2], wall_s=time.time())
        line = brain.attendance.joined(hello, str)
    while True:
        message = await asyncio.wait_for(line.outbox.get(), 5)
        if message.HasField("start"):
            return float(whole(message.start).environment[MTBF])


@pytest.mark.parametrize(("ago_s", "restarts", "expected_s"), [(11 * HOUR_S, 3, 2.95 * HOUR_S), (600.0, 0, HOUR_S)])
def test_a_controller_that_has_just_come_counts_what_the_job_saw_before(plans, ago_s, restarts, expected_s):
    """Eleven hours less the ten minutes in which nothing could fail, and the assumed hour with its failure."""
    found_s = asyncio.run(told(stored(ago_s, restarts), plans))
    exact_s = (HOUR_S + ago_s - 600.0) / (1 + restarts)
    assert exact_s == pytest.approx(expected_s, rel=0.01)
    assert exact_s - 1.0 <= found_s <= exact_s + 10.0
