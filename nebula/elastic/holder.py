"""Who holds a lease: a name that tells whether its process has ended to any other process of the same machine.

A lease passes on once its beat has stood still for a while. A candidate that sees that the holder is gone need not
wait for that. It must be sure: the name holds the boot and the process namespace in which its number is one, and when
the process began, since numbers are used again. Of other machines and containers nothing is known.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path


def holder_name(pid: int | None = None) -> str:
    """A name for a process of this machine, this one by default: `HOST:PID:MACHINE-START`."""
    pid = pid or os.getpid()
    _, began = _seen(pid)
    return f"{socket.gethostname()}:{pid}:{_machine()}-{began}"


def has_ended(holder: str) -> bool:
    """Whether the process is known to be gone. False where it lives, is frozen, or cannot be seen from here."""
    _, _, rest = holder.partition(":")
    pid, _, identity = rest.rpartition(":")
    machine, _, began = identity.partition("-")
    if not (pid.isdigit() and began and machine and machine == _machine()):
        return False
    state, found = _seen(int(pid))
    return state in ("", "Z", "X") or found != began


def _machine() -> str:
    """Of this boot and process namespace; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:8]


def _seen(pid: int) -> tuple[str, str]:
    """A process's state, and its start in ticks since the boot; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
