"""What a step costs through Nebula beside the same job written for fleet by hand, on emulated devices.

Both launches are alive at once and take turns of a few steps, so that they meet the same machine. Compared are the
kernels and collectives that a step dispatches, its virtual time, and the CPU time of all its processes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from nebula.emulator import environment
from nebula.emulator.table import uniform_links, write_table
from nebula.plan.files import save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding
from tests.bench.rows import Row
from tests.emulated.ranks import DEVICE, LINK, base_environment

HERE = Path(__file__).parent
NEBULA, HAND = HERE / "overhead_by_nebula.py", HERE / "overhead_by_hand.py"
ROWS, LAYERS = 8, 6
LAUNCHES, TURNS, STEPS = 4, 12, 5
PROMISED_PCT, DRAWS = 2.0, 10_000
SOCKET, LOG, PATIENCE_S = "turns", "log", 90.0
"""What overhead_turns.py, which imports paddle, connects to and understands."""
CASES = {"data 2": (2, 1, 1, 1), "tensor 2": (1, 2, 1, 1), "pipeline 2": (1, 1, 2, 4)}
"""Name -> degrees of data, tensor and pipeline, and micro-batches."""


Dispatched = tuple[str, str, float, float]
"""Kind, name, bytes and FLOPs of something that a step dispatches."""


@dataclass(slots=True)
class Pairs:
    """What pairs of turns took; of each quantity [launches, turns], first through Nebula, then by hand.

    Attributes:
        cpu_s: a step of all processes together.
        virtual_s: a step of rank 0.
        events: of each rank, how often a step dispatches what.
    """

    cpu_s: np.ndarray
    virtual_s: np.ndarray
    events: tuple[list[Counter[Dispatched]], list[Counter[Dispatched]]]


def rows() -> Iterator[Row]:
    """Of each case what is dispatched, virtual time and CPU time."""
    for name, degrees in CASES.items():
        yield from _rows(name, measured(*degrees))


def _rows(name: str, pairs: Pairs) -> Iterator[Row]:
    ours, theirs = (_work(ranks) for ranks in pairs.events)
    yield Row(name=f"{name}: kernels and collectives of a step by hand", value=theirs.total(), unit="")
    yield Row(name=f"{name}: those that Nebula adds", value=(ours - theirs).total(), unit="", promise=0)
    yield Row(name=f"{name}: those that Nebula leaves out", value=(theirs - ours).total(), unit="", promise=0)
    copied = _copied_bytes(pairs.events[0]) / _copied_bytes(pairs.events[1])
    yield Row(
        name=f"{name}: bytes between host and device that Nebula adds", value=100 * (copied - 1), unit="%", promise=0
    )
    virtual = np.median(pairs.virtual_s[0]) / np.median(pairs.virtual_s[1])
    yield Row(name=f"{name}: virtual time added", value=100 * float(virtual - 1), unit="%", promise=0.01)
    low, middle, high = interval(pairs.cpu_s[0] / pairs.cpu_s[1])
    hand_ms = 1e3 * float(np.median(pairs.cpu_s[1]))
    yield Row(name=f"{name}: CPU time of a step by hand, all processes", value=hand_ms, unit="ms")
    yield Row(name=f"{name}: CPU time added, median of {pairs.cpu_s[0].size} pairs", value=middle, unit="%")
    yield Row(name=f"{name}: CPU time added, 95 % interval from", value=low, unit="%")
    yield Row(name=f"{name}: CPU time added, 95 % interval to", value=high, unit="%", promise=PROMISED_PCT)


def _work(ranks: list[Counter[Dispatched]]) -> Counter[Dispatched]:
    """Kernels and collectives of all ranks; copies count by their bytes, since a batch may be parted later."""
    return Counter({what: count for what, count in sum(ranks, Counter()).items() if what[0] != "COPY"})


def _copied_bytes(ranks: list[Counter[Dispatched]]) -> float:
    return sum(what[2] * count for rank in ranks for what, count in rank.items() if what[0] == "COPY")


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """What the median ratio adds in per cent: low end, middle, high end of its 95 % bootstrap interval.

    Args:
        ratios: [launches, turns]; launches are drawn first, then turns of each: a process keeps its memory layout.
    """
    random = np.random.default_rng(0)
    launches, turns = ratios.shape
    drawn = random.integers(0, launches, (DRAWS, launches, 1))
    medians = np.median(ratios[drawn, random.integers(0, turns, (DRAWS, launches, turns))], axis=(1, 2))
    low, high = np.percentile(medians, [2.5, 97.5])
    low, middle, high = (100 * float(ratio - 1) for ratio in (low, np.median(ratios), high))
    return low, middle, high


def measured(data: int, tensor: int, pipeline: int, micro_batches: int) -> Pairs:
    """Both launches LAUNCHES times, TURNS pairs of turns each; who goes first changes from pair to pair."""
    took: list[list[list[dict[str, float]]]] = []
    for _ in range(LAUNCHES):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            both = [
                stack.enter_context(_launch(folder / script.stem, script, (data, tensor, pipeline, micro_batches)))
                for script in (NEBULA, HAND)
            ]
            took.append([])
            for turn in range(TURNS):
                pair = [0, 1] if turn % 2 else [1, 0]
                of = {who: both[who].turn(str(STEPS)) for who in pair}
                took[-1].append([_step(of[0]), _step(of[1])])
            logged = tuple([Counter(map(tuple, events)) for events in launch.turn(LOG)] for launch in both)
    grid = {
        key: np.array([[[each[key] for each in pair] for pair in pairs] for pairs in took]) for key in took[0][0][0]
    }
    cpu_s, virtual_s = (np.moveaxis(grid[key], 2, 0) for key in ("cpu_s", "virtual_s"))
    return Pairs(cpu_s=cpu_s, virtual_s=virtual_s, events=logged)


def _step(turns: list[dict[str, float]]) -> dict[str, float]:
    """A step's share of a turn, whose ranks are given."""
    return {"cpu_s": sum(turn["cpu_s"] for turn in turns) / STEPS, "virtual_s": turns[0]["virtual_s"] / STEPS}


