"""Who works on which rows, what crosses a border, and over whom a slice of a weight is summed."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.plan.layout import uniform_stages
from nebula.plan.schedule import device_of
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Sharding, Stage
from nebula.runtime.executor.holdings import Holding, slices
from nebula.runtime.executor.seats import channels, gives, orders, rows_of, seat_of, sent, takes


@st.composite
def stages(draw, first_rank=0, rows=6):
    """One stage: some replicas of some ranks that part the rows."""
    cuts = draw(st.lists(st.integers(1, rows - 1), max_size=3, unique=True).map(sorted))
    own = [high - low for low, high in zip([0, *cuts], [*cuts, rows], strict=True)]
    replicas, rank = [], first_rank
    for count in own:
        width = draw(st.integers(1, 4))
        ranks = tuple(range(rank, rank + width))
        replicas.append(Replica(ranks=ranks, tensor_shares=(1,) * width, micro_batch_rows=count))
        rank += width
    return Stage(layers=(0, 1), replicas=tuple(replicas))


@st.composite
def plans(draw):
    made, rank = [], 0
    for index in range(draw(st.integers(1, 4))):
        stage = draw(stages(first_rank=rank))
        made.append(Stage(layers=(index, index + 1), replicas=stage.replicas))
        rank += len(stage.ranks)
    return plan_of(made, rank, draw(st.sampled_from(["1f1b", "fthenb", "zb-h1"])), draw(st.integers(1, 5)))


def plan_of(made, ranks, schedule, micro_batches):
    rows = sum(replica.micro_batch_rows for replica in made[0].replicas)
    return Plan(
        stages=tuple(made),
        micro_batches=micro_batches,
        schedule=schedule,
        engine="executor",
        ranks=tuple(RankPlace("n/0", r) for r in range(ranks)),
        job=Job(global_batch=rows * micro_batches),
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
    )


def folded(schedule, devices, chunks, micro_batches):
    count = devices * chunks
    ranks = [device_of(schedule, v, devices, chunks) for v in range(count)]
    made = [
        Stage(layers=(v, v + 1), replicas=(Replica(ranks=(r,), tensor_shares=(1,), micro_batch_rows=1),))
        for v, r in enumerate(ranks)
    ]
    return plan_of(made, devices, schedule, micro_batches)


@given(plans())
def test_every_row_of_a_batch_has_one_replica_in_every_stage(plan):
    for stage in plan.stages:
        seats = [seat_of(plan, replica.ranks[0]) for replica in stage.replicas]
        rows = Counter(row for seat in seats for row in seat.rows_of_batch(plan))
        assert rows == Counter(range(plan.job.global_batch))


@given(plans())
def test_what_one_side_of_a_border_takes_the_other_gives(plan):
    """Every rank gets each of its rows once, and from whom it expects them, both ways over every border."""
    for one, other in [(a, a + 1) for a in range(len(plan.stages) - 1)]:
        for giver, taker in ((one, other), (other, one)):
            given_rows = Counter(
                flow for rank in plan.stages[giver].ranks for flow in rows_given(plan, rank, giver, taker)
            )
            taken_rows = Counter(flow for rank in plan.stages[taker].ranks for flow in rows_taken(plan, rank, giver))
            assert given_rows == taken_rows
            assert all(count == 1 for count in taken_rows.values())
            reached = Counter((taker_rank, row) for _, taker_rank, row in taken_rows)
            wanted = {(rank, row) for rank in plan.stages[taker].ranks for row in range(*seat_of(plan, rank).rows)}
            assert set(reached) == wanted
            assert set(reached.values()) == {1}


def rows_given(plan, rank, stage, to):
    seat = seat_of(plan, rank)
    width = len(plan.stages[stage].replicas[seat.replica].ranks)
    for share in gives(seat, width, plan.stages[to]):
        yield from ((rank, share.peer, seat.rows[0] + row) for row in range(share.first, share.last))


def rows_taken(plan, rank, giver):
    seat = seat_of(plan, rank)
    for share in takes(plan.stages[giver], seat):
        yield from ((share.peer, rank, seat.rows[0] + row) for row in range(share.first, share.last))


@given(plans())
def test_every_message_has_a_channel_and_is_awaited(plan):
    pairs = set(channels(plan))
    for giver, taker in pairs:
        messages = list(sent(plan, seat_of(plan, giver), taker))
        assert messages
        assert len(set(messages)) == len(messages)
    reached = {taker for _, taker in pairs}
    later = {rank for stage in plan.stages[1:] for rank in stage.ranks}
    assert later <= reached


@pytest.mark.parametrize("schedule", ["interleaved", "zb-v"])
@pytest.mark.parametrize("micro_batches", [1, 3, 4, 8])
def test_messages_come_in_an_order_that_lets_every_rank_go_on(schedule, micro_batches):
    """Sends never wait, receives do: with virtual stages too, running the actions so reaches the end."""
    plan = folded(schedule, 3, 2, micro_batches)
    todo = [list(order) for order in orders(plan)]
    done = set()
    while any(todo):
        went = [order for order in todo if order and ready(plan, order[0], done)]
        assert went, f"nothing can run: {[order[:1] for order in todo]}"
        for order in went:
            done.add(order.pop(0))


def ready(plan, action, done):
    kind, micro_batch, stage = action
    if kind == "F":
        return stage == 0 or ("F", micro_batch, stage - 1) in done
    if kind == "W":
        return ("I", micro_batch, stage) in done
    last = stage == len(plan.stages) - 1
    return ("F", micro_batch, stage) in done and (last or any((k, micro_batch, stage + 1) in done for k in "BI"))


@given(stages(), st.integers(1, 3))
def test_every_slice_is_summed_over_each_replica_once(stage, size):
    """A weight cut by each replica's own degree: what any rank's slice is summed over counts every replica once."""
    extent = 12 * size  # every degree from 1 to 4 divides it
    held, owners = {}, {}
    for index, replica in enumerate(stage.replicas):
        for place, rank in enumerate(replica.ranks):
            width = extent // len(replica.ranks)
            whole = len(replica.ranks) == 1
            cut = Holding("w", -1, 0, 1) if whole else Holding("w", 0, place * width, (place + 1) * width)
            held[rank], owners[rank] = [cut, Holding("norm", -1, 0, 1)], (0, index)
    found = slices(held, owners)
    for rank, pieces in found.items():
        for piece in pieces:
            members = Counter()
            for other in piece.ranks:
                same = [s for s in found[other] if (s.name, s.first, s.last) == (piece.name, piece.first, piece.last)]
                assert [s.ranks for s in same] == [piece.ranks]
                members[owners[other]] += same[0].weight
            assert set(members) == set(owners.values())
            assert all(abs(weight - 1) < 1e-12 for weight in members.values())
        held_of_w = sorted((s.first, s.last) for s in pieces if s.name == "w")
        if not all(len(replica.ranks) == 1 for replica in stage.replicas):
            own = held[rank][0]
            ends = (own.first, own.last) if own.dim == 0 else (0, extent)
            assert (held_of_w[0][0], held_of_w[-1][1]) == ends
            assert all(a[1] == b[0] for a, b in pairwise(held_of_w))


def test_alike_replicas_are_summed_place_by_place():
    made = uniform_stages(boundaries=(0, 2), data=2, tensor=2, sharding=Sharding(), micro_batch_rows=1)[0]
    held = {r: [Holding("w", 0, (r % 2) * 4, (r % 2 + 1) * 4), Holding("norm", -1, 0, 1)] for r in made.ranks}
    found = slices(held, {r: (0, r // 2) for r in made.ranks})
    assert {piece.ranks for piece in found[0]} == {(0, 2)}
    assert {piece.copies for piece in found[0] if piece.name == "norm"} == {4}


def test_rows_of_a_stage_follow_its_replicas():
    replicas = [Replica(ranks=(r,), tensor_shares=(1,), micro_batch_rows=n) for r, n in ((0, 3), (1, 1), (2, 2))]
    assert rows_of(Stage(layers=(0, 1), replicas=tuple(replicas))) == ((0, 3), (3, 4), (4, 6))


def test_a_weight_that_two_layers_cut_along_unlike_dims_is_refused():
    held = {0: [Holding("w", 0, 0, 2)], 1: [Holding("w", 1, 0, 2)]}
    with pytest.raises(BadInput, match="cut it along dims 0 and 1"):
        slices(held, {0: (0, 0), 1: (1, 0)})


def test_gradients_of_shares_of_the_sequence_are_addends_and_those_of_copies_are_not():
    """Two replicas of two ranks: a norm whose ranks see other tokens, and one that both compute whole."""
    held = {rank: [Holding("norm", -1, 0, 1, rank % 2), Holding("whole", -1, 0, 1)] for rank in range(4)}
    found = slices(held, {rank: (0, rank // 2) for rank in range(4)})
    for rank, (norm, whole) in found.items():
        assert (norm.ranks, norm.weight, norm.copies) == ((0, 1, 2, 3), 1.0, 4)
        assert (whole.ranks, whole.weight, whole.copies) == ((rank % 2, rank % 2 + 2), 1.0, 4)


def test_addends_beside_one_rank_that_sees_all_tokens_count_once_each():
    held = {0: [Holding("norm", -1, 0, 1, 0)], 1: [Holding("norm", -1, 0, 1, 1)], 2: [Holding("norm", -1, 0, 1)]}
    found = slices(held, {0: (0, 0), 1: (0, 0), 2: (0, 1)})
    assert [(s.ranks, s.weight) for (s,) in found.values()] == [((0, 1, 2), 1.0)] * 3
