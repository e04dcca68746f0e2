"""A plan as the command of every node: what a person types where no scheduler starts paddle.distributed.launch."""

from __future__ import annotations

import shlex

from nebula.emit.values import Decided, Emitted, Options
from nebula.launch.command import FIRST_ADDRESS, OWN_ADDRESS, device_types, node_commands

PYTHON, LOGS = "python", "log"


def emit(decided: Decided, options: Options) -> Emitted:
    """A comment and a line per node.

    Raises:
        BadInput: ranks of a node do not follow each other, or emulated and real devices are mixed.
    """
    plan = decided.plan
    types = device_types(decided.cluster, plan)
    made = node_commands(plan, options.script, (), types=types, log_dir=LOGS, master=options.master, python=PYTHON)
    lines = [f"# {command.node}: {command.ranks} ranks\n{command.line}\n" for command in made]
    document = {"nodes": [{"node": c.node, "ranks": c.ranks, "command": list(c.words), "line": c.line} for c in made]}
    notes = ["a script that calls nebula.init() finds the plan by NEBULA_PLAN: save it and export NEBULA_PLAN=FILE"]
    if len(made) > 1 and not options.master:
        notes.append(f"set {FIRST_ADDRESS[1:]} to the address of {made[0].node} and {OWN_ADDRESS[1:]} to a node's own")
    if any(kind.emulated for kind in types):
        script = shlex.quote(options.script)
        notes.append(
            f"emulated devices need `nebula launch --cluster CLUSTER.YAML PLAN.JSON {script}`, which builds them"
        )
    return Emitted(text="".join(lines), document=document, notes=tuple(notes))
