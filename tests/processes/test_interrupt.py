"""Ctrl-C on a terminal: a search that runs shows a bar with the best so far, and ends with it and its gap."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 120.0


def until(terminal, wanted, text=""):
    """What a terminal shows up to a pattern, or up to its end."""
    end_s = time.monotonic() + TIMEOUT_S
    while not re.search(wanted, text) and time.monotonic() < end_s:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                return text
            if not piece:
                return text
            text += piece.decode(errors="replace")
    return text


BY_STEP = (
    r"Interrupted: this is the best so far; no plan of the space takes less than ",
    r"bound no plan of this space is faster than [\d.]+ m?s, [\d.]+ % below",
)
BY_DAYS = (
    r"Interrupted: this is the best so far",
    r"No plan of the space comes below [\d.e+-]+ days to the token budget; this one's is [\d.e+-]+",
)


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (["titan-1920.yaml"], BY_STEP),
        (["ernie-10b-mixed.yaml", "--explore"], BY_STEP),
        (["titan-1920.yaml", "objective.minimise=days"], BY_DAYS),
    ],
    ids=["fleet", "explore", "days"],
)
def test_control_c_gives_the_best_so_far_with_its_gap(words, sentences):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nebula.cli.main", "plan", str(EXAMPLES / words[0]), *words[1:]]
    running = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    try:
        shown = until(ours, r"priced · best [\d.]+ m?s")
        assert "searching" in shown
        assert re.search(r"gap ([\d.]+ %|not known yet)", shown)
        os.killpg(running.pid, signal.SIGINT)
        stdout, _ = running.communicate(timeout=TIMEOUT_S)
    finally:
        running.kill()
        os.close(ours)
    assert running.returncode == 0
    told = " ".join(stdout.split())
    for sentence in sentences:
        assert re.search(sentence, told)
    assert "searching" not in stdout
