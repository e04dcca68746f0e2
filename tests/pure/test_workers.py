"""Questions answered ahead by other processes: the same answers, nothing left behind, whatever happens to a process."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from nebula.errors import BadInput
from nebula.planner.workers import BACKLOG, Alone, Forked, cores, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

HERE = os.getpid()


@dataclass(frozen=True, slots=True)
class Square:
    number: int


@dataclass(frozen=True, slots=True)
class Bytes:
    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    number: int


@dataclass(frozen=True, slots=True)
class Deadly:
    number: int


@dataclass(frozen=True, slots=True)
class Process:
    number: int


@dataclass(frozen=True, slots=True)
class Slow:
    number: int


def answer(question):
    if isinstance(question, Square):
        return question.number**2
    if isinstance(question, Bytes):
        return bytes(question.number)
    if isinstance(question, Process):
        return os.getpid()
    if isinstance(question, Slow):
        time.sleep(60.0)
    if isinstance(question, Deadly) and os.getpid() != HERE:
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(question, Refused):
        raise BadInput(f"{question.number} is refused")
    return f"answered by this process: {question.number}"


def near(question):
    return question.number % 5


@pytest.fixture(params=[2, 3])
def forked(request):
    found = Forked(answer, near, request.param)
    yield found
    found.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_answers_are_those_of_one_process(forked):
    questions = [kind(n) for n in range(40) for kind in (Square, Bytes)]
    for index, question in enumerate(questions):
        forked.expect(questions[index:])
        assert forked.ask(question) == answer(question)
    assert [forked.ask(question) for question in questions] == [answer(question) for question in questions]


def test_what_is_near_is_answered_by_one_process_and_all_are_busy(forked):
    of_number = {n: {forked.ask(Process(n + 5 * i)) for i in range(4)} for n in range(5)}
    assert all(len(own) == 1 for own in of_number.values())
    everybody = set.union(*of_number.values())
    assert HERE not in everybody
    assert len(everybody) == len(forked._workers)


def test_long_answers_that_nobody_has_taken_yet_block_nothing(forked):
    questions = [Bytes(1_000_000 + n) for n in range(4 * BACKLOG)]
    forked.expect(questions)
    assert forked.ask(Square(3)) == 9
    assert [len(forked.ask(question)) for question in reversed(questions)] == [q.number for q in reversed(questions)]


def test_what_an_answer_raises_is_raised_where_it_was_asked(forked):
    forked.expect([Refused(1)])
    with pytest.raises(BadInput, match="1 is refused"):
        forked.ask(Refused(1))
    assert forked.ask(Square(2)) == 4


def test_a_process_that_dies_costs_nothing_but_its_help(forked):
    every = [Deadly(n) for n in range(10)]
    forked.expect(every)
    assert [forked.ask(question) for question in every] == [answer(question) for question in every]
    assert [forked.ask(Square(n)) for n in range(10)] == [n * n for n in range(10)]


def test_no_process_is_left_whatever_they_are_at():
    forked = Forked(answer, near, 2)
    pids = [worker._pid for worker in forked._workers]
    assert all(map(alive, pids))
    forked.expect([Slow(0), Slow(1)])
    began_s = time.monotonic()
    forked.close()
    assert not any(map(alive, pids))
    assert time.monotonic() - began_s < 10.0
    assert forked.ask(Square(5)) == 25


def test_processes_heed_no_interruption(forked):
    for worker in forked._workers:
        os.kill(worker._pid, signal.SIGINT)
    assert [forked.ask(Square(n)) for n in range(10)] == [n * n for n in range(10)]
    assert all(worker.alive for worker in forked._workers)


def test_one_core_answers_itself():
    alone = workers(answer, near, 1)
    assert isinstance(alone, Alone)
    alone.expect([Deadly(1)])
    assert alone.ask(Process(0)) == HERE
    alone.close()
    assert cores() >= 1