class Launch:
    """A running launch: what its ranks are told through, in the order of the ranks."""

    def __init__(self, links: list[IO[str]]) -> None:
        self._links = links

    def turn(self, order: str) -> list[Any]:
        """Gives an order to all ranks and waits for their answers."""
        for link in self._links:
            print(order, file=link, flush=True)
        return [json.loads(link.readline()) for link in self._links]


@contextmanager
def _launch(folder: Path, script: Path, degrees: tuple[int, ...]) -> Iterator[Launch]:
    """A launch whose ranks have warmed up and wait for their turn; it ends with the block."""
    folder.mkdir()
    data, tensor, pipeline, _ = degrees
    ranks = data * tensor * pipeline
    save_plan(_plan(*degrees), folder / "plan.json")
    table = write_table(folder / "devices", [DEVICE] * ranks, uniform_links(ranks, LINK))
    env = base_environment(ranks) | environment(table) | {"NEBULA_PLAN": str(folder / "plan.json")}
    words = [sys.executable, "-m", "paddle.distributed.launch", "--log_level", "WARNING"]
    words += ["--devices", ",".join(map(str, range(ranks))), "--log_dir", str(folder / "log")]
    with socket.socket(socket.AF_UNIX) as door, ExitStack() as stack:
        door.bind(str(folder / SOCKET))
        door.listen(ranks)
        door.settimeout(PATIENCE_S)
        command = [*words, str(script), str(folder), *map(str, degrees)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            links: dict[int, IO[str]] = {}
            for _ in range(ranks):
                link = stack.enter_context(stack.enter_context(door.accept()[0]).makefile("rw"))
                links[json.loads(link.readline())] = link
            yield Launch([links[rank] for rank in range(ranks)])
            stack.close()
            process.wait(PATIENCE_S)
        except (TimeoutError, json.JSONDecodeError) as error:
            said = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("log/workerlog.*")))
            raise RuntimeError(f"a rank of {script.name} ended or hangs:\n{said}") from error
        finally:
            process.terminate()
            process.wait()


def _plan(data: int, tensor: int, pipeline: int, micro_batches: int) -> Plan:
    ranks = data * tensor * pipeline
    return Plan(
        stages=uniform_stages(
            boundaries=tuple(LAYERS * stage // pipeline for stage in range(pipeline + 1)),
            data=data,
            tensor=tensor,
            sharding=Sharding(),
            micro_batch_rows=ROWS // data // micro_batches,
        ),
        micro_batches=micro_batches,
        schedule="1f1b",
        engine="fleet",
        ranks=tuple(RankPlace("host/0", rank) for rank in range(ranks)),
        job=Job(global_batch=ROWS),
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
    )
