"""A holder's name tells whether its process has ended, and accuses nobody of whom nothing is known."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nebula.elastic.holder import has_ended, holder_name


def test_a_process_that_lives_has_not_ended():
    assert not has_ended(holder_name())
    assert not has_ended(holder_name(os.getppid()))


def test_a_process_that_is_gone_has_ended():
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = holder_name(gone.pid)
    assert not has_ended(name)
    gone.communicate(b"\n")
    assert has_ended(name)


def test_a_process_that_has_the_number_of_another_is_not_taken_for_it():
    name, _, began = holder_name().rpartition("-")
    assert has_ended(f"{name}-{int(began) - 1}")


@pytest.mark.parametrize(
    "name", ["first", "", "vm:1", "vm:12:deadbeef-5", "host:x:deadbeef-5", "a:b:c:d", "vm:3:-", "::-"]
)
def test_of_others_nothing_is_known(name):
    assert not has_ended(name)


def test_a_process_of_another_boot_or_container_is_not_judged():
    host, pid, identity = holder_name().rsplit(":", 2)
    machine, _, began = identity.partition("-")
    other = machine[:-1] + ("0" if machine[-1] != "0" else "1")
    assert not has_ended(f"{host}:{2**22 + 1}:{other}-{began}")
    assert has_ended(f"{host}:{2**22 + 1}:{machine}-{began}")
    assert not has_ended(f"{host}:{pid}:{machine}-{began}")
