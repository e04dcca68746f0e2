"""The first call of a training script: which plan, which rank, and the process groups of fleet's hybrid topology.

Without NEBULA_PLAN the plan is one serial process. Refuses, once and without a traceback, a plan for another number of
processes than were started.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import paddle

from nebula.errors import BadInput, NebulaError
from nebula.plan import kinds as kinds_told
from nebula.plan.values import Plan
from nebula.runtime import circles, meeting, paddle_faults, runnable
from nebula.runtime.place import Degrees, degrees, replica_rows
from nebula.runtime.progress import Section, progress_of
from nebula.runtime.quiet import quiet
from nebula.runtime.serial import serial_plan

SEED = 2024
"""Seed of what every rank builds alike: the model's first weights."""


def init() -> Plan:
    """Reads the plan, joins the other ranks, and leaves the host as the place where the model is built.

    The model is built in host memory by every rank alike; nebula.parallelize moves a rank's part to its device.

    Returns:
        The plan that NEBULA_PLAN names, or that of one serial process.
    """
    sys.excepthook = plainly
    progress_of(os.environ).enter(Section.BEGIN)
    try:
        plan = plan_of(os.environ)
        set_up(plan)
    except NebulaError as error:
        # every rank meets the same mistake; one says so
        if started_rank(os.environ) == 0:
            print(f"nebula: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    return plan


def plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A user's mistake ends a rank with its sentence and its exit code; everything else keeps its traceback."""
    if not isinstance(error, NebulaError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"nebula: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.exit_code)  # an excepthook cannot choose the exit code otherwise


def started_rank(env: Mapping[str, str]) -> int:
    """The rank that paddle.distributed.launch gave this process."""
    return int(env.get("PADDLE_TRAINER_ID", "0"))


def plan_of(env: Mapping[str, str]) -> Plan:
    """The plan that an environment asks for, checked against the number of started processes.

    Raises:
        BadInput: the plan cannot be read, or is for another number of processes.
    """
    started = int(env.get("PADDLE_TRAINERS_NUM", "1"))
    path = env.get("NEBULA_PLAN", "")
    if not path:
        if started > 1:
            raise BadInput(f"{started} processes were started without a plan: set NEBULA_PLAN to a plan file")
        return serial_plan()
    from nebula.plan.files import load_plan

    plan = load_plan(Path(path))
    check_started(plan, started, path)
    return plan


def check_started(plan: Plan, started: int, path: str) -> None:
    """Refuses a plan for another number of processes.

    Raises:
        BadInput: with both numbers.
    """
    if plan.world_size != started:
        raise BadInput(
            f"plan {path} places {plan.world_size} ranks, {started} process{'es were' if started != 1 else ' was'} "
            f"started: start {plan.world_size} (nebula launch {path} script.py) or plan for {started}"
        )


def set_up(plan: Plan) -> None:
    """Seeds the process and, with several ranks, builds fleet's groups for the plan.

    A process may set up one plan after another, of the same number of ranks.

    Raises:
        BadInput: the plan is not legal, or cannot run on this rank's device.
    """
    kinds = kinds_told.read(os.environ, plan.world_size)
    if kinds:
        device()  # Paddle would take the CPU's for all
    runnable.check(plan, device() if paddle.distributed.is_initialized() else paddle.get_device(), kinds)
    if plan.world_size > 1:
        if paddle.distributed.is_initialized():
            paddle.set_device(device())
        _init_fleet(plan, kinds)
        circles.meet(kinds, paddle.distributed.get_rank())
    device()
    paddle.set_device("cpu")
    paddle.seed(SEED)


@functools.cache
def device() -> str:
    """The device of this rank in Paddle's words (`sim_npu:0`, `gpu:3`, `cpu`), as the launcher and Paddle chose it.

    Asked first before anything else chooses a device.
    """
    return str(paddle.get_device())


def _init_fleet(plan: Plan, kinds: tuple[str, ...]) -> None:
    from paddle.distributed import fleet
    from paddle.distributed.fleet.base import topology
    from paddle.distributed.fleet.layers.mpu.random import get_rng_state_tracker

    alike = runnable.engine(plan, device(), kinds) != "executor"
    # the executor makes its own groups: to fleet all its ranks are one data-parallel group
    mesh = degrees(plan) if alike else Degrees(data=plan.world_size, pipeline=1, sharding=1, tensor=1)
    with quiet():
        strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": mesh.data,
        "pp_degree": mesh.pipeline,
        "sharding_degree": mesh.sharding,
        "mp_degree": mesh.tensor,
        "order": mesh.paddle_order,
    }
    if mesh.pipeline > 1:
        rows = replica_rows(plan) // plan.micro_batches
        strategy.pipeline_configs = {"accumulate_steps": plan.micro_batches, "micro_batch_size": rows}
    paddle_faults.end_in_peace()
    if not paddle.distributed.is_initialized() and not kinds:  # ranks of unlike kinds make no groups over gloo
        meeting.meet()
    topology._HYBRID_PARALLEL_GROUP = None  # else fleet keeps the groups of the plan before
    with quiet(), _unlike(kinds):
        fleet.init(is_collective=True, strategy=strategy, log_level="ERROR")
    tracker = get_rng_state_tracker()
    tracker.reset()
    tensor_rank = fleet.get_hybrid_communicate_group().get_model_parallel_rank() if mesh.tensor > 1 else 0
    tracker.add("model_parallel_rng", SEED + 1 + tensor_rank)


@contextmanager
def _unlike(kinds: tuple[str, ...]) -> Iterator[None]:
    """Where kinds differ: Paddle's groups of all ranks carry nothing, those within a kind use its own device."""
    if not kinds:
        yield
        return
    os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    with paddle_faults.of_unlike_kinds():
        yield
    paddle.set_device(device())
    if device() != "cpu":
        paddle.base.core.CommContextManager.set_device_id(int(device().partition(":")[2] or 0))
