"""The script of a member of a group of replicas: `replica.py RUN_FOLDER`, started by an agent."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nebula.elastic.authority import Identity

ROLL, HOST, CERTS, CERTIFICATE = (
    "NEBULA_ROLL",
    "NEBULA_ROLL_HOST",
    "NEBULA_ROLL_CERTS",
    "NEBULA_ROLL_CERTIFICATE",
)
"""Variables: addresses of the controllers, this host's, and where the agent's certificate is and what it is called."""


def main(run_dir: Path, env: Mapping[str, str]) -> None:
    """Trains as one member, to the end."""
    from nebula.elastic.member import RollLine
    from nebula.elastic.trust import Papers, dial
    from nebula.plan.files import load_plan
    from nebula.runtime import start
    from nebula.runtime.replicas.training import train
    from nebula.runtime.training import load

    sys.excepthook = start.plainly
    plan = load_plan(Path(env["NEBULA_PLAN"]))
    start.set_up(plan)
    identity = _identity(env)
    to = dial(Papers(identity) if identity else None, ())
    line = RollLine(env[ROLL].split(","), to, env.get("NEBULA_NODE", "here"))
    train(plan, load(run_dir), run_dir, line, env.get(HOST, "127.0.0.1"))
    sys.stdout.flush()


def _identity(env: Mapping[str, str]) -> Identity | None:
    from nebula.elastic.authority import load_identity
    from nebula.elastic.trust import now

    return load_identity(Path(env[CERTS]), env[CERTIFICATE], now()) if env.get(CERTS) else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ)
