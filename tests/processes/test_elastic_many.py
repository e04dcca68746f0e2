"""Many nodes, three in ten of which are gone at once while the others' ranks fail: the rest begins anew, and soon."""

from __future__ import annotations

import json
import signal
import ssl
import time

import pytest
from many_agents import ManyAgents, both

from nebula.elastic.authority import sign
from nebula.elastic.controller.journal import LINE_CHARACTERS, LINES
from nebula.elastic.trust import now

AGENTS, LOST, TAIL_BYTES = 60, 18, 200_000


@pytest.fixture
def many(tmp_path):
    made = ManyAgents(tmp_path, AGENTS)
    yield made
    made.close()


def test_many_nodes_are_gone_at_once_and_the_others_begin_anew(many):
    stay, leave = many.load(0, AGENTS - LOST), many.load(AGENTS - LOST, LOST)
    generation, _ = both(stay, leave)
    leave.kill()
    gone_s = time.monotonic()
    stay.fail(TAIL_BYTES)
    _, told_s = stay.told(generation)
    assert told_s - gone_s < 10.0
    assert stay.broken == []
    assert {event["node"] for event in many.events("gone")} == {f"n{number:04}" for number in range(42, 60)}
    (failed,) = many.events("failed")
    assert len(failed["last_lines"]) == LINES
    assert sum(map(len, failed["last_lines"])) <= LINES * LINE_CHARACTERS
    many.job.kill("controller", signal.SIGINT)
    assert many.job.ends("controller", 20) == 130
    assert many.job.log().endswith("nebula: interrupted\n")
    assert "Traceback" not in many.job.log()


def test_a_controller_takes_its_renewed_certificate_and_nobody_is_lost(tmp_path):
    few = ManyAgents(tmp_path, 6)
    try:
        load = few.load(0, 6)
        generation, _ = load.told(0)
        sign(tmp_path / "certs", "controller", now())
        few.job.wait(lambda: few.job.log().count("is connected again; its workers went on") == 6, 20)
        assert "the controller's certificate was renewed: agents connect again" in few.job.log()
        shown = ssl.get_server_certificate(("127.0.0.1", few.job.port))
        assert shown == (tmp_path / "certs" / "controller.crt").read_text()
        status = few.job.start("status", "status", "--controller", f"127.0.0.1:{few.job.port}", "--json")
        assert status.wait(30) == 0
        assert json.loads(few.job.log("status"))["generation"] == generation
        assert few.events("lost") == []
    finally:
        few.close()
