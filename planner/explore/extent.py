"""How far an exploration goes: all that the cost model knows, or what an engine runs on a kind of device.

What the executor runs is asked of the legality table, feature by feature, on small plans; so the space grows with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations

from nebula.plan.job import OFFLOAD
from nebula.plan.layout import uniform_stages
from nebula.plan.legality import executable, executable_by
from nebula.plan.schedule import SCHEDULES, device_of
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding
from nebula.planner.engines import ALONE, missing

EXECUTOR = "executor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What an exploration looks at.

    Attributes:
        shardings: stages of sharding.
        schedules: their names; empty: all that are explored.
        offloads: of those that are allowed or fixed, what may lie in the host's memory; empty: all.
        sequence: whether tensor groups may cut the sequence.
        context: whether ranks may share a sequence.
        expert: whether experts may be dealt.
        same_tokens: whether ranks that hold the same tokens, those of a tensor group with whole sequences, may deal
            experts.
        together: whether one pipeline may have stages on several types of device.
    """

    shardings: tuple[int, ...] = (0, 1, 2, 3)
    schedules: tuple[str, ...] = ()
    offloads: tuple[str, ...] = ()
    sequence: bool = True
    context: bool = True
    expert: bool = True
    same_tokens: bool = True
    together: bool = True


EVERYTHING = Extent()
"""All that the cost model knows, whether or not an engine can run it yet."""


@lru_cache(maxsize=64)
def executor_extent(job: Job, kinds: tuple[str, ...], *, token_wise: bool = True) -> Extent | None:
    """What the executor runs on devices of each of some kinds; None where it runs nothing on one of them.

    Args:
        job: whose own demands (a precision, say) keep nothing out.
        kinds: of nebula.plan.legality.DEVICE_KINDS.
        token_wise: whether all elements of the model promise to work on each token by itself.
    """
    alone = frozenset(sentence for kind in kinds for sentence in missing(ALONE, job, kind))

    def runs(plan: Plan) -> bool:
        return all(not frozenset(executable(plan, kind).missing) - alone for kind in kinds)

    def together(first: str, last: str) -> bool:
        stages = _small(job)
        on = tuple(first if rank in stages.stages[0].ranks else last for rank in range(stages.world_size))
        return not frozenset(executable_by(stages, on).missing) - alone

    if not runs(_small(job)):
        return None
    shardings = tuple(stage for stage in range(4) if runs(_small(job, sharding=stage)))
    schedules = tuple(name for name in SCHEDULES if runs(_small(job, schedule=name)))
    offloads = tuple(what for what in OFFLOAD if runs(_small(job, offload=what)))
    return Extent(
        shardings=shardings,
        schedules=schedules,
        offloads=offloads,
        sequence=token_wise and runs(_small(job, tensor=2, sequence_parallel=True)),
        context=token_wise and runs(_small(job, context=2)),
        expert=runs(_small(job, expert=2)),
        same_tokens=runs(_small(job, tensor=2, expert=2)),
        together=all(together(first, last) for first, last in permutations(kinds, 2)),
    )


def _small(
    job: Job,
    *,
    tensor: int = 1,
    context: int = 1,
    expert: int = 1,
    sharding: int = 0,
    schedule: str = "zb-h1",
    offload: str = "none",
    sequence_parallel: bool = False,
) -> Plan:
    """A plan of the executor with two replicas and a pipeline, and one feature more."""
    chunks = int(SCHEDULES[schedule].chunks[0])
    stages = uniform_stages(
        boundaries=(0, 1, 2),
        data=2,
        tensor=tensor * context,
        sharding=Sharding(stage=sharding, degree=2 if sharding else 1),
        micro_batch_rows=1,
        recompute="none",
    )
    held = tuple(replace(stage, context=context, expert=expert, offload=offload) for stage in stages)
    if chunks > 1:
        homes = [device_of(schedule, index, 2, 2) for index in range(4)]
        held = tuple(replace(held[home], layers=(index, index + 1)) for index, home in enumerate(homes))
    ranks = len({rank for stage in held for rank in stage.ranks})
    return Plan(
        stages=held,
        micro_batches=4,
        schedule=schedule,
        engine=EXECUTOR,
        ranks=tuple(RankPlace("any/0", rank) for rank in range(ranks)),
        job=job,
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
        sequence_parallel=sequence_parallel,
    )
