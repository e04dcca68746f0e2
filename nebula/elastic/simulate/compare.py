"""How many jobs fail, and where their time goes, with all mechanisms, without each, and with none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nebula.elastic.goodput import Category
from nebula.elastic.simulate.run import Outcome
from nebula.elastic.simulate.strike import played
from nebula.elastic.simulate.trace import trace
from nebula.elastic.simulate.values import NAMES, Mechanisms, Scenario

NOTHING = Mechanisms(**dict.fromkeys(NAMES, False))
"""A job that fails begins anew, from the disk, on as many nodes as before; nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All jobs of a scenario under one set of mechanisms; simulated.

    Attributes:
        failed: jobs that were not done by their deadline.
        wall_ns, spent_ns: of all jobs together; the categories sum to the former.
        met: faults that hit nodes that trained.
        because: why the first job that failed did; empty where none did.
    """

    name: str
    jobs: int
    failed: int
    wall_ns: int
    spent_ns: Mapping[Category, int]
    steps: int
    lost_steps: int
    restarts: int
    met: int
    because: str

    @property
    def goodput(self) -> float:
        """The share of the time that was progress at the full rate."""
        return self.spent_ns[Category.PRODUCTIVE] / self.wall_ns if self.wall_ns else 1.0

    def share(self, category: Category) -> float:
        """The share of the time that a category took."""
        return self.spent_ns[category] / self.wall_ns if self.wall_ns else 0.0


def variants(*, alone: bool = False) -> Mapping[str, Mechanisms]:
    """The sets of mechanisms that are compared, by what people call them.

    Args:
        alone: whether each mechanism is tried with no other, too.
    """
    words = {name: name.replace("_", " ") for name in NAMES}
    return {
        "all": Mechanisms(),
        **{f"without {words[name]}": replace(Mechanisms(), **{name: False}) for name in NAMES},
        **{f"{words[name]} alone": replace(NOTHING, **{name: True}) for name in NAMES if alone},
        "none of them": NOTHING,
        "no restart": replace(NOTHING, restart=False),
    }


def compare(
    scenario: Scenario,
    sets: Mapping[str, Mechanisms],
    done: Callable[[int], None] = lambda number: None,  # noqa: ARG005
) -> Sequence[Row]:
    """A row for each set; all sets meet the same faults.

    Args:
        done: is told how many jobs have been played.
    """
    outcomes: dict[str, list[Outcome]] = {name: [] for name in sets}
    for job in range(scenario.jobs):
        faults = trace(scenario, job)
        for number, (name, mechanisms) in enumerate(sets.items(), 1):
            outcomes[name].append(played(scenario, faults, mechanisms))
            done(job * len(sets) + number)
    return [row(name, found) for name, found in outcomes.items()]


def row(name: str, outcomes: Sequence[Outcome]) -> Row:
    """Outcomes together."""
    accounts = [outcome.account for outcome in outcomes]
    failed = [outcome for outcome in outcomes if not outcome.done]
    return Row(
        name=name,
        jobs=len(outcomes),
        failed=len(failed),
        wall_ns=sum(one.wall_ns for one in accounts),
        spent_ns={category: sum(one.spent_ns[category] for one in accounts) for category in Category},
        steps=_sum(outcome.steps for outcome in outcomes),
        lost_steps=_sum(one.lost_steps for one in accounts),
        restarts=_sum(outcome.restarts for outcome in outcomes),
        met=_sum(outcome.met for outcome in outcomes),
        because=failed[0].because if failed else "",
    )


def _sum(values: Iterable[int]) -> int:
    return sum(values)
