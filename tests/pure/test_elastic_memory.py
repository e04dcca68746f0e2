"""Cgroups of both versions as files, and a process that the kernel ends for want of memory in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nebula.elastic.agent.memory import MemoryWatch, group_of

GREEDY = "import sys; sys.stdin.readline()\nall_of_it = []\nwhile True: all_of_it.append(bytearray(b'x' * (8 << 20)))"


def machine(tmp_path, of_process, **files):
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(of_process)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return group_of(7, tmp_path / "cgroup", tmp_path / "proc")


def test_version_1_is_read(tmp_path):
    files = {
        "memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        "memory/job/memory.limit_in_bytes": "1000000\n",
        "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
    }
    group = machine(tmp_path, "5:cpu:/x\n4:memory:/job\n0::/\n", **files)
    assert (group.killed(), group.limit_bytes(), group.unified) == (3, 1_000_000, False)


def test_version_2_is_read_with_the_limits_above(tmp_path):
    files = {
        "outer/inner/memory.events": "low 0\noom 1\noom_kill 2\noom_group_kill 0\n",
        "outer/inner/memory.max": "max\n",
        "outer/memory.max": "2000000\n",
    }
    group = machine(tmp_path, "0::/outer/inner\n", **files)
    assert (group.killed(), group.limit_bytes(), group.unified) == (2, 2_000_000, True)


def test_a_machine_without_counts_has_none(tmp_path):
    assert machine(tmp_path, "4:memory:/job\n") is None
    assert group_of(8, tmp_path / "cgroup", tmp_path / "proc") is None


def test_a_process_that_is_killed_for_something_else_is_not_blamed_on_memory():
    with subprocess.Popen([sys.executable, "-c", GREEDY], stdin=subprocess.PIPE) as process:
        watch = MemoryWatch(process.pid)
        process.kill()
        process.wait()
        assert watch.why() == ""


def test_a_process_in_a_cgroup_of_its_own_is_killed_there_and_the_kernel_named():
    with subprocess.Popen([sys.executable, "-c", GREEDY], stdin=subprocess.PIPE) as process:
        watch = MemoryWatch(process.pid)
        try:
            why_not = watch.confine()
            if why_not:
                process.kill()
                pytest.skip(f"needs a cgroup that counts memory and that this user may write: {why_not}")
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.wait(60) == -signal.SIGKILL
            assert watch.why() == " by the kernel: its cgroup had no more memory than 64 MiB"
        finally:
            process.kill()
            process.wait()
            watch.close()
    assert not list(group_of(os.getpid()).folder.glob(f"nebula-{process.pid}"))
