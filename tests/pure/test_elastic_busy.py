"""A replica that does something of its own is told from one that waits for another, whatever it last said of itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nebula.elastic.agent.worker import is_busy

WAITS_S = 20.0
TELLS = Path("/proc/self/wchan").exists()

LOOPS = "while True: pass"
HOLDS_THE_LOCK = "import ctypes; ctypes.PyDLL(None).sleep(60)"
WAITS_FOR_BYTES = "import socket; socket.socketpair()[0].recv(1)"
WAITS_FOR_A_THREAD = "import threading; threading.Event().wait(60)"


@pytest.fixture
def begun():
    made = []

    def begin(code):
        process = subprocess.Popen([sys.executable, "-c", f"print(1, flush=True); {code}"], stdout=subprocess.PIPE)
        made.append(process)
        process.stdout.readline()
        return process.pid

    yield begin
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


def stays(pid, busy):
    """Whether a process comes to be busy, or not to be, and stays so whenever it is looked at for a while."""
    until_s, since_s = time.monotonic() + WAITS_S, time.monotonic()
    while time.monotonic() < until_s:
        if is_busy(pid) != busy:
            since_s = time.monotonic()
        if time.monotonic() - since_s > 0.5:
            return True
        time.sleep(0.02)
    return False


def test_who_loops_is_busy(begun):
    assert stays(begun(f"exec({LOOPS!r})"), busy=True)


@pytest.mark.skipif(not TELLS, reason="this kernel does not tell where a process sleeps")
def test_who_holds_the_interpreters_lock_in_its_sleep_is_busy(begun):
    assert stays(begun(HOLDS_THE_LOCK), busy=True)


@pytest.mark.parametrize("code", [WAITS_FOR_BYTES, WAITS_FOR_A_THREAD])
def test_who_waits_for_another_is_not(begun, code):
    assert stays(begun(code), busy=False)
