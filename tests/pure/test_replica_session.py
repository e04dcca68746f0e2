"""Members that come and go while they train; here each is a thread that descends a quadratic, over loopback."""

import threading
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.errors import RunFailed
from nebula.runtime.hosts import Hosts
from nebula.runtime.replicas.members import Members
from nebula.runtime.replicas.session import Session
from nebula.runtime.replicas.tree import Sums, shares

SHARDS, SIZE, STEPS = 8, 1001, 24


class Killed(Exception):
    """A member ends as a killed process does: its sockets close, it says nothing."""


class Office:
    """The controller in memory: who is a member, in rising epochs."""

    def __init__(self):
        self.members = Members(epoch=0, addresses={})
        self.change, self.sessions, self.addresses = threading.Condition(), {}, {}
        self.numbers = count()

    def become(self, changed):
        """Another epoch, of what `changed` makes of the members, which all hear of."""
        with self.change:
            before = self.members
            self.members = replace(changed(before), epoch=before.epoch + 1)
            self.change.notify_all()
            members, sessions = self.members, [self.sessions[number] for number in self.members.numbers]
        for session in sessions:
            session.heard(members)

    def join(self, numbers):
        told = {number: self.addresses[number] for number in numbers}
        self.become(lambda m: replace(m, addresses=m.addresses | told, fresh=m.fresh | set(numbers)))

    def leave(self, number):
        def without(members):
            left = {n: address for n, address in members.addresses.items() if n != number}
            return replace(members, addresses=left, fresh=members.fresh - {number})

        self.become(without)

    # as a directory of Hosts
    def token(self):
        return b"known to all 1:1"

    def tell(self, rank, address):
        with self.change:
            self.addresses[rank] = address
            self.change.notify_all()

    def find(self, rank):
        return self.addresses[rank]

    # as a roll
    def now(self):
        return self.members

    def wait(self, epoch):
        with self.change:
            assert self.change.wait_for(lambda: self.members.epoch >= epoch, 20)

    def broken(self, epoch, why):
        with self.change:
            over = epoch == self.members.epoch
        if over:
            self.become(lambda members: members)

    def settled(self, epoch):
        with self.change:
            if epoch == self.members.epoch:
                self.members = replace(self.members, fresh=frozenset())


class Descent:
    """Weights that follow a gradient which depends on them, on the step and on the shard."""

    def __init__(self):
        self.weights, self.memory = np.zeros(SIZE, np.float32), {}
        self.saw = []

    def gradient(self, step, shard):
        noise = np.random.default_rng([step, shard]).normal(size=SIZE).astype(np.float32)
        remembered = self.memory.get(shard, 0.0)
        self.saw.append((step, shard))
        return (self.weights - noise) / SHARDS + np.float32(remembered), float(noise[0]) * 1e-3

    def apply(self, total, memory):
        assert sorted(memory) == list(range(SHARDS))
        self.weights = self.weights - np.float32(0.1) * total
        self.memory = dict(memory)

    def state(self):
        return [self.weights, np.array([self.memory.get(s, 0.0) for s in range(SHARDS)])]

    def load(self, arrays):
        self.weights = np.frombuffer(arrays[0], np.float32)
        self.memory = dict(enumerate(np.frombuffer(arrays[1]).tolist()))


class Member:
    """A thread that trains to the end, or dies when it is told to."""

    def __init__(self, office, steps, dies=lambda step, moment: False):
        self.office, self.steps, self.dies = office, steps, dies
        self.number = next(office.numbers)
        self.replica, self.error = Descent(), None
        self.hosts = Hosts(self.number, office, "127.0.0.1", 20.0)
        self.session = office.sessions[self.number] = Session(self.hosts, office, self.replica, shards=SHARDS)
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        shard = count()
        gradient, apply = self.replica.gradient, self.replica.apply

        def watched(step, index):
            if self.dies(step, next(shard) % SHARDS):
                raise Killed
            return gradient(step, index)

        def applied(total, memory):
            if self.dies(self.session.done, "apply"):
                raise Killed
            apply(total, memory)
            if self.dies(self.session.done, "applied"):
                raise Killed

        self.replica.gradient, self.replica.apply = watched, applied
        try:
            while self.session.done < self.steps:
                self.session.step()
        except Killed:
            self.hosts.hang_up("")
            self.hosts.close()
            self.office.leave(self.number)
        except BaseException as error:
            self.error = error
            raise


def train(members, office):
    office.join([member.number for member in members])
    for member in members:
        member.thread.start()
    for member in members:
        member.thread.join(60)
        assert not member.thread.is_alive(), f"member {member.number} is stuck at step {member.session.done}"


