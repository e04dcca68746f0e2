"""A plan as an sbatch script: one launcher a node, which starts the node's ranks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from nebula.cluster.values import Cluster
from nebula.deploy.allocation import allocation, job_name, templates
from nebula.errors import BadInput, shown
from nebula.plan.values import Plan


def sbatch_script(
    plan: Plan,
    plan_file: str,
    script: str,
    args: Sequence[str] = (),
    *,
    cluster: Cluster | None = None,
    kind: str = "gpu",
    time_limit: str = "",
    port: int = 8975,
) -> str:
    """The text of an sbatch script.

    Args:
        plan_file: path of the plan as the nodes see it.
        script: what every rank runs; it calls nebula.init().
        cluster: that the plan was made for; without it all devices are taken to be of `kind`.
        time_limit: in Slurm's form (`1-00:00:00`); empty: the partition's.
        port: of the launchers' rendezvous on the first node.

    Raises:
        BadInput: Slurm cannot give the nodes that the plan needs (see nebula.deploy.allocation), or the time limit is
            not in its form.
    """
    need = allocation(plan, cluster, kind)
    if not re.fullmatch(r"[0-9]*(-?[0-9]+(:[0-9]+){0,2})?", time_limit):
        raise BadInput(f"time limit {shown(time_limit)}: write it as Slurm does, such as 1-00:00:00 or 90 (minutes)")
    environment = templates()
    environment.filters["quoted"] = shlex.quote
    return environment.get_template("slurm.sh.j2").render(
        plan=plan,
        plan_file=plan_file,
        script=script,
        args=args,
        need=need,
        name=job_name(plan),
        time_limit=time_limit,
        port=port,
    )
