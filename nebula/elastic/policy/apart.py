"""What differs for a group of replicas: workers fail and join one by one, and the others never stop for them.

The members themselves agree on each step (nebula.runtime.replicas); here it is decided which nodes run workers, and
whether one that failed begins anew. There is one generation, which ends with the job.
"""

from __future__ import annotations

from dataclasses import replace

from nebula.elastic.policy import events
from nebula.elastic.policy.membership import aside_for, listed, stop, with_node, without
from nebula.elastic.policy.values import (
    Action,
    Again,
    Decision,
    End,
    Fault,
    JobState,
    Limits,
    Phase,
    Release,
    Start,
    Stop,
)


def joined(state: JobState, event: events.Joined) -> Decision:
    """A node comes while others train: its workers begin, and learn the state from the others."""
    if event.node in state.members and event.generation == state.generation:
        return Decision(state=state, because=f"{event.node} is connected again; its workers went on")
    members = tuple(dict.fromkeys((*state.members, event.node)))
    if len(members) > state.bounds.most:
        return Decision(state=state, because=f"{event.node} joined and stands by")
    state = replace(state, members=members)
    because = f"{event.node} joined the replicas"
    return Decision(state=state, actions=(Start(generation=state.generation, members=(event.node,)),), because=because)


def lost(state: JobState, names: set[str], because: str) -> Decision:
    """Nodes are lost: the others have finished the step already, and nodes that stand by begin in their place."""
    stay = tuple(name for name in state.members if name not in names)
    if stay == state.members:
        return Decision(state=state, because=because)
    if not stay:
        return stop(replace(state, members=()), f"{because}; nobody is left")
    members, starts = _filled(state, stay)
    instead = f", {listed(members[len(stay) :])} in place" if starts else ""
    return Decision(
        state=replace(state, members=members), actions=starts, because=f"{because}; the others go on{instead}"
    )


def failed(now_s: float, state: JobState, event: events.Failed, limits: Limits) -> Decision:
    """A worker failed: it begins anew, unless that does not help."""
    if state.phase is not Phase.RUNNING or event.node not in state.members:
        return Decision(state=state)
    because = f"rank {event.rank} on {event.node} {event.cause}"
    if event.fault is Fault.MISTAKE:
        return _over(state, f"{because}, which a restart does not help")
    state = replace(state, restarts=state.restarts + 1, fruitless=state.fruitless + 1)
    if state.fruitless > limits.fruitless * max(1, len(state.members)):
        return _over(state, f"{because}; it is failure {state.fruitless} in a row without a step in between")
    node = state.nodes[event.node]
    node = replace(node, failures_s=(*node.failures_since(now_s - limits.window_s), now_s))
    if aside := aside_for(now_s, state, event.node, node, limits):
        state = with_node(state, event.node, replace(node, put_aside=aside))
        return put_aside(state, event.node, f"{because}; {event.node} is put aside after {aside}")
    again = Again(node=event.node, rank=event.rank)
    told = f"{because}; the others go on, it begins anew"
    return Decision(state=with_node(state, event.node, node), actions=(again,), because=told)


def put_aside(state: JobState, name: str, because: str) -> Decision:
    """A node's workers end; those of a node that stands by begin in its place."""
    members, starts = _filled(state, tuple(other for other in state.members if other != name))
    actions: tuple[Action, ...] = (Stop(generation=state.generation, node=name), *starts)
    return Decision(state=replace(state, members=members), actions=actions, because=because)


def drained(state: JobState, event: events.DrainAsked) -> Decision:
    """A node leaves: its workers end, and the others do what they had of the step."""
    state = without(state, {event.node})
    members, starts = _filled(state, tuple(name for name in state.members if name != event.node))
    because = f"{event.node} is drained: {event.cause}; {listed(members)} go on"
    actions: tuple[Action, ...] = (Release(node=event.node), *starts)
    return Decision(state=replace(state, members=members), actions=actions, because=because)


def scaled(state: JobState, because: str) -> Decision:
    """Other bounds: the last members leave, or nodes that stand by begin."""
    stay = state.members[: state.bounds.most]
    stops = [Stop(generation=state.generation, node=name) for name in state.members[len(stay) :]]
    members, starts = _filled(state, stay)
    return Decision(state=replace(state, members=members), actions=(*stops, *starts), because=because)


def _filled(state: JobState, stay: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Start, ...]]:
    """The members with as many nodes that stand by as there is room for, and what has those begin."""
    here = frozenset((*state.members, *stay))
    able = [name for name, node in state.nodes.items() if node.able and name not in here]
    more = sorted(able, key=lambda name: state.nodes[name].number)[: max(0, state.bounds.most - len(stay))]
    return (*stay, *more), tuple(Start(generation=state.generation, members=(name,)) for name in more)


def _over(state: JobState, because: str) -> Decision:
    return Decision(state=replace(state, phase=Phase.FAILED, why=because), actions=(End(failed=True),), because=because)
