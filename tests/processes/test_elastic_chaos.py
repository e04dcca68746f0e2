"""Faults of what a job stands on: memory, disk, checkpoints, lines. It goes on, loses no row, and says what came."""

from __future__ import annotations

import pytest
from elastic_job import Job

from nebula.elastic.chaos.run import run
from nebula.elastic.chaos.values import Fault, Kind, Schedule, Weather


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=100_000, every=5, options=("--allow-faults", "--node-failures", "1000"))
    made.agent_options = ["--allow-faults"]
    yield made
    made.close()


def events(job, kind):
    return [event for event in job.client().events() if event.kind == kind]


def goes_on(job, kind, node="b", *, told, **more):
    """Injects a fault; the event that told of it, once all ranks step again."""
    before, back = len(events(job, told)), len(events(job, "stepping"))
    job.client().inject(node, kind, **more)
    job.wait(lambda: len(events(job, "stepping")) > back, 60)
    return events(job, told)[before]


def numbered(job):
    return [one["step"] for one in job.steps()] == list(range(1, len(job.steps()) + 1))


def test_a_worker_without_memory_a_full_disk_and_a_torn_checkpoint(job):
    job.controller().agents("a", "b").wait_step(3)

    event = goes_on(job, "memory", told="failed")
    assert "its memory is limited by" in job.log("b")
    by_cgroup = "limited by a cgroup of its own" in job.log("b")
    assert ("by the kernel: its cgroup had no more memory" if by_cgroup else "MemoryError") in event.because

    workers, restarts = [job.worker(node).pid for node in "ab"], job.client().status().restarts
    job.client().inject("a", "disk", seconds=4.0)
    event = job.wait(lambda: [one for one in events(job, "unsaved") if "no checkpoint of step" in one.because], 30)[0]
    assert "cannot be written: File too large; training goes on, the next save tries again" in event.because
    job.wait(lambda: len(complete(job)) > 1 and newest(job) > event.step, 60)
    assert workers == [job.worker(node).pid for node in "ab"]
    assert job.client().status().restarts == restarts

    event = goes_on(job, "torn", "", told="damaged")
    torn = int(event.because.partition("/step-")[2][:8])
    assert "is damaged" in event.because
    assert f"it is set aside and step-{torn - 5:08} is taken up instead" in event.because
    assert (job.folder / "run" / "checkpoints" / f"damaged-step-{torn:08}").is_dir()
    job.wait(lambda: newest(job) >= torn, 60)
    assert numbered(job)


def complete(job):
    """The steps of the checkpoints that every reader would take."""
    found = (job.folder / "run" / "checkpoints").glob("step-*/manifest.json")
    return [int(path.parent.name[5:]) for path in found]


def newest(job):
    return max(complete(job), default=0)


@pytest.mark.slow
def test_slow_and_lossy_lines_hold_nobody_up_and_a_partition_leaves_the_node_out_while_it_lasts(job):
    job.controller().agents("a", "b").wait_step(3)
    workers = [job.worker(node).pid for node in "ab"]
    bad = Weather(delay_s=0.2, bytes_per_s=50e3, loss=0.05)
    slow = Fault(kind=Kind.LINK, node="b", at_s=0.0, seconds=8.0, weather=bad)
    done = run(Schedule(faults=(slow,), lasts_s=1.0), job.client(), print)
    assert not done.outcomes[0].injected.refused
    job.wait_step(job.last_step() + 10)
    assert workers == [job.worker(node).pid for node in "ab"]
    assert not events(job, "gone")
    for cut in (Weather(out=False, into=False), Weather(out=False), Weather(into=False)):
        alone, both = job.log().count("1 ranks begin"), job.log().count("2 ranks begin")
        back = len(events(job, "stepping"))
        job.client().inject("b", "partition", seconds=10.0, weather=cut)
        job.wait(lambda alone=alone: job.log().count("1 ranks begin") > alone, 30)
        job.wait(lambda both=both: job.log().count("2 ranks begin") > both, 60)
        job.wait(lambda back=back: len(events(job, "stepping")) > back, 60)
    assert job.log().count("b is lost") == 3
    assert numbered(job)


@pytest.mark.slow
def test_replicas_set_a_torn_checkpoint_aside_as_well(tmp_path):
    job = Job(tmp_path, steps=100_000, every=5, options=("--allow-faults", "--node-failures", "1000", "--replicas", 2))
    job.agent_options = ["--allow-faults"]
    try:
        job.controller().agents("a", "b").wait_step(5)
        job.wait(lambda: newest(job) >= 10, 60)
        job.client().inject("", "torn")
        event = job.wait(lambda: events(job, "damaged"), 60)[0]
        torn = int(event.because.partition("/step-")[2][:8])
        assert f"it is set aside and step-{torn - 5:08} is taken up instead" in event.because
        job.wait(lambda: newest(job) >= torn, 60)
        assert numbered(job)
    finally:
        job.close()
