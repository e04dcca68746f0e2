"""The recipes for schedulers in docs/preemption.md: bash and YAML read them, and they give the grace that is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import yaml
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.elastic.agent.work import BOUNDARY_S
from nebula.elastic.controller.departures import HOLD_S

PAGE = (Path(__file__).parents[2] / "docs" / "preemption.md").read_text()
LEAST_S = HOLD_S + BOUNDARY_S


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def options_of(verb):
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    return set(re.findall(r"--[a-z-]+", shown.output))


def test_the_batch_script_is_read_by_bash_and_gives_the_agents_time():
    script = block("bash")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-"], input=script, text=True, check=True)
    (notice_s,) = re.findall(r"#SBATCH --signal=USR1@(\d+)$", script, re.MULTILINE)
    (waited_s,) = re.findall(r"\{1\.\.(\d+)\}", script)
    assert int(notice_s) >= LEAST_S + int(waited_s)
    (agent,) = re.findall(r"exec nebula agent (.*)'$", script, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", agent)) <= options_of("agent")


def test_the_manifest_has_the_agent_as_first_process_and_gives_it_time():
    pod = yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= LEAST_S
    (container,) = pod["containers"]
    assert container["command"][:2] == ["nebula", "agent"]
    assert {word for word in container["command"] if word.startswith("--")} <= options_of("agent")
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["shared-memory"] == "/dev/shm"
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
