"""A controller with 1,000 agents, 300 of which are gone at once: how soon are the others told of a new generation?

The controller is the real one, under mutual TLS, with a plan for a cluster of 1,000 nodes; the agents are sessions
without workers (tests/processes/light_agents.py) in two processes. The smaller one is killed, then, when all are back,
frozen, so that its lines are silent, and then killed again while every rank that is left fails as well, with 50 MB of
logs together. NEBULA_BENCH_AGENTS sets how many agents.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from many_agents import Load, ManyAgents, both

from tests.bench.rows import Row

AGENTS = int(os.environ.get("NEBULA_BENCH_AGENTS", "1000"))
TAILS_BYTES = 50_000_000
"""Of logs that all ranks send at once."""
CALM_S = 10.0
"""For how long the controller's CPU is watched while nothing happens."""
SILENT, LOUD = "silent", "killed, with 50 MB of logs"
WAYS = ("killed", SILENT, LOUD)


def rows() -> list[Row]:
    """Rows of all ways to be gone."""
    with tempfile.TemporaryDirectory() as folder:
        one = ManyAgents(Path(folder), AGENTS)
        try:
            return measured(one, AGENTS)
        finally:
            one.close()


def measured(one: ManyAgents, agents: int) -> list[Row]:
    """What happens to a job of so many agents."""
    name, lost, began_s = f"{agents} agents", agents * 3 // 10, time.monotonic()
    stay, leave = one.load(0, agents - lost), one.load(agents - lost, lost)
    generation, at_s = both(stay, leave)
    found = [Row(name=f"{name}: first connection to all told to begin", value=at_s - began_s, unit="s")]
    cpu = one.controller.cpu_percent(CALM_S)
    found += [
        Row(name=f"{name}: the controller's CPU while they train", value=cpu, unit="%"),
        Row(name=f"{name}: the controller's memory while they train", value=one.megabytes(), unit="MB"),
    ]
    broken = 0
    for way in WAYS:
        say(f"{way}: {one.megabytes():.0f} MB")
        gone_s = drop(way, leave, stay, agents - lost)
        generation, at_s = stay.told(generation)
        found.append(Row(name=f"{name}, {lost} {way}: others told", value=at_s - gone_s, unit="s", promise=10.0))
        leave.kill()
        broken += len(leave.broken) if way != SILENT else 0
        began_s, leave = time.monotonic(), one.load(agents - lost, lost)
        generation, at_s = both(stay, leave, generation)
        found.append(Row(name=f"{name}, {lost} come back: all told", value=at_s - began_s, unit="s"))
    broken, most = broken + len(stay.broken) + len(leave.broken), one.peak_megabytes()
    return [
        *found,
        Row(name=f"{name}: sessions that broke unasked", value=broken, unit="", promise=0),
        Row(name=f"{name}: the most memory that the controller had", value=most, unit="MB", promise=1e3),
    ]


def drop(way: str, leave: Load, stay: Load, left: int) -> float:
    """Has agents be gone, and says when they were."""
    if way == SILENT:
        leave.process.send_signal(signal.SIGSTOP)
    else:
        leave.kill()
    gone_s = time.monotonic()
    if way == LOUD:
        stay.fail(TAILS_BYTES // left)
    return gone_s


def say(what: str) -> None:
    """For people, beside the table."""
    print(f"   {what}; load {os.getloadavg()[0]:.1f}", flush=True)
