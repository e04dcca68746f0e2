"""Questions that are answered ahead by processes of their own, on as many cores as this process may use.

An answer must follow from its question alone: then it is the same whoever works it out, and when. Processes are forked,
so that they know what this one knew; where there is one core, no fork, or little to do, this process answers itself.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any, Protocol

MOST = 6
"""Processes at the most: each keeps what it has worked out."""

BACKLOG = 4
"""Questions that may wait for one process beside an urgent one."""

HEADER_BYTES = 8

Answer = Callable[[Any], Any]
"""Works out the answer to a question; may raise."""

Told = tuple[bool, Any]
"""Whether there is an answer, and it, or what was raised."""

Near = Callable[[Any], Hashable]
"""What a question shares with others that are answered at less cost by the process that has answered it."""


class Workers(Protocol):
    """Who answers. Not for several threads."""

    def expect(self, questions: Iterable[Hashable]) -> None:
        """Tells of questions that are likely to be asked, the next one first."""

    def ask(self, question: Hashable) -> Any:
        """The answer, or what working it out raises."""

    def close(self) -> None:
        """Ends all processes; nothing is asked any more."""


def workers(answer: Answer, near: Near, processes: int = 0, *, beside: int = 0) -> Workers:
    """Processes that know what this one knows now.

    Args:
        answer: to a question; both are plain values that can be pickled.
        near: questions with equal values of it are given to the same process, which may know a part already.
        processes: how many; 0: one for each core, up to MOST; 1: this process answers itself.
        beside: of these, how many this process keeps busy itself.
    """
    count = processes or min(cores(), MOST)
    alone = count < 2 or count <= beside or sys.platform != "linux"
    return Alone(answer) if alone else Forked(answer, near, count - beside)


def cores() -> int:
    """Cores that this process may use, where a core runs two threads.

    A second process on the other thread of a core gains nothing: searches wait for no memory and no input. On two
    threads of one core Titan's search took 1.6 s by two processes, 1.2 s by one.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return max(1, threads // 2)


