"""What a plan needs of a scheduler: how many equal nodes, and how many devices of each.

Schedulers give nodes of one kind and renumber their devices, so a plan that needs unlike nodes is refused here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster
from nebula.errors import BadInput, closest, shown
from nebula.plan.files import check_made_for
from nebula.plan.legality import violations
from nebula.plan.values import Plan

KINDS = ("gpu", "npu", "xpu", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Equal nodes with `devices` devices of a kind (`gpu`, `npu`, `xpu` or `cpu`) each."""

    nodes: int
    devices: int
    kind: str

    @property
    def launcher_devices(self) -> str:
        """How paddle.distributed.launch is told which devices to use; a CPU has no numbers."""
        if self.kind == "cpu":
            return f"--nproc_per_node {self.devices}"
        return "--devices " + ",".join(map(str, range(self.devices)))


def allocation(plan: Plan, cluster: Cluster | None, kind: str = "gpu") -> Allocation:
    """The nodes that a plan needs.

    Args:
        cluster: that the plan was made for; without it all devices are taken to be of `kind`.

    Raises:
        BadInput: there is no such kind, the plan is not legal or for another cluster, nodes hold different numbers of
            ranks, a node's ranks do not follow each other, or the plan spans unlike node groups or emulated devices.
    """
    if kind not in KINDS:
        raise BadInput(f"no scheduler has devices of kind {shown(kind)}; {closest(kind, KINDS)}")
    _check_legal(plan, cluster)
    nodes = [place.node for place in plan.ranks]
    held = Counter(nodes)
    if len(set(held.values())) > 1:
        few, most = min(held, key=lambda n: held[n]), max(held, key=lambda n: held[n])
        counts = f"{held[most]} ranks on node {most} and {held[few]} on {few}"
        raise BadInput(f"the plan has {counts}; a scheduler gives equal nodes: plan for whole nodes")
    order = list(dict.fromkeys(nodes))
    if sorted(nodes, key=order.index) != nodes:
        raise BadInput("the plan spreads neighbouring ranks over nodes; Paddle numbers the ranks of a node one by one")
    groups = sorted({node.rpartition("/")[0] for node in order})
    if len(groups) > 1:
        spans = f"the plan spans node groups {' and '.join(groups)}"
        raise BadInput(
            f"{spans}; one job asks a scheduler for one kind of node: exclude all groups but one and plan again"
        )
    if cluster is not None:
        place = plan.ranks[0]
        device = cluster.device_type(device_index(cluster, place.node, place.device))
        if device.emulated:
            raise BadInput(
                f"the plan is for emulated devices ({device.name}), which need no scheduler; use nebula launch"
            )
        kind = device.kind
    return Allocation(nodes=len(order), devices=held[order[0]], kind=kind)


def _check_legal(plan: Plan, cluster: Cluster | None) -> None:
    """Refuses what no scheduler should start: a plan file may hold anything."""
    if cluster is not None:
        made_for = {"model": plan.made_from.model, "cluster": cluster.name}
        check_made_for(plan, plan.made_from.model_hash, cluster_hash(cluster), **made_for)
    broken = violations(plan, layers=plan.stages[-1].layers[1], cluster=cluster)
    if broken:
        raise BadInput("the plan is not legal: " + "; ".join(violation.sentence for violation in broken))


def one_line(**words: str) -> None:
    """Refuses words that would reach beyond their line of a script or manifest.

    Raises:
        BadInput: a word holds a line break or another control character.
    """
    for name, word in words.items():
        if not word.isprintable():
            raise BadInput(f"{name} {shown(word)} must be one line of printable text")


def comment(text: str) -> str:
    """The text as one line of a comment, whatever its characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def job_name(plan: Plan) -> str:
    """A name that Slurm and Kubernetes both take: lower-case letters, digits and dashes, 40 characters at most."""
    words = re.sub(r"[^a-z0-9]+", "-", plan.made_from.model.lower()).strip("-")[:33].strip("-")
    return f"nebula-{words}".rstrip("-")


def templates() -> Environment:
    """The templates of this folder; a name that a template asks for and nobody gives is an error."""
    loader = PackageLoader("nebula.deploy", ".")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["comment"] = comment
    return environment
