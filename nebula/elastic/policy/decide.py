"""The answer to every event: the state after it, what to do, and why.

Recovery is graded. A worker that fails restarts with its generation on the same nodes; a node that fails again and
again, or is lost, is left out as long as enough others are there; a job that fails without doing a step in between
pauses longer and longer, and then fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nebula.elastic.policy import apart, events
from nebula.elastic.policy.membership import (
    aside_for,
    chosen,
    form,
    label,
    left_without,
    listed,
    stop,
    taken_back,
    with_node,
    without,
)
from nebula.elastic.policy.values import (
    Bounds,
    Decision,
    End,
    Fault,
    JobState,
    Limits,
    NodeState,
    Phase,
    Release,
)
from nebula.errors import BadInput

REMEMBERED = 64
"""Memberships without a plan that are known again."""


def decide(now_s: float, state: JobState, event: events.Event, limits: Limits) -> Decision:
    """What an event leads to.

    Args:
        now_s: never less than before.
    """
    if state.phase.over:
        return Decision(state=state)
    answer: Callable[..., Decision] = _ANSWERS[type(event)]
    return answer(now_s, state, event, limits)


def _joined(now_s: float, state: JobState, event: events.Joined, limits: Limits) -> Decision:
    known = state.nodes.get(event.node)
    number = state.numbers.get(event.node, len(state.numbers))
    state = replace(state, numbers={**state.numbers, event.node: number})
    node = (
        replace(known, back_by_s=math.inf, slots=event.slots) if known else NodeState(number=number, slots=event.slots)
    )
    state = with_node(state, event.node, node)
    if state.phase is Phase.RUNNING and state.apart:
        return apart.joined(state, event)
    if state.phase is Phase.RUNNING and event.node in state.members:
        if event.generation == state.generation:
            return Decision(state=state, because=f"{event.node} is connected again; its workers went on")
        return stop(_fell(state, now_s, limits), f"{event.node} came back without its workers")
    if state.phase is Phase.RUNNING:
        return _grows(now_s, state, f"{event.node} joined", limits)
    if state.phase is Phase.WAITING:
        return _then(f"{event.node} joined", form(now_s, state, limits))
    return Decision(state=state, because=f"{event.node} joined")


def _grows(now_s: float, state: JobState, told: str, limits: Limits) -> Decision:
    """A node joined a job that trains, or those that might have come with it had their time."""
    count, here = len(chosen(state)), len(state.members)
    if count <= here:
        told = f"{told} and stands by" if told else ""
        return Decision(state=replace(state, gather_until_s=math.inf), because=told)
    if count < state.bounds.most and now_s < state.gather_until_s:
        if state.gather_until_s < math.inf:
            return Decision(state=state, because=told)
        state = replace(state, gather_until_s=now_s + limits.join_s)
        return Decision(state=state, because=f"{told}; waiting {limits.join_s:g} s for more before the job grows")
    because = f"{count} nodes can go on instead of {here}"
    return stop(state, f"{told}: {because}" if told else because, at_boundary=True)


def _gone(now_s: float, state: JobState, event: events.Gone, limits: Limits) -> Decision:
    node = state.nodes.get(event.node)
    if node is None or not node.heard:
        return Decision(state=state)
    if node.draining and event.node not in state.members:
        return Decision(state=without(state, {event.node}), because=f"{event.node} has left")
    state = with_node(state, event.node, replace(node, back_by_s=now_s + limits.grace_s))
    return Decision(state=state, because=f"{event.node} is not heard of; it has {limits.grace_s:g} s to come back")


def _tick(now_s: float, state: JobState, event: events.Tick, limits: Limits) -> Decision:
    del event
    lost = sorted(name for name, node in state.nodes.items() if node.lost(now_s))
    told = f"{listed(lost)} {'are' if len(lost) > 1 else 'is'} lost" if lost else ""
    state = without(state, set(lost))
    if state.phase is Phase.RUNNING and state.apart:
        return apart.lost(state, set(lost), told)
    if state.phase is Phase.RUNNING and not set(lost).isdisjoint(state.members):
        return stop(_fell(state, now_s, limits), told)
    if state.phase is Phase.WAITING:
        return _then(told, form(now_s, state, limits))
    if state.phase is Phase.RUNNING and now_s >= state.gather_until_s:
        return _then(told, _grows(now_s, state, "", limits))
    return Decision(state=state, because=told)


def _failed(now_s: float, state: JobState, event: events.Failed, limits: Limits) -> Decision:
    if state.apart:
        return apart.failed(now_s, state, event, limits)
    if event.generation != state.generation or state.phase is not Phase.RUNNING:
        return Decision(state=state)  # it lost a peer whose end is dealt with already
    because = f"rank {event.rank} on {event.node} {event.cause}"
    if event.fault is Fault.MISTAKE:
        return _give_up(state, f"{because}, which a restart does not help")
    state = _fell(state, now_s, limits)
    if state.fruitless >= limits.fruitless:
        return _give_up(state, f"{because}; it is failure {state.fruitless} in a row without a step in between")
    node = state.nodes.get(event.node)
    if node is not None:
        node = replace(node, failures_s=(*node.failures_since(now_s - limits.window_s), now_s))
        if aside := aside_for(now_s, state, event.node, node, limits):
            node, because = replace(node, put_aside=aside), f"{because}; {event.node} is put aside after {aside}"
        state = with_node(state, event.node, node)
    return stop(state, because, dump=event.fault is Fault.HANG)


def _slow(now_s: float, state: JobState, event: events.Slow, limits: Limits) -> Decision:
    """All wait for the slowest: without a node that is `factor` times slower, on fewer nodes, who would be faster?"""
    del now_s
    node = state.nodes.get(event.node)
    if node is None or not node.able:
        return Decision(state=state)
    told = event.cause or f"{event.node} takes {event.factor:.2f} times as long as the others"
    here = len(state.members) or 1
    left = left_without(state, event.node)
    if event.factor * left / here < limits.slow_gain:
        instead = (
            f"{left} nodes would do {event.factor * left / here:.2f} times as much" if left else "too few are left"
        )
        return Decision(state=state, because=f"{told}; it is kept: without it {instead}")
    state = with_node(state, event.node, replace(node, put_aside=f"{event.factor:.2f} times slower"))
    because = f"{told} and is put aside"
    if state.apart and event.node in state.members:
        return apart.put_aside(state, event.node, because)
    if state.phase is Phase.RUNNING and event.node in state.members:
        return stop(state, because, at_boundary=True)
    return Decision(state=state, because=because)


def _stopped(now_s: float, state: JobState, event: events.Stopped, limits: Limits) -> Decision:
    if state.phase is not Phase.STOPPING or event.generation != state.generation:
        return Decision(state=state)
    leaving = sorted(name for name, node in state.nodes.items() if node.draining)
    decision = form(now_s, without(state, set(leaving)), limits)
    released = tuple(Release(node=name) for name in leaving)
    return replace(decision, actions=(*released, *decision.actions))


def _stepped(now_s: float, state: JobState, event: events.Stepped, limits: Limits) -> Decision:
    del now_s, limits
    if event.generation != state.generation or state.phase is not Phase.RUNNING:
        return Decision(state=state)
    fruitless = 0 if event.step > state.begun_at_step else state.fruitless
    return Decision(state=replace(state, step=max(state.step, event.step), fruitless=fruitless))


def _finished(now_s: float, state: JobState, event: events.Finished, limits: Limits) -> Decision:
    del now_s, limits
    if event.generation != state.generation or state.phase is not Phase.RUNNING:
        return Decision(state=state)
    because = f"the training is done after {state.restarts} restart{'s' * (state.restarts != 1)}"
    return Decision(state=replace(state, phase=Phase.DONE, why=because), actions=(End(failed=False),), because=because)


def _refused(now_s: float, state: JobState, event: events.Refused, limits: Limits) -> Decision:
    if event.generation != state.generation or state.phase is not Phase.RUNNING:
        return Decision(state=state)
    because = f"generation {event.generation} cannot begin: {event.cause}"
    if event.planless and not state.apart:
        state = replace(state, planless=(*state.planless, label(state, state.members))[-REMEMBERED:])
        able = sum(node.able for node in state.nodes.values())
        hopeless = able >= state.bounds.usable(state.bounds.most) and not chosen(taken_back(state)[0])
        return _give_up(state, because) if hopeless else stop(state, because)
    state = _fell(state, now_s, limits)
    if state.fruitless >= limits.fruitless:
        return _give_up(state, f"{because}; it is failure {state.fruitless} in a row")
    return stop(state, because)


def _scale(now_s: float, state: JobState, event: events.ScaleAsked, limits: Limits) -> Decision:
    try:
        bounds = Bounds(least=event.least, most=event.most, unit=state.bounds.unit)
    except BadInput as error:
        return Decision(state=state, because=f"not scaled: {error}")
    state, because = replace(state, bounds=bounds), f"scaled to {event.least}:{event.most} nodes"
    if state.phase is Phase.WAITING:
        return _then(because, form(now_s, state, limits))
    if state.phase is Phase.RUNNING and state.apart:
        return apart.scaled(state, because)
    if state.phase is Phase.RUNNING and chosen(state) != state.members:
        return stop(state, because, at_boundary=True)
    return Decision(state=state, because=because)


def _drain(now_s: float, state: JobState, event: events.DrainAsked, limits: Limits) -> Decision:
    del now_s, limits
    node = state.nodes.get(event.node)
    if node is None:
        return Decision(state=state, because=f"nothing to drain: there is no node {event.node}")
    if state.phase is Phase.RUNNING and state.apart and len(state.members) > 1:
        return apart.drained(state, event)
    state = with_node(state, event.node, replace(node, draining=True))
    because = f"{event.node} is drained: {event.cause}"
    if state.phase is Phase.RUNNING and event.node in state.members:
        return stop(state, because, at_boundary=True)
    if state.phase is Phase.STOPPING:
        return Decision(state=state, because=because)
    return Decision(state=without(state, {event.node}), actions=(Release(node=event.node),), because=because)


def _back(now_s: float, state: JobState, event: events.ControllerBack, limits: Limits) -> Decision:
    del event
    until_s = now_s + limits.controller_grace_s
    nodes = {name: replace(node, back_by_s=until_s) for name, node in state.nodes.items()}
    state = replace(state, planless=())  # it may have been given another objective
    because = f"the controller is back; nodes have {limits.controller_grace_s:g} s to connect again"
    return Decision(state=replace(state, nodes=nodes, gather_until_s=math.inf, not_before_s=0.0), because=because)


def _fell(state: JobState, now_s: float, limits: Limits) -> JobState:
    """A generation ended with a failure."""
    fruitless = state.fruitless + 1
    return replace(
        state, restarts=state.restarts + 1, fruitless=fruitless, not_before_s=now_s + limits.pause_s(fruitless)
    )


def _give_up(state: JobState, because: str) -> Decision:
    return Decision(state=replace(state, phase=Phase.FAILED, why=because), actions=(End(failed=True),), because=because)


def _then(first: str, decision: Decision) -> Decision:
    """Two sentences in one."""
    return replace(decision, because="; ".join(filter(None, (first, decision.because))))


_ANSWERS: dict[type, Any] = {
    events.Joined: _joined,
    events.Gone: _gone,
    events.Tick: _tick,
    events.Failed: _failed,
    events.Slow: _slow,
    events.Stopped: _stopped,
    events.Stepped: _stepped,
    events.Finished: _finished,
    events.Refused: _refused,
    events.ScaleAsked: _scale,
    events.DrainAsked: _drain,
    events.ControllerBack: _back,
}
