"""Which nodes train together: stable ranks, bounds, units, and for whom to wait."""

from __future__ import annotations

import math
from dataclasses import replace

from nebula.elastic.policy.values import Decision, JobState, Limits, NodeState, Phase, Start, Stop


def with_node(state: JobState, name: str, node: NodeState) -> JobState:
    """The state with a node as it now is."""
    return replace(state, nodes={**state.nodes, name: node})


def without(state: JobState, names: set[str]) -> JobState:
    """The state without nodes; their numbers stay theirs."""
    return replace(state, nodes={name: node for name, node in state.nodes.items() if name not in names})


def chosen(state: JobState) -> tuple[str, ...]:
    """The nodes for the next generation, in the order of their numbers; none where there are too few.

    Members stay in preference to others, so that their memory is of use. As many as may be, but for those together for
    which there was no plan.
    """
    numbers = {name: node.number for name, node in state.nodes.items() if node.able}
    count = state.bounds.usable(len(numbers))
    while count:
        stay = [name for name in state.members if name in numbers][:count]
        others = sorted(numbers.keys() - set(stay), key=numbers.__getitem__) if len(stay) < count else []
        found = tuple(sorted([*stay, *others[: count - len(stay)]], key=numbers.__getitem__))
        if not state.planless or label(state, found) not in state.planless:
            return found
        count = state.bounds.usable(count - 1)
    return ()


def label(state: JobState, members: tuple[str, ...]) -> tuple[str, ...]:
    """Names of nodes with their slots, by which a membership is known again."""
    return tuple(f"{name}:{state.nodes[name].slots}" for name in members if name in state.nodes)


def left_without(state: JobState, node: str) -> int:
    """How many others can train."""
    return len(chosen(without(state, {node})))


def taken_back(state: JobState) -> tuple[JobState, str]:
    """The state with nodes that were put aside, where there is no plan without them, and why."""
    aside = [name for name, node in state.nodes.items() if node.put_aside and node.heard and not node.draining]
    back = state
    for name in aside:
        back = with_node(back, name, replace(back.nodes[name], put_aside=""))
    if not state.planless or not chosen(back):
        return state, ""
    return back, f"{listed(aside)} {'is' if len(aside) == 1 else 'are'} taken back: without there is no plan; "


def aside_for(now_s: float, state: JobState, name: str, node: NodeState, limits: Limits) -> str:
    """Why a node that fails more often than the others is put aside; empty where that costs more than it gains."""
    if len(node.failures_s) < limits.node_failures:
        return ""
    left = left_without(state, name)
    if not left:
        return ""
    peers = [state.nodes[key] for key in state.members if key != name and key in state.nodes]
    theirs = sum(len(peer.failures_since(now_s - limits.window_s)) for peer in peers) / max(1, len(peers))
    more, missing = len(node.failures_s) - theirs, 1.0 - left / len(state.members)
    if more < limits.node_failures or more * limits.failure_s < missing * limits.window_s:
        return ""
    return f"{len(node.failures_s)} failures in {limits.window_s:g} s"


def form(now_s: float, state: JobState, limits: Limits) -> Decision:
    """Begins the next generation, or says what it waits for."""
    state = replace(state, phase=Phase.WAITING)
    away = [name for name in state.members if name in state.nodes and not state.nodes[name].heard]
    if away:
        return _waits(state, f"waiting for {listed(away)} to be heard of again")
    members, told = chosen(state), ""
    if not members:
        state, told = taken_back(state)
        members = chosen(state)
    if not members:
        return _waits(replace(state, gather_until_s=math.inf), _lacking(state))
    if now_s < state.not_before_s:
        return _waits(state, f"pausing {state.not_before_s - now_s:.1f} s after {state.fruitless} failures in a row")
    if state.generation == 0 and len(members) < state.bounds.most:
        if state.gather_until_s == math.inf:
            state = replace(state, gather_until_s=now_s + limits.gather_s)
        if now_s < state.gather_until_s:
            return _waits(state, f"{len(members)} nodes are there, waiting {limits.gather_s:g} s for more")
    state = replace(
        state,
        phase=Phase.RUNNING,
        generation=state.generation + 1,
        members=members,
        begun_at_step=state.step,
        gather_until_s=math.inf,
        not_before_s=0.0,
    )
    start = Start(generation=state.generation, members=members)
    because = f"{told}generation {state.generation} begins on {listed(members)}"
    return Decision(state=replace(state, why=because), actions=(start,), because=because)


def _lacking(state: JobState) -> str:
    able = sum(node.able for node in state.nodes.values())
    if state.bounds.usable(able):
        return f"waiting for other nodes: there is no plan for the {able} that {'is' if able == 1 else 'are'} there"
    need = f"{state.bounds.least}" + (f" in units of {state.bounds.unit}" if state.bounds.unit > 1 else "")
    return f"waiting for nodes: {able} of at least {need} are there"


def stop(state: JobState, because: str, *, at_boundary: bool = False, dump: bool = False) -> Decision:
    """Ends the generation that runs, so that another can begin."""
    state = replace(state, phase=Phase.STOPPING, why=because, gather_until_s=math.inf)
    action = Stop(generation=state.generation, at_boundary=at_boundary, dump=dump)
    return Decision(state=state, actions=(action,), because=because)


def listed(names: tuple[str, ...] | list[str], shown: int = 4) -> str:
    """Names of nodes for people.

    >>> listed(["a", "b", "c"]), listed(["a"] * 9)
    ('a, b, c', 'a, a, a, a and 5 more')
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _waits(state: JobState, because: str) -> Decision:
    """Waits; the sentence is told once."""
    told = "" if because.split(" s ")[0] == state.why.split(" s ")[0] else because
    return Decision(state=replace(state, why=because), because=told)
