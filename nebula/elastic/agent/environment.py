"""The environment of a worker: the variables that paddle.distributed.launch sets, and those of Nebula."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from nebula.elastic.agent.copies import OWN
from nebula.elastic.agent.worker import Order
from nebula.elastic.protocol import control_pb2 as wire
from nebula.launch.command import environment

if TYPE_CHECKING:
    from nebula.elastic.agent.node import Node

PLAN = "plan.json"
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""Variable by which Paddle's gloo chooses a network interface."""


def of_process(base: Mapping[str, str], job: Mapping[str, str], *, slots: int) -> dict[str, str]:
    """What a process finds that has no rank yet.

    Args:
        base: the agent's own, whose settings win over our defaults.
        job: of all workers.
    """
    return {**environment(base, "", ranks=slots, cores=os.cpu_count() or 1), **job}


def orders(
    start: wire.Start,
    ranks: Sequence[wire.Rank],
    *,
    node: Node,
    copies: Path | None,
    memory_every: int,
    resume: Path | None,
) -> dict[int, Order]:
    """What each slot is to run.

    Args:
        ranks: of this node.
        copies: scratch folder in which copies in memory are; None: there are none.
        resume: folder of the copies that are taken up.
    """
    plan = node.scratch / PLAN
    plan.write_text(start.plan_json, encoding="utf-8")
    logs = node.logs or Path(start.log_folder) / node.name.replace("/", "-")
    logs.mkdir(parents=True, exist_ok=True)
    more = {"NEBULA_PLAN": str(plan), "NEBULA_NODE": node.name, "NEBULA_GENERATION": str(start.generation)}
    if copies is not None:
        more |= {"NEBULA_MEMORY": str(copies / OWN), "NEBULA_MEMORY_EVERY": str(memory_every)}
    if resume is not None:
        more["NEBULA_RESUME"] = str(resume)
    if start.apart:
        more |= node.roll
    more |= of_network(os.environ, node.address)
    return {
        rank.local: Order(
            generation=start.generation,
            rank=rank.rank,
            words=list(start.words),
            environment={
                **start.environment,
                **rank.environment,
                **more,
                **(of_member(rank, str(logs)) if start.apart else of_rank(start, rank, len(ranks), str(logs))),
            },
            folder=Path.cwd(),
            log=logs / f"workerlog.{rank.rank}",
        )
        for rank in ranks
    }


def of_network(base: Mapping[str, str], address: str) -> dict[str, str]:
    """Has gloo use the interface by which others reach this node; by itself it takes that of the host's name.

    That name often leads to a loopback address, which no other node reaches.

    Args:
        base: the agent's own environment, which wins.
    """
    if base.get(GLOO_INTERFACE):
        return {}
    try:
        number = socket.gethostbyname(address)
    except OSError:
        return {}
    interfaces = {one.address: name for name, there in psutil.net_if_addrs().items() for one in there}
    found = interfaces.get(number, "")
    return {GLOO_INTERFACE: found} if found and not ipaddress.ip_address(number).is_loopback else {}


def of_rank(start: wire.Start, rank: wire.Rank, here: int, logs: str) -> dict[str, str]:
    """What paddle.distributed.launch sets for a rank.

    Args:
        here: ranks on its node.
    """
    nodes = list(dict.fromkeys(one.node for one in start.ranks))
    world = str(len(start.ranks))
    return {
        "PADDLE_MASTER": start.master,
        "PADDLE_GLOBAL_SIZE": world,
        "PADDLE_LOCAL_SIZE": str(here),
        "PADDLE_GLOBAL_RANK": str(rank.rank),
        "PADDLE_LOCAL_RANK": str(rank.local),
        "PADDLE_NNODES": str(len(nodes)),
        "PADDLE_CURRENT_ENDPOINT": rank.endpoint,
        "PADDLE_TRAINER_ID": str(rank.rank),
        "PADDLE_TRAINERS_NUM": world,
        "PADDLE_RANK_IN_NODE": str(rank.local),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(one.endpoint for one in start.ranks),
        "PADDLE_LOG_DIR": logs,
    }


def of_member(rank: wire.Rank, logs: str) -> dict[str, str]:
    """The same for a member of a group of replicas, which is alone in Paddle's eyes."""
    return {
        "PADDLE_TRAINER_ID": "0",
        "PADDLE_TRAINERS_NUM": "1",
        "PADDLE_RANK_IN_NODE": str(rank.local),
        "PADDLE_LOCAL_RANK": str(rank.local),
        "PADDLE_LOG_DIR": logs,
    }
