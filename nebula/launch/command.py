"""Command lines and environments for paddle.distributed.launch: one per node that a plan names.

Pure: nothing is started here. Ranks of a node run on the devices that the plan places them on; emulated devices all
live on this host, whatever nodes the cluster file gives them. Of several nodes Paddle's launcher compares addresses,
not names, so each gets the address of the first and its own.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster, DeviceType
from nebula.errors import BadInput
from nebula.plan.values import Plan

QUIET = (
    "ignore::UserWarning:paddle.utils.cpp_extension.extension_utils",
    "ignore:Current global rank:UserWarning",
)
"""Warnings that Paddle gives on every start and that no user can act on, as PYTHONWARNINGS takes them."""


FIRST_ADDRESS, OWN_ADDRESS = "$FIRST_IP", "$OWN_IP"
"""What stands in a command for addresses that only its reader knows, as shell variables."""
PORT = 8975
"""Of the rendezvous on the first node, where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCommand:
    """What one node has to run.

    Attributes:
        node: `group/index`.
        ranks: how many processes it starts.
        words: the command; with several nodes it may name FIRST_ADDRESS and OWN_ADDRESS.
    """

    node: str
    ranks: int
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command as a person types it."""
        addresses = (FIRST_ADDRESS, OWN_ADDRESS, f"{FIRST_ADDRESS}:{PORT}")
        return " ".join(f'"{word}"' if word in addresses else shlex.quote(word) for word in self.words)


def device_types(cluster: Cluster, plan: Plan) -> tuple[DeviceType, ...]:
    """The device type of each rank.

    Raises:
        BadInput: the plan names a node or device that the cluster does not have.
    """
    return tuple(cluster.device_type(device_index(cluster, p.node, p.device)) for p in plan.ranks)


def is_emulated(types: Sequence[DeviceType]) -> bool:
    """Whether a job runs on emulated devices, some of its ranks perhaps on plain CPUs beside them.

    Raises:
        BadInput: on some emulated and some real ones.
    """
    emulated = {t.name for t in types if t.emulated}
    real = {t.name for t in types if not t.emulated and t.kind != "cpu"}
    if emulated and real:
        raise BadInput(
            f"the plan mixes emulated devices ({', '.join(sorted(emulated))}) and real ones "
            f"({', '.join(sorted(real))}); beside emulated ones a launch takes plain CPUs alone"
        )
    return bool(emulated)


def node_commands(
    plan: Plan,
    script: str,
    args: Sequence[str],
    *,
    types: Sequence[DeviceType] = (),
    log_dir: str,
    master: str = "",
    python: str = sys.executable,
) -> tuple[NodeCommand, ...]:
    """The command of every node, nodes in the order in which ranks meet them.

    Args:
        types: of each rank; empty when the cluster is not known.
        log_dir: where Paddle's launcher puts workerlog.<local rank>.
        master: `IP:PORT` of the first node's rendezvous; empty: the reader puts it in.

    Raises:
        BadInput: ranks of one node do not follow each other, as Paddle's launcher numbers them.
    """
    emulated = is_emulated(types)
    nodes = ["local"] * plan.world_size if emulated else [place.node for place in plan.ranks]
    order = list(dict.fromkeys(nodes))
    if sorted(nodes, key=order.index) != nodes:
        raise BadInput("the plan spreads neighbouring ranks over nodes; Paddle numbers the ranks of a node one by one")
    commands = []
    for index, node in enumerate(order):
        ranks = [r for r, name in enumerate(nodes) if name == node]
        words = [python, "-m", "paddle.distributed.launch", "--log_level", "WARNING", "--log_overwrite", "1"]
        if len(order) > 1:
            words += _meeting(index, len(order), master or f"{FIRST_ADDRESS}:{PORT}")
        words += _devices(plan, ranks, types, emulated=emulated)
        commands.append(NodeCommand(node=node, ranks=len(ranks), words=(*words, "--log_dir", log_dir, script, *args)))
    return tuple(commands)


def _meeting(index: int, nodes: int, master: str) -> list[str]:
    """How a node finds the others; the launcher that sees its own address in --master opens the rendezvous."""
    host = master.rpartition(":")[0] if index == 0 else OWN_ADDRESS
    return ["--master", master, "--host", host, "--nnodes", str(nodes), "--rank", str(index)]


def _devices(plan: Plan, ranks: Sequence[int], types: Sequence[DeviceType], *, emulated: bool) -> list[str]:
    """How the launcher is told which devices a node's ranks take; plain CPUs have no numbers."""
    if types and types[ranks[0]].kind == "cpu" and not emulated:
        return ["--nproc_per_node", str(len(ranks))]
    numbers = ranks if emulated else [plan.ranks[r].device for r in ranks]
    return ["--devices", ",".join(map(str, numbers))]


def environment(base: Mapping[str, str], plan_path: str, *, ranks: int, cores: int) -> dict[str, str]:
    """What every process of a launch finds in its environment.

    Args:
        base: the caller's environment, whose own settings win over our defaults.
        ranks: processes on this node, which share its `cores`.
    """
    threads = str(max(1, cores // ranks))
    defaults = {
        "OMP_NUM_THREADS": threads,
        "GLOG_minloglevel": "2",
        "PYTHONWARNINGS": ",".join(QUIET),
        "PYTHONUNBUFFERED": "1",
        # the MKL in Paddle's wheel takes its slow path on AMD processors unless told so; Intel's ignore it
        "MKL_DEBUG_CPU_TYPE": "5",
    }
    return {**defaults, **base, "NEBULA_PLAN": plan_path}
