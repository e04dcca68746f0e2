"""What replicas share: gradients, states and parameters by sharding stage, and that sharding over one is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cluster.topology import Level
from nebula.cluster.values import Link
from nebula.cost_model.communication import Levels, collective
from nebula.cost_model.execution import Execution
from nebula.cost_model.passes import NOTHING, Passes
from nebula.cost_model.replicas import LayerLoad, Replicas, Weights
from nebula.cost_model.step_parameters import DEFAULT
from nebula.cost_model.traffic import Axes
from nebula.plan.values import Replica, Sharding, Stage
from tests.pure.cost_samples import device

EMPTY = Passes(forward=NOTHING, backward=NOTHING, again=NOTHING)
MEMORY = device().memory_bytes_per_s
FREE = replace(DEFAULT, start_s=0.0)


def levels(members: int, bytes_per_s: float = 1e9, name: str = "node") -> Levels:
    """One level, without latency; of one rank none."""
    link = Link(kind="bus", bytes_per_s=bytes_per_s, latency_s=0.0)
    return Levels((Level(name=name, members=members, link=link),)) if members > 1 else Levels()


def load(elements: float = 1e6, experts: float = 0.0) -> LayerLoad:
    weights = Weights(elements=elements, expert_elements=experts)
    return LayerLoad(passes=EMPTY, weights=weights, border_bytes=0.0)


def replicas(
    stage: int, degree: int = 1, *, data: int = 1, experts: int = 1, micro_batches: int = 1, rate=1e9, **more
) -> Replicas:
    """Replicas of one rank each, of which `degree` share states and `experts` the same experts."""
    held = tuple(Replica(ranks=(r,), tensor_shares=(1,), micro_batch_rows=1) for r in range(data))
    return Replicas(
        stage=Stage(layers=(0, 1), replicas=held, sharding=Sharding(stage=stage, degree=degree)),
        micro_batches=micro_batches,
        axes=Axes(
            shard=levels(degree, rate), outer=levels(data // degree, rate, "leaf"), expert_shard=levels(experts, rate)
        ),
        device=device(),
        execution=more.get("execution", Execution()),
        parameters=FREE,
    )


def everything(of: Replicas, *loads: tuple[LayerLoad, int]) -> list[float]:
    return [
        *(s for one, _ in loads for s in of.layer_seconds(one)),
        of.adds_seconds(loads),
        *of.sync_seconds(loads),
        of.update_seconds(loads),
    ]


@given(st.integers(1, 3), st.integers(1, 8), st.floats(0, 1e9), st.floats(0, 1e9))
def test_sharding_over_one_replica_is_none(stage: int, micro_batches: int, dense: float, experts: float) -> None:
    alone = [everything(replicas(s, micro_batches=micro_batches), (load(dense, experts), 3)) for s in (0, stage)]
    assert alone[0] == alone[1]


def test_a_rank_alone_has_nothing_to_share() -> None:
    assert replicas(0).sync_seconds([(load(), 2)]) == (0.0, 0.0)
    assert replicas(3).layer_seconds(load()) == (0.0, 0.0)


def test_gradients_of_four_replicas_by_hand() -> None:
    loads, elements = [(load(1e6), 3)], 3e6
    ring = 3 / 4 / 1e9  # seconds per byte of a reduce_scatter or an all_gather
    reduce_s, gather_s = replicas(0, data=4).sync_seconds(loads)
    assert (reduce_s, gather_s) == (pytest.approx(2 * ring * elements * 4), 0.0)
    reduce_s, gather_s = replicas(1, 4, data=4).sync_seconds(loads)
    assert (reduce_s, gather_s) == (pytest.approx(ring * elements * 4), pytest.approx(ring * elements * 2))


def test_stage_3_gathers_and_reduces_every_layer_and_nothing_around_the_passes() -> None:
    whole = replicas(3, 4, data=4)
    ring = 3 / 4 / 1e9
    assert whole.layer_seconds(load(1e6)) == (pytest.approx(ring * 2e6), pytest.approx(ring * 4e6))
    assert whole.sync_seconds([(load(), 3)]) == (0.0, 0.0)
    assert replicas(2, 4, data=4).layer_seconds(load()) == (0.0, 0.0)


@pytest.mark.parametrize("stage", [1, 3])
def test_replicas_that_hold_the_same_share_reduce_that_share_alone(stage: int) -> None:
    whole = replicas(stage, 4, data=8)
    one_group = replicas(stage, 4, data=4)
    more = collective("all_reduce", levels(2)).seconds(1e6 / 4 * 4)
    if stage == 3:
        assert whole.layer_seconds(load())[1] == pytest.approx(one_group.layer_seconds(load())[1] + more)
    else:
        found, without = (of.sync_seconds([(load(), 1)])[0] for of in (whole, one_group))
        assert found == pytest.approx(without + more)


def test_the_update_moves_a_rank_s_share() -> None:
    # gradient read for the norm, read and written by the clip, read again; two moments and the copy both ways; weight
    width = 4 * 4 + 2 * 2 * 4 + 2 * 4 + 2
    loads = [(load(1e6, 2e6), 2)]
    assert replicas(0, data=4).update_seconds(loads) == pytest.approx(6e6 * width / MEMORY)
    assert replicas(1, 4, data=4, experts=2).update_seconds(loads) == pytest.approx(
        (2e6 / 4 + 4e6 / 2) * width / MEMORY
    )


def test_gradients_of_the_first_micro_batch_are_added_to_nothing() -> None:
    loads = [(load(1e6), 1)]
    assert replicas(0).adds_seconds(loads) == 0.0
    assert replicas(0, micro_batches=4).adds_seconds(loads) == pytest.approx(3 / 4 * 1e6 * (2 * 4 + 2) / MEMORY)
    assert replicas(3, 4, data=4, micro_batches=4).adds_seconds(loads) == pytest.approx(
        replicas(0, micro_batches=4).adds_seconds(loads) / 4
    )


@given(st.sampled_from([0, 1, 2, 3]), st.integers(1, 4), st.floats(1e6, 1e12), st.floats(1, 10), st.floats(0, 1e9))
def test_faster_links_are_never_slower(stage: int, degree: int, rate: float, factor: float, experts: float) -> None:
    degree = degree if stage else 1
    loads = ((load(1e6, experts), 2),)
    slow, fast = (
        everything(replicas(stage, degree, data=2 * degree, experts=2, micro_batches=4, rate=r), *loads)
        for r in (rate, rate * factor)
    )
    assert all(b <= a for a, b in zip(slow, fast, strict=True))


@given(st.sampled_from(["bfloat16", "float32"]), st.integers(2, 16))
def test_more_ranks_that_share_states_update_no_slower(dtype: str, degree: int) -> None:
    execution = Execution(accumulation_dtype=dtype)
    loads = [(load(1e6, 1e6), 1)]
    few, many = (replicas(1, d, data=2 * degree, execution=execution).update_seconds(loads) for d in (1, degree))
    assert many < few
