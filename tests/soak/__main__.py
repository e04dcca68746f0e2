"""Strikes a real job of two nodes with every kind of fault for minutes, then holds it against an undisturbed one.

It fails when no new step is done for 60 s, a process ends that no fault has killed, a step is missing or there twice,
losses are not those of the undisturbed run, or something is left behind. NEBULA_SOAK_SECONDS (900) says for how long,
NEBULA_SOAK_SEED replays a schedule.
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
from tests.soak.schedule import Blow, blows
from tests.soak.victim import Surprise, Victim

GAP_S = 60.0
"""So long no new step may be done."""
OVER_IT = 2
"""New steps by which a job has got over a fault."""
CLOSE = 1e-4
"""By which a loss may differ, relative to it: on one node sums are rounded otherwise than on two, and differences grow
from step to step. A row that was lost, or seen twice, makes one that is hundreds of times as large."""


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


def compared(victim: Victim, calm: Victim) -> float:
    """The largest difference of a loss from that of an undisturbed run, relative to it.

    Raises:
        Surprise: steps are missing or there twice.
    """
    found = victim.steps()
    if [one["step"] for one in found] != list(range(1, len(found) + 1)):
        raise Surprise("steps are missing, or there twice, in steps.jsonl")
    calm.begin().wait_step(len(found), 600 + len(found))
    pairs = zip(found, calm.steps(), strict=False)
    return max(abs(one["loss"] - other["loss"]) / abs(other["loss"]) for one, other in pairs)


def main() -> int:
    """Prints what was done and what came of it; 1 where it failed."""
    seconds = float(os.environ.get("NEBULA_SOAK_SECONDS", "900"))
    seed = int(os.environ.get("NEBULA_SOAK_SEED") or secrets.randbelow(10**9))
    folder = Path(tempfile.mkdtemp(prefix="nebula-soak-"))
    print(f"soak of {seconds:.0f} s, seed {seed}: NEBULA_SOAK_SEED={seed} replays it; logs in {folder}", flush=True)
    victim, calm = Victim(folder / "struck"), Victim(folder / "calm")
    soak = Soak(victim, seconds)
    try:
        victim.begin()
        soak.run(blows(seed))
        victim.end()
        left = victim.left_behind()
        print(f"{len(victim.steps())} steps; now the same without faults", flush=True)
        worst = compared(victim, calm)
        wrong = [f"left behind: {one}" for one in left]
        wrong += [f"a loss differs by {worst:.1e} of itself"] if worst > CLOSE else []
    except (Surprise, AssertionError) as error:
        wrong, worst = [str(error)], float("nan")
    finally:
        victim.close()
        calm.close()
    return _verdict(soak, wrong, worst, seed, folder)


def _verdict(soak: Soak, wrong: Sequence[str], worst: float, seed: int, folder: Path) -> int:
    kinds = Counter(one.fault.kind.value for one in soak.done)
    print(f"{len(soak.done)} faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    print(f"{len(soak.refused)} could not be done at that moment; {soak.victim.deaths} processes were started again")
    print(f"longest time without a new step {soak.longest_s:.1f} s; losses differ by {worst:.1e} at most")
    print(f"load {os.getloadavg()[0]:.1f}")
    for one in wrong:
        print(f"FAILED (seed {seed}): {one}")
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
        print("passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
