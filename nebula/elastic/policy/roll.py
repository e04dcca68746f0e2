"""Who is a member of a group of replicas? Pure: every change gives a new epoch, and a sentence that says why.

Members are processes, with numbers that are given once. One that enrols is fresh until all of an epoch have said that
it has the state. A controller that was away learns the roll from the members themselves, who go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member.

    Attributes:
        node: where it runs.
        address: `HOST:PORT` where others reach it.
        fresh: it has no state yet.
        done: it has done all steps, and will leave.
    """

    node: str
    address: str
    fresh: bool = True
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """All members.

    Attributes:
        epoch: of the members; 0 before the first.
        next_number: for the next one.
        waiting: enrolled before training begins, or after the controller was away: until enough are there.
        wanted: how many those should be.
    """

    epoch: int = 0
    members: Mapping[int, Member] = field(default_factory=dict)
    next_number: int = 0
    waiting: bool = True
    wanted: int = 1

    @property
    def begins(self) -> bool:
        """Whether those that were waited for are there."""
        return self.waiting and len(self.members) >= self.wanted


def numbered(roll: Roll) -> tuple[Roll, int]:
    """A number for somebody who will enrol."""
    return replace(roll, next_number=roll.next_number + 1), roll.next_number


def enrolled(roll: Roll, number: int, member: Member, epoch: int) -> tuple[Roll, str]:
    """The roll with one more.

    Args:
        epoch: the latest that it knows of.
    """
    again = number in roll.members or not member.fresh
    next_number = max(roll.next_number, number + 1)
    roll = replace(
        roll,
        members={**roll.members, number: member},
        next_number=next_number,
        epoch=max(roll.epoch, epoch) + (not roll.waiting),
    )
    return roll, f"member {number} on {member.node} is here{' again' if again else ''}"


def begun(roll: Roll) -> Roll:
    """Those who are there begin."""
    return replace(roll, waiting=False, epoch=roll.epoch + 1)


def left(roll: Roll, number: int) -> tuple[Roll, str]:
    """The roll without one."""
    if number not in roll.members:
        return roll, ""
    members = {other: member for other, member in roll.members.items() if other != number}
    if roll.members[number].done:
        because = f"member {number} on {roll.members[number].node} has done all steps"
        return replace(roll, members=members), because
    settled = [other for other, member in members.items() if not member.fresh]
    others = f"{len(settled)} go on" if len(settled) != 1 else "one goes on"
    because = f"member {number} on {roll.members[number].node} is lost; {others if settled else 'nobody has the state'}"
    return replace(roll, members=members, epoch=roll.epoch + (not roll.waiting)), because


def broken(roll: Roll, epoch: int) -> Roll:
    """The members of an epoch do not reach each other; one that is over already says nothing new."""
    return replace(roll, epoch=roll.epoch + 1) if epoch == roll.epoch and not roll.waiting else roll


def settled(roll: Roll, epoch: int) -> tuple[Roll, str]:
    """All members of an epoch have the state; of an epoch that is over it says nothing."""
    fresh = [number for number, member in roll.members.items() if member.fresh]
    if epoch != roll.epoch or not fresh:
        return roll, ""
    members = {number: replace(member, fresh=False) for number, member in roll.members.items()}
    told = f"member {fresh[0]} on {members[fresh[0]].node} has" if len(fresh) == 1 else f"{len(fresh)} members have"
    return replace(roll, members=members), f"{told} the state"


def done(roll: Roll, number: int) -> Roll:
    """A member has done all steps."""
    there = roll.members.get(number)
    return replace(roll, members={**roll.members, number: replace(there, done=True)}) if there else roll