def alone(steps=STEPS):
    office = Office()
    member = Member(office, steps)
    train([member], office)
    return member.replica.weights


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_number_of_members_has_the_bits_of_one(size):
    office = Office()
    members = [Member(office, STEPS) for _ in range(size)]
    train(members, office)
    for member in members:
        np.testing.assert_array_equal(member.replica.weights, alone())
    done = sorted(pair for member in members for pair in member.replica.saw)
    assert done == [(step, shard) for step in range(STEPS) for shard in range(SHARDS)]


@pytest.mark.parametrize("moment", [0, 1, "apply", "applied"])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_member_that_dies_in_the_middle_of_a_step_costs_no_step(victim, moment):
    office = Office()
    dies = [lambda step, at, number=number: number == victim and step == 7 and at == moment for number in range(3)]
    members = [Member(office, STEPS, die) for die in dies]
    train(members, office)
    for number, member in enumerate(members):
        if number != victim:
            np.testing.assert_array_equal(member.replica.weights, alone())


def test_members_that_die_one_after_the_other_leave_the_last_with_the_bits_of_one():
    office = Office()
    dies = [lambda step, at, number=number: number > 0 and step == 3 * number for number in range(4)]
    members = [Member(office, STEPS, die) for die in dies]
    train(members, office)
    np.testing.assert_array_equal(members[0].replica.weights, alone())


def test_two_that_die_at_once():
    office = Office()
    dies = [lambda step, at, number=number: number in (0, 2) and step == 5 and at == 1 for number in range(4)]
    members = [Member(office, STEPS, die) for die in dies]
    train(members, office)
    for member in (members[1], members[3]):
        np.testing.assert_array_equal(member.replica.weights, alone())


def test_four_two_four_has_the_bits_of_one():
    """Two die at different steps, two others join while training goes on."""
    office = Office()
    dies = [lambda step, at, number=number: number > 1 and step == 2 + number for number in range(4)]
    members = [Member(office, 200, die) for die in dies]
    office.join([member.number for member in members])
    for member in members:
        member.thread.start()
    for member in members[2:]:
        member.thread.join(30)
    late = [Member(office, 200) for _ in range(2)]
    for member in late:
        member.thread.start()
        office.join([member.number])
    for member in (*members[:2], *late):
        member.thread.join(60)
        assert not member.thread.is_alive()
        np.testing.assert_array_equal(member.replica.weights, alone(200))
    assert all(member.replica.saw for member in late)


@pytest.mark.parametrize("seed", range(4))
def test_random_comings_and_goings(seed):
    """A failure prints its seed; the same seed makes the same wishes, not the same interleaving."""
    rng, office = np.random.default_rng(seed), Office()
    deaths = {number: (int(rng.integers(1, 60)), rng.choice([0, 1, 2, "apply", "applied"])) for number in range(1, 9)}
    deaths = {number: (step, at if at in ("apply", "applied") else int(at)) for number, (step, at) in deaths.items()}

    def dies(number):
        return lambda step, at: number in deaths and step >= deaths[number][0] and at == deaths[number][1]

    members = [Member(office, 80, dies(number)) for number in range(3)]
    office.join([member.number for member in members])
    for member in members:
        member.thread.start()
    for number in range(3, 9):
        members.append(Member(office, 80, dies(number)))
        members[-1].thread.start()
        office.join([number])
        members[0].thread.join(float(rng.uniform(0, 0.1)))
        if not members[0].thread.is_alive():
            break
    members[0].thread.join(60)
    assert not members[0].thread.is_alive(), f"seed {seed} is stuck at step {members[0].session.done}"
    np.testing.assert_array_equal(members[0].replica.weights, alone(80))
    for member in members[1:]:
        if member.number in office.members.fresh:
            continue  # it came when there was nobody left to learn from
        member.thread.join(30)
        assert not member.thread.is_alive()
        assert member.error is None or isinstance(member.error, RunFailed)


@given(st.integers(1, 40), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_sum_has_the_same_bits_in_any_order_and_from_any_members(shards, members, random):
    arrays = np.random.default_rng(shards).normal(size=(shards, 5)).astype(np.float32)
    straight = Sums(shards)
    for shard in range(shards):
        straight.add(shard, arrays[shard].copy())
    joined = Sums(shards)
    for run in shares(shards, list(range(members))).values():
        own, order = Sums(shards), list(run)
        random.shuffle(order)
        for shard in order:
            own.add(shard, arrays[shard].copy())
        assert own.lacking == sorted(set(range(shards)) - set(run))
        joined.put(own.parts)
    assert joined.lacking == []
    np.testing.assert_array_equal(joined.total(), straight.total())
