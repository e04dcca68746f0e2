"""What an agent tells the controller of its workers, as messages."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

from nebula.elastic.agent.crew import Crew
from nebula.elastic.agent.worker import Order, Worker, ending
from nebula.elastic.policy.blame import Silence
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput


def progress(generation: int, crew: Crew) -> wire.Progress:
    """How far the workers are, and what their steps take."""
    least, most = crew.steps()
    times = crew.step_times()
    return wire.Progress(
        generation=generation,
        least_step=least,
        most_step=most,
        step_s=sum(times) / len(times) if times else 0.0,
        warm=crew.warm,
        section=crew.section(),
        saving_s=crew.saving_s(),
        written_bytes=crew.written_bytes(),
        unkept=crew.unkept(),
        paces=[wire.Pace(rank=rank, steps=steps, work_s=work_s) for rank, steps, work_s in crew.paces()],
    )


def standings(generation: int, standings: Sequence[Silence], *, hangs: bool) -> wire.Standings:
    """How far each rank is, and for how long it has said nothing.

    Args:
        hangs: whether one of them was found silent, and the controller is to ask all other nodes.
    """
    ranks = [
        wire.Standing(
            rank=one.rank,
            step=one.step,
            section=one.section,
            silent_s=one.silent_s,
            frozen=one.frozen,
            parked=one.parked,
        )
        for one in standings
    ]
    return wire.Standings(generation=generation, ranks=ranks, hangs=hangs)


def remarks(said: Iterator[tuple[Order, str, str]]) -> Iterator[wire.Remark]:
    """What workers have said in words."""
    for order, kind, sentence in said:
        yield wire.Remark(generation=order.generation, rank=order.rank, kind=kind, sentence=sentence)


def ended(worker: Worker, order: Order, code: int, short_of_memory: str, seen_s: float) -> wire.Failed:
    """That a worker has ended as it should not.

    Args:
        short_of_memory: words of the kernel's, where it ended the worker for want of memory.
        seen_s: wall time at which its end was heard of.
    """
    lines = worker.last_lines()
    last = f": {lines[-1]}" if lines and code > 0 else ""
    cause = ending(code) + (short_of_memory if code == -signal.SIGKILL else last)
    fault = "mistake" if code == BadInput.exit_code else "exit"
    return failed(order.generation, order.rank, fault, cause, lines, seen_s)


def failed(generation: int, rank: int, fault: str, cause: str, lines: Sequence[str], seen_s: float) -> wire.Failed:
    """That a rank failed, with its last lines."""
    return wire.Failed(generation=generation, rank=rank, fault=fault, cause=cause, last_lines=lines, seen_s=seen_s)
