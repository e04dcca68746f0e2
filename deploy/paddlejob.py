"""A plan as a manifest of the Paddle operator (batch.paddlepaddle.org/v1): a pod a node, the plan in a ConfigMap."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from nebula.cluster.values import Cluster
from nebula.deploy.allocation import allocation, job_name, one_line, templates
from nebula.errors import BadInput
from nebula.plan.files import dumps
from nebula.plan.values import Plan

RESOURCES = {"gpu": "nvidia.com/gpu", "npu": "huawei.com/Ascend910", "xpu": "kunlunxin.com/xpu", "cpu": "cpu"}
"""What the vendors' device plug-ins for Kubernetes call their devices."""

MOST_CONFIG_BYTES = 1_000_000
"""Kubernetes holds at most 1 MiB in a ConfigMap."""


def manifest(
    plan: Plan,
    plan_file: str,
    script: str,
    args: Sequence[str] = (),
    *,
    cluster: Cluster | None = None,
    kind: str = "gpu",
    image: str = "nebula:latest",
) -> str:
    """The text of a manifest with the plan inside.

    Args:
        plan_file: where the plan was read, for the comment.
        script: what every rank runs, a path in the image; it calls nebula.init().
        cluster: that the plan was made for; without it all devices are taken to be of `kind`.
        image: of the pods, with Paddle for the devices and Nebula (deploy/Dockerfile builds one for CPU).

    Raises:
        BadInput: a job cannot ask for the nodes that the plan needs, the plan is too large for a ConfigMap, or a word
            holds a line break.
    """
    need = allocation(plan, cluster, kind)
    one_line(script=script, image=image, **{f"argument {place}": word for place, word in enumerate(args)})
    text = dumps(plan)
    if len(text.encode()) > MOST_CONFIG_BYTES:
        raise BadInput(f"{plan_file}: {len(text):,} bytes are more than a ConfigMap holds; put the plan into the image")
    environment = templates()
    environment.filters["json"] = json.dumps
    rendered = environment.get_template("paddlejob.yaml.j2").render(
        plan=plan,
        plan_file=plan_file,
        plan_text=text.rstrip("\n"),
        command=shlex.join([script, *args]),
        need=need,
        name=job_name(plan),
        image=image,
        resource=RESOURCES[need.kind],
    )
    return rendered.rstrip("\n") + "\n"
