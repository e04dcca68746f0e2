"""Strikes a real job of two nodes with every kind of fault for minutes, then holds it against an undisturbed one.

It fails when no new step is done for 60 s, a process ends that no fault has killed, a step is missing or there twice,
losses are not those of the undisturbed run, or something is left behind. NEBULA_SOAK_SECONDS (900) says for how long,
NEBULA_SOAK_SEED replays a schedule, NEBULA_SOAK_REPLICAS=2 has two replicas struck, whose losses have to be the same
bit by bit.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nebula.elastic.chaos.values import Kind
from nebula.errors import NebulaError
from tests.soak.schedule import NODES, Blow, blows
from tests.soak.victim import Surprise, Victim

GAP_S = 60.0
"""So long no new step may be done."""
LONG_S = 20.0
"""A time without a new step of which the logs are kept, though all went well."""
OVER_IT = 2
"""New steps by which a job has got over a fault."""
CLOSE, TIMES = 1e-5, 3.0
"""By which a loss may differ, relative to it, and how many times as far as one node and two, both undisturbed, have
differed up to that step: their sums are rounded unlike each other, and this training makes a difference three times as
large every thirty steps. A row that was lost, or seen twice, makes one of a hundredth at once."""


class Soak:
    """One run.

    Attributes:
        done: faults that were done.
        refused: faults that could not be done at that moment, with the reason.
        longest_s: between two new steps.
    """

    def __init__(self, victim: Victim, seconds: float) -> None:
        self.victim, self.seconds = victim, seconds
        self.done: list[Blow] = []
        self.refused: list[tuple[Blow, str]] = []
        self.longest_s = 0.0
        self._began_s = self._stepped_s = time.monotonic()
        self._most = 0

    def run(self, schedule: Iterable[Blow]) -> None:
        """Strikes until the time is over, then lets the job get over it.

        Raises:
            Surprise: see the module.
        """
        for blow in schedule:
            self._pause(blow)
            if self._over():
                break
            self._strike(blow)
        self._steps_on(OVER_IT)

    def _over(self) -> bool:
        return time.monotonic() - self._began_s > self.seconds

    def _pause(self, blow: Blow) -> None:
        if not blow.at_once:
            self._steps_on(OVER_IT)
        until_s = time.monotonic() + blow.pause_s
        while time.monotonic() < until_s:
            self._look()

    def _steps_on(self, more: int) -> None:
        wanted = self._most + more
        while self._most < wanted:
            self._look()

    def _look(self) -> None:
        """Takes a moment."""
        time.sleep(0.1)
        self.victim.revive()
        now_s, most = time.monotonic(), self.victim.last_step()
        gap_s = now_s - self._stepped_s
        if most > self._most:
            self._most, self._stepped_s = most, now_s
            self.longest_s = max(self.longest_s, gap_s)
        elif gap_s > GAP_S:
            raise Surprise(f"no step after step {self._most} for {gap_s:.0f} s")

    def _strike(self, blow: Blow) -> None:
        fault = blow.fault
        node = "" if fault.kind.of_the_job else fault.node
        try:
            self.victim.client().inject(node, fault.kind.value, seconds=fault.seconds, weather=fault.weather)
        except NebulaError as error:
            if fault.kind is not Kind.CONTROLLER:  # which gives no answer
                self.refused.append((blow, str(error)))
                self._say(f"{blow.words}: not done: {error}")
                return
        self.done.append(blow)
        self._say(blow.words)

    def _say(self, words: str) -> None:
        at_s = time.monotonic() - self._began_s
        print(f"{at_s:7.1f} s  step {self._most:5}  {words}", flush=True)


def compared(victim: Victim, calm: Victim, alone: Victim, *, same: bool) -> tuple[float, list[str]]:
    """The largest difference of a loss from that of an undisturbed run on both nodes, and which are too large.

    Args:
        alone: is run undisturbed on one node, to see what rounding comes to.
        same: whether all losses have to be the same bit by bit.

    Raises:
        Surprise: steps are missing or there twice.
    """
    found = victim.steps()
    if [one["step"] for one in found] != list(range(1, len(found) + 1)):
        raise Surprise("steps are missing, or there twice, in steps.jsonl")
    others = []
    for one, nodes in ((calm, NODES), (alone, NODES[:1])):
        one.controller().agents(*nodes)
        one.wait_step(len(found), 600 + len(found))
        others.append(losses(one)[: len(found)])
        one.close()
    if same and others[0] != others[1]:
        raise Surprise("two replicas and one, both undisturbed, have other losses")
    return judged(losses(victim), *others, close=0.0 if same else CLOSE)


def judged(
    struck: Sequence[float], calm: Sequence[float], alone: Sequence[float], close: float = CLOSE
) -> tuple[float, list[str]]:
    """The largest difference of a loss, relative to it, and which are larger than rounding explains."""
    worst, rounding, wrong = 0.0, 0.0, list[str]()
    for step, (one, other, third) in enumerate(zip(struck, calm, alone, strict=True), 1):
        rounding = max(rounding, abs(third - other) / abs(other))
        differs = abs(one - other) / abs(other)
        worst = max(worst, differs)
        if not differs <= max(close, TIMES * rounding):
            wrong.append(f"the loss of step {step} differs by {differs:.1e} of itself, rounding makes {rounding:.1e}")
    return worst, wrong


def losses(victim: Victim) -> list[float]:
    """Of all steps."""
    return [one["loss"] for one in victim.steps()]


def main() -> int:
    """Prints what was done and what came of it; 1 where it failed."""
    seconds = float(os.environ.get("NEBULA_SOAK_SECONDS", "900"))
    seed = int(os.environ.get("NEBULA_SOAK_SEED") or secrets.randbelow(10**9))
    replicas = int(os.environ.get("NEBULA_SOAK_REPLICAS", "0"))
    folder, of = Path(tempfile.mkdtemp(prefix="nebula-soak-")), f" of {replicas} shards on replicas" if replicas else ""
    print(f"soak{of} of {seconds:.0f} s, seed {seed}: NEBULA_SOAK_SEED={seed} replays it; logs in {folder}", flush=True)
    victim, calm, alone = (Victim(folder / name, replicas) for name in ("struck", "calm", "alone"))
    soak = Soak(victim, seconds)
    try:
        victim.begin()
        soak.run(blows(seed))
        victim.end()
        left = victim.left_behind()
        print(f"{len(victim.steps())} steps; now the same without faults, on both nodes and on one", flush=True)
        worst, wrong = compared(victim, calm, alone, same=replicas > 0)
        wrong += [f"left behind: {one}" for one in left]
    except (Surprise, AssertionError) as error:
        wrong, worst = [str(error)], float("nan")
    finally:
        for one in (victim, calm, alone):
            one.close()
    return _verdict(soak, wrong, worst, seed, folder)


def _verdict(soak: Soak, wrong: Sequence[str], worst: float, seed: int, folder: Path) -> int:
    kinds = Counter(one.fault.kind.value for one in soak.done)
    print(f"{len(soak.done)} faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    print(f"{len(soak.refused)} could not be done at that moment; {soak.victim.deaths} processes were started again")
    print(f"longest time without a new step {soak.longest_s:.1f} s; losses differ by {worst:.1e} at most")
    print(f"load {os.getloadavg()[0]:.1f}")
    for one in wrong:
        print(f"FAILED (seed {seed}): {one}")
    if soak.longest_s > LONG_S:
        print(f"that was long: the events of the job are in {folder}")
    elif not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    if not wrong:
        print("passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
