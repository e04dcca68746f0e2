"""What would be if: one plan under slower and faster links, memory and arithmetic, and after what goes wrong.

The plan stays and is priced again, except where another plan is the point: with more memory, and with a node lost.
There plans near it are priced, or all are searched. Each answer is a row with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.cost_model.evaluate import beyond_fleet, evaluate
from nebula.cost_model.fleet import Pricing
from nebula.errors import BadInput
from nebula.graph.imbalance import imbalanced
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import Plan, Prediction
from nebula.planner.options import step_s
from nebula.planner.outcome import first_sentence, plan_outcome
from nebula.planner.placed_answer import placed_search
from nebula.planner.replan import Replanner
from nebula.planner.variations import Rate, rates, with_memory, with_slow_node
from nebula.units import format_bytes, format_seconds

SHARE = 0.1
"""By how much rates are changed."""

MORE_BYTES = 10e9
SLOWER = 1.5
IMBALANCE = 1.5

MOST_PLACES = 8
"""Places of a pipeline at which a slow node is tried."""

UNCHANGED = 5e-4
"""Changes of the step time below this share are called none."""

SAME_PLAN, NEAR_IT, PLANNED_AGAIN = "same plan", "plans near it", "planned again"
"""How a row was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """One change and what it does.

    Attributes:
        name: what is changed: `tier spine −10 %`, `node atlas/0 lost`.
        how: SAME_PLAN, NEAR_IT (of the same tensor degree, see nebula.planner.replan) or PLANNED_AGAIN.
        step_time_s: then; 0 when there is no plan.
        change: of the step time, as a share of what it was; 0 when there is no plan.
        split: of the plan then; empty when there is none.
        sentence: the row in words.
    """

    name: str
    how: str
    step_time_s: float
    change: float
    split: str
    sentence: str


