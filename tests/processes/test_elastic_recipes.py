"""The batch script of docs/preemption.md runs a job over two allocations, with stand-ins for what Slurm brings."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from elastic_job import Job

PAGE = Path(__file__).parents[2] / "docs" / "preemption.md"
STUBS = {
    "nebula": f'exec {sys.executable} -m nebula.cli.main "$@"',
    "hostname": "echo 127.0.0.1",
    "scontrol": 'echo "$@" >> asked-of-scontrol',
    "srun": 'while [[ $1 == --* ]]; do shift; done; for node in a b; do SLURMD_NODENAME=$node "$@" & done; wait',
}


def script(port):
    (text,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for there, here in {
        "--nodes 1:4 -o runs/big": f"--nodes 1:2 --listen 127.0.0.1:{port} --insecure -o run",
        ":7077": f":{port}",
        "--devices 8": "--insecure",
    }.items():
        assert text.count(there) == 1
        text = text.replace(there, here)
    return text


def agents(batch):
    return [
        one
        for one in batch.children(recursive=True)
        if one.cmdline()[2:5] == ["nebula.cli.main", "agent", "--controller"]
    ]


@pytest.mark.slow
def test_a_job_goes_on_in_the_allocation_that_it_is_given_next(tmp_path):
    job = Job(tmp_path, steps=40, every=1000)
    (tmp_path / "bin").mkdir()
    for name, body in STUBS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "batch").write_text(script(free.getsockname()[1]))
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def submit(name):
        with (tmp_path / f"{name}.log").open("wb") as out:
            job.processes[name] = subprocess.Popen(
                ["bash", "batch"],
                cwd=tmp_path,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"},
            )
        return psutil.Process(job.processes[name].pid)

    try:
        first = submit("first")
        job.wait_step(6)
        told = agents(first)
        assert len(told) == 2
        for one in told:
            one.send_signal(signal.SIGUSR1)
        job.ends("first", 90)
        assert (tmp_path / "asked-of-scontrol").read_text() == "requeue 7\n"
        submit("second")
        job.end_well("second", timeout_s=90)
        assert (tmp_path / "asked-of-scontrol").read_text() == "requeue 7\n"
        assert [one["step"] for one in job.steps()] == list(range(1, 41))
        events = list(map(json.loads, job.events()))
        assert sum(event["seconds"].get("lost_steps", 0) for event in events) == 0
    finally:
        job.close()
