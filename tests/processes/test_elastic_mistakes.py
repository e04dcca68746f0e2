"""What people get wrong with real processes: versions, clocks, names, ports, stores and options are told in words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from elastic_job import Job

OTHER_VERSION = "import nebula.elastic.protocol as protocol; protocol.VERSION -= 1"
LATE = (
    "import time, types, nebula.elastic.agent.agent as agent;"
    "agent.time = types.SimpleNamespace(**{**vars(time), 'time': lambda: time.time() + 3 * 3600})"
)
YESTERDAY = (
    "import datetime, nebula.elastic.trust as trust; right = trust.now;"
    "trust.now = lambda: right() - datetime.timedelta(days=3)"
)


def odd(job, name, before, *words):
    """Starts `nebula WORDS` after some Python that makes it odd."""
    code = f"{before}; import sys; from nebula.cli.main import main; sys.exit(main())"
    with (job.folder / f"{name}.log").open("wb") as out:
        job.processes[name] = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=out, stderr=subprocess.STDOUT, cwd=job.folder, env=os.environ
        )


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, nodes="2:2")
    made.agent_options = ["--no-spares"]
    yield made
    made.close()


def test_agents_of_another_version_with_a_wrong_clock_or_a_name_twice_are_told(job):
    job.controller()
    at = ("--controller", f"127.0.0.1:{job.port}", "--insecure", "--no-spares")
    odd(job, "old", OTHER_VERSION, "agent", *at, "--name", "old")
    odd(job, "late", LATE, "agent", *at, "--name", "late")
    assert job.ends("old", 60) == 2
    assert "the controller refuses this agent: the agent of old speaks version" in job.log("old")
    assert "install the same nebula on all nodes; the older one is there" in job.log("old")
    assert "refused old: the agent of old speaks version" in job.log()
    job.wait(lambda: "the clock of late is +10800 s off: set it, or certificates will fail" in job.log(), 20)
    job.start("twice", "agent", *at, "--name", "late")
    assert job.ends("twice", 60) == 2
    assert "another agent is connected as late: give each node a name of its own with --name" in job.log("twice")
    assert job.processes["late"].poll() is None


@pytest.mark.slow
def test_what_a_controller_cannot_lead_with_is_said_before_it_leads(job):
    assert job.start("certs", "cert", "init").wait(60) == 0
    words = ("controller", "run.yaml", "-o", "run", "--listen")
    odd(job, "yesterday", YESTERDAY, *words, "127.0.0.1:0")
    wrong = {
        "most": ((*words, "127.0.0.1:0", "--insecure", "--nodes", "1:9"), 2, "the cluster two has 2 nodes"),
        "order": ((*words, "127.0.0.1:0", "--insecure", "--nodes", "2:1"), 2, "write MIN:MAX with 1 <= MIN <= MAX"),
        "unit": ((*words, "127.0.0.1:0", "--insecure", "--unit", "2", "--nodes", "1:2"), 2, "no multiples of a unit"),
        "open": ((*words, "0.0.0.0:0", "--insecure"), 2, "--insecure is for addresses of this machine"),
        "store": ((*words, "127.0.0.1:0", "--insecure", "--store", "sqlite:none/job.db"), 4, "name a file on a local"),
        "etcd": ((*words, "127.0.0.1:0", "--insecure", "--store", "etcd:http://127.0.0.1:1"), 4, "does not answer"),
        "both": ((*words, "127.0.0.1:0", "--insecure", "--certs", "certs"), 2, "leave one of the two out"),
        "name": (
            ("agent", "--controller", "127.0.0.1:1", "--insecure", "--certificate", "a"),
            2,
            "without TLS there are no certificates",
        ),
    }
    for option in (("--plan", "plan.json"), ("--memory-every", "1"), ("--script", "own.py"), ("--unit", "2")):
        told = f"--replicas with {' '.join(option)}:"
        wrong[option[0]] = ((*words, "127.0.0.1:0", "--insecure", "--replicas", "2", *option), 2, told)
    for name, (words, code, told) in wrong.items():
        assert job.start(name, *words).wait(90) == code, job.log(name)
        assert told in " ".join(job.log(name).split()), name
        assert "Traceback" not in job.log(name)
    assert job.ends("yesterday", 60) == 2
    assert "is the clock right?" in job.log("yesterday")


def test_a_second_job_on_the_port_of_the_first_is_told(tmp_path, job):
    job.controller()
    words = ("controller", "run.yaml", "--insecure", "--listen", f"127.0.0.1:{job.port}", "-o", "other")
    assert job.start("second", *words).wait(60) == 2
    assert "the address cannot be used; is another server on that port?" in job.log("second")