def what_ifs(
    graph: DistributedGraph,
    cluster: Cluster,
    plan: Plan,
    objective: Objective | None = None,
    *,
    replan: bool = True,
    chains: Chains | None = None,
    on_row: Callable[[int], None] = lambda _: None,
) -> tuple[WhatIf, ...]:
    """Every row: rates by −10 % and +10 %, 10 GB more memory, a node lost, a node slow, experts uneven.

    Args:
        graph: the model.
        cluster: that the plan is for.
        plan: with or without a prediction; it is priced here.
        objective: what was fixed and left out, where planning again.
        replan: whether to plan again for more memory and without a node, which takes as long as a search each, rather
            than to look among plans near the plan; of plans with experts or context parallelism these are not known.
        chains: of the graph, whose blocks are cut already.
        on_row: called with the number of rows that are there.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    rows: list[WhatIf] = []
    for row in _Rows(graph, cluster, plan, objective or Objective(), chains).all(replan=replan):
        rows.append(row)
        on_row(len(rows))
    return tuple(rows)


class _Rows:
    """The rows of one plan, which share what it takes as it is."""

    def __init__(
        self, graph: DistributedGraph, cluster: Cluster, plan: Plan, objective: Objective, chains: Chains | None
    ) -> None:
        self.graph, self.plan = graph, plan
        self.cluster = exclude(cluster, objective.exclude)
        self.objective = Objective(fixed=objective.fixed)
        self.pricing = Pricing(graph, self.cluster, plan.job, chains and chains.for_other_devices())
        self.before_s = self._on(cluster).step_time_s
        self.nodes = tuple(dict.fromkeys(place.node for place in plan.ranks))
        self.first_node: dict[str, str] = {}
        for node in self.nodes:
            self.first_node.setdefault(node.rpartition("/")[0], node)
        self.without_s: dict[str, float] = {}

    def all(self, *, replan: bool) -> Iterator[WhatIf]:
        """In the order in which they are shown."""
        for rate in rates(self.cluster, frozenset(self.first_node), several_nodes=len(self.nodes) > 1):
            yield from (self.rate(rate, -SHARE), self.rate(rate, SHARE))
        if replan:
            yield self.memory()
            yield from map(self.lost, self.first_node.values())
        else:
            yield from self.near()
        yield self.slow()
        if any(stage.expert > 1 for stage in self.plan.stages):
            yield self.uneven_experts()

    def rate(self, rate: Rate, share: float) -> WhatIf:
        """A rate changed by a share."""
        found = self._on(rate.times(1.0 + share))
        name = f"{rate.name} {_signed(share)}"
        words = f"With {rate.name} {_unsigned(share)} {'slower' if share < 0 else 'faster'}"
        if abs(self._change(found)) < UNCHANGED:
            return self._same(name, found, f"{words} a step takes as long: it does not wait for that.")
        return self._same(name, found, f"{words} {self._takes(found.step_time_s)}.")

    def memory(self) -> WhatIf:
        """More memory on every device, planned again."""
        size = f"{MORE_BYTES / 1e9:g} GB"
        words = f"With {size} more on every device"
        return self._again(f"memory +{size}", with_memory(self.cluster, MORE_BYTES), words)

    def lost(self, node: str) -> WhatIf:
        """A node gone, planned again on the others."""
        row = self._again(f"node {node} lost", exclude(self.cluster, [node]), f"Without node {node}")
        self.without_s[node.rpartition("/")[0]] = row.step_time_s
        return row

    def near(self) -> Iterator[WhatIf]:
        """More memory, and a node gone, with plans near this one; none where such plans cannot be priced."""
        try:
            replanner = Replanner(self.graph, self.cluster, self.plan, objective=self.objective)
        except BadInput:
            return
        yield self._near_with_memory(replanner)
        for node in self.first_node.values():
            yield self._near_without(replanner, node)

    def _near_with_memory(self, replanner: Replanner) -> WhatIf:
        size = f"{MORE_BYTES / 1e9:g} GB"
        options = replanner.near(with_memory(self.cluster, MORE_BYTES))
        name = f"memory +{size}"
        if not options:
            return _no_plan(name, NEAR_IT, f"With {size} more on every device no plan near this one fits.")
        found = min(options, key=lambda option: option.step_s).plan
        same = found.split == self.plan.split
        plan = "no plan near this one is faster" if same else f"the fastest plan near this one is {found.split}"
        words = f"With {size} more on every device {plan}: {self._takes(step_s(found))}."
        return self._found(name, NEAR_IT, found, words)

    def _near_without(self, replanner: Replanner, node: str) -> WhatIf:
        name = f"node {node} lost"
        try:
            options = replanner.near(exclude(self.cluster, [node]))
        except BadInput as error:
            return _no_plan(name, NEAR_IT, f"Without node {node} there is no plan: {first_sentence(error)}.")
        if not options:
            return _no_plan(name, NEAR_IT, f"Without node {node} no plan near this one fits.")
        option = options[0]
        self.without_s[node.rpartition("/")[0]] = option.step_s
        moves = option.moves
        moved = f"after {format_bytes(moves.total_bytes)} are moved in {format_seconds(moves.seconds)}"
        how = f"it goes on as {option.plan.split}, {moved if moves.total_bytes else 'and nothing is moved'}"
        return self._found(name, NEAR_IT, option.plan, f"Without node {node} {how}: {self._takes(option.step_s)}.")

    def slow(self) -> WhatIf:
        """A node slower, at the place of the pipeline where that is worst."""
        firsts = tuple(dict.fromkeys(self.plan.ranks[stage.ranks[0]].node for stage in self.plan.stages))
        tried = firsts[:: -(-len(firsts) // MOST_PLACES)]
        found = {node: self._on(with_slow_node(self.cluster, node, SLOWER)) for node in tried}
        node = max(found, key=lambda name: found[name].step_time_s)
        words = f"With node {node} slower by {SLOWER:g} every step waits for it: {self._takes(found[node].step_time_s)}"
        if without_s := self.without_s.get(node.rpartition("/")[0]):
            words += f"; without a node of its group it would take {format_seconds(without_s)}"
        return self._same(f"node {node} slow × {SLOWER:g}", found[node], f"{words}.")

    def uneven_experts(self) -> WhatIf:
        """The busiest rank of an expert group with more than the mean of the tokens."""
        found = evaluate(imbalanced(self.graph, IMBALANCE), self.cluster, self.plan)
        words = (
            f"When the busiest experts get {IMBALANCE:g} times the mean of the tokens {self._takes(found.step_time_s)}"
        )
        return self._same(f"expert imbalance {IMBALANCE:g}", found, f"{words}.")

    def _on(self, cluster: Cluster) -> Prediction:
        """The plan on a cluster of other rates."""
        if beyond_fleet(self.plan):
            return evaluate(self.graph, cluster, self.plan)
        return self.pricing.on(cluster).predict(self.plan)

    def _change(self, found: Prediction) -> float:
        return found.step_time_s / self.before_s - 1.0

    def _takes(self, step_s: float) -> str:
        """How long a step then takes, and how much longer or less that is."""
        change = step_s / self.before_s - 1.0
        more = "more" if change > 0 else "less"
        much = "as long as before" if abs(change) < UNCHANGED else f"{_unsigned(change, 1)} {more}"
        return f"a step takes {format_seconds(step_s)}, {much}"

    def _same(self, name: str, found: Prediction, sentence: str) -> WhatIf:
        """The row of the plan as it is, with a word when it would no longer fit."""
        over = max(m.total_bytes - m.limit_bytes for m in found.memory)
        if over > 0:
            sentence = f"{sentence[:-1]}; the fullest device holds {format_bytes(over)} more than the plan may fill."
        return WhatIf(
            name=name,
            how=SAME_PLAN,
            step_time_s=found.step_time_s,
            change=self._change(found),
            split=self.plan.split,
            sentence=sentence,
        )

    def _again(self, name: str, cluster: Cluster, words: str) -> WhatIf:
        """The row of the best plan on a changed cluster."""
        # what another engine gains is not what the change does
        find = None if self.plan.engine == "executor" else placed_search
        found = plan_outcome(self.graph, cluster, self.plan.job, self.objective, find=find)
        if found.plan is None:
            return _no_plan(name, PLANNED_AGAIN, f"{words} there is no plan: {found.reason}.")
        same = found.plan.split == self.plan.split
        plan = "the best plan splits as this one does" if same else f"the best plan is {found.plan.split}"
        sentence = f"{words} {plan}, on {found.plan.world_size:,} devices: {self._takes(found.step_time_s)}."
        return self._found(name, PLANNED_AGAIN, found.plan, sentence)

    def _found(self, name: str, how: str, plan: Plan, sentence: str) -> WhatIf:
        """The row of another plan."""
        took_s = step_s(plan)
        return WhatIf(
            name=name,
            how=how,
            step_time_s=took_s,
            change=took_s / self.before_s - 1.0,
            split=plan.split,
            sentence=sentence,
        )


def _no_plan(name: str, how: str, sentence: str) -> WhatIf:
    return WhatIf(name=name, how=how, step_time_s=0.0, change=0.0, split="", sentence=sentence)


def _signed(share: float) -> str:
    """A change as tables print it.

    Example:
        >>> _signed(-0.1), _signed(0.1)
        ('−10 %', '+10 %')
    """
    return f"{'−' if share < 0 else '+'}{_unsigned(share)}"


def _unsigned(share: float, digits: int = 0) -> str:
    """How much a change is, without its direction.

    Example:
        >>> _unsigned(-0.0123, 1)
        '1.2 %'
    """
    return f"{100 * abs(share):.{digits}f} %"
