"""The rank that keeps a launch's store ends well although another leaves late; Paddle's own server aborts."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("store_script.py")


@pytest.mark.parametrize(("server", "code"), [("plain", -signal.SIGABRT), ("mended", 5)])
def test_a_rank_that_leaves_late_does_not_abort_the_one_that_keeps_the_store(server, code):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run([sys.executable, str(SCRIPT), str(port), server], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr[-2000:]