class Alone:
    """This process answers when it is asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def expect(self, questions: Iterable[Hashable]) -> None:
        """Nothing: what is never asked is never worked out."""

    def ask(self, question: Hashable) -> Any:
        """The answer."""
        return self._answer(question)

    def close(self) -> None:
        """Nothing to end."""


class Forked:
    """Several processes; a question that none of those alive was given is answered here."""

    def __init__(self, answer: Answer, near: Near, processes: int) -> None:
        self._answer, self._near = answer, near
        self._known: dict[Hashable, Told] = {}
        self._given: dict[Hashable, _Worker] = {}
        self._owners: dict[Hashable, _Worker] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(processes):
                self._workers.append(_Worker(answer, self._workers))
        except BaseException:
            self.close()
            raise

    def expect(self, questions: Iterable[Hashable]) -> None:
        """Gives them to processes as long as one has few."""
        self._collect()
        for question in questions:
            if all(len(worker.given) >= BACKLOG for worker in self._workers):
                return
            if question not in self._given and question not in self._known:
                worker = self._owner(question)
                if worker is not None and len(worker.given) < BACKLOG:
                    self._give(question, worker, urgent=False)

    def ask(self, question: Hashable) -> Any:
        """The answer, as soon as its process has it."""
        if question not in self._given and question not in self._known:
            worker = self._owner(question)
            if worker is not None:
                self._give(question, worker, urgent=True)
        while question in self._given:
            self._take(self._given[question])
        if question not in self._known:
            return self._answer(question)
        fine, found = self._known.pop(question)
        if not fine:
            raise found
        return found

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for worker in self._workers:
            worker.end()
        for kept in (self._workers, self._given, self._known):
            kept.clear()

    def _owner(self, question: Hashable) -> _Worker | None:
        """Who answers what is near; nobody where it is new and all have died."""
        key = self._near(question)
        owner = self._owners.get(key)
        if owner is None or not owner.alive:
            alive = [worker for worker in self._workers if worker.alive]
            if not alive:
                return None
            owner = self._owners[key] = min(alive, key=lambda worker: (len(worker.given), worker.count))
        return owner

    def _give(self, question: Hashable, worker: _Worker, *, urgent: bool) -> None:
        if worker.give(question, urgent=urgent):
            self._given[question] = worker

    def _collect(self) -> None:
        """Takes the answers that are there."""
        by_pipe = {worker.told: worker for worker in self._workers if worker.given}
        if by_pipe:
            for pipe in select.select(list(by_pipe), [], [], 0)[0]:
                self._take(by_pipe[pipe])

    def _take(self, worker: _Worker) -> None:
        """Waits for the next answer of a process; of one that has died nothing is expected any more."""
        try:
            question, told = worker.take()
        except EOFError:
            for lost in worker.given:
                del self._given[lost]
            worker.given.clear()
            return
        del self._given[question]
        self._known[question] = told


class _Worker:
    """One process, and the pipes to it and from it.

    Attributes:
        given: questions that are not answered yet, each with whether it was urgent.
        count: how many there were.
        alive: whether it answers, as far as is known.
    """

    def __init__(self, answer: Answer, others: list[_Worker]) -> None:
        self.given: dict[Hashable, bool] = {}
        self.count, self.alive = 0, True
        asked, self._asks = os.pipe()
        urgent, self._presses = os.pipe()
        self.told, tells = os.pipe()
        # an interruption between fork and serve is this process's alone
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with warnings.catch_warnings():
                # threads of this process hold nothing that answers need
                warnings.simplefilter("ignore", DeprecationWarning)
                self._pid = os.fork()
            if self._pid == 0:
                inherited = [pipe for worker in (*others, self) for pipe in worker.pipes]
                _serve(answer, (urgent, asked), tells, inherited)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for pipe in (asked, urgent, tells):
            os.close(pipe)

    @property
    def pipes(self) -> tuple[int, ...]:
        """This process's ends."""
        return self._asks, self._presses, self.told

    def give(self, question: Hashable, *, urgent: bool) -> bool:
        """Sends a question, an urgent one before all others; whether there is still somebody to answer it."""
        try:
            _write(self._presses if urgent else self._asks, question)
        except BrokenPipeError:
            self.alive = False
            return False
        self.given[question] = urgent
        self.count += 1
        return True

    def take(self) -> tuple[Hashable, Told]:
        """The next answer, as soon as there is one.

        Raises:
            EOFError: the process has died.
        """
        try:
            urgent, told = _read(self.told)
        except EOFError:
            self.alive = False
            raise
        question = next(question for question, pressed in self.given.items() if pressed == urgent)
        del self.given[question]
        return question, told

    def end(self) -> None:
        """Kills the process and waits for it."""
        self.alive = False
        for pipe in self.pipes:
            os.close(pipe)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _serve(answer: Answer, asked: tuple[int, int], tells: int, inherited: list[int]) -> None:
    """Answers until nobody asks any more, urgent questions first; does not return."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for pipe in inherited:
            os.close(pipe)
        # what was there before is not looked through, so that its memory stays shared
        gc.freeze()
        while True:
            there = select.select(asked, [], [])[0]
            urgent = asked[0] in there
            question = _read(asked[0] if urgent else asked[1])
            _write(tells, (urgent, _told(answer, question)))
    finally:
        os._exit(0)


def _told(answer: Answer, question: Hashable) -> Told:
    try:
        return True, answer(question)
    except Exception as error:  # raised again where it was asked
        return False, error


def _write(pipe: int, value: Any) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    left = memoryview(len(data).to_bytes(HEADER_BYTES, "little") + data)
    while left:
        left = left[os.write(pipe, left) :]


def _read(pipe: int) -> Any:
    size = int.from_bytes(_exactly(pipe, HEADER_BYTES), "little")
    return pickle.loads(_exactly(pipe, size))


def _exactly(pipe: int, size: int) -> bytes:
    """So many bytes.

    Raises:
        EOFError: the other end is closed.
    """
    found = bytearray()
    while len(found) < size:
        part = os.read(pipe, size - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)
