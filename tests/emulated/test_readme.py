"""The commands that README.md shows run, in its order, in a folder that holds the examples and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS = "job.steps=3"


def commands() -> list[str]:
    """The `nebula` lines of the shell block under "What you type"; this interpreter's environment is active already."""
    section = (ROOT / "README.md").read_text().split("## What you type", 1)[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    lines = [line.partition("#")[0].strip() for line in block[1].splitlines()]
    assert lines[0] == ". .venv/bin/activate"
    return lines[1:]


def test_every_command_of_the_readme_ends_well(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    verbs = []
    for command in commands():
        short = command + f" {STEPS}" if command.startswith("nebula train") else command
        done = subprocess.run(["sh", "-c", short], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{short}\n{done.stdout}{done.stderr}"
        verbs.append(command.split()[1])
    told = (
        "cluster plan explain plan compare check replan train rehearse emit cert report checkpoint outlast what-if "
        "sweep scaling plan plan graph launch"
    )
    assert verbs == told.split()
    assert (tmp_path / "runs" / "small" / "report.html").is_file()
