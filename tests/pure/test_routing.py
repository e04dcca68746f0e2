"""Where copies of tokens go, and how the balance of experts moves: laws that hold for any counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.models.routing import Routing, Trip, alone, moved, spans, together


@st.composite
def groups(draw):
    """Counts [ranks, experts] of a group whose ranks hold equal shares of the experts."""
    ranks, here = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    row = st.lists(st.integers(0, 5), min_size=ranks * here, max_size=ranks * here)
    return np.array(draw(st.lists(row, min_size=ranks, max_size=ranks)), dtype=np.int64)


def trips(counts):
    ranks = len(counts)
    here = counts.shape[1] // ranks
    return [Trip(counts=counts[r], arriving=counts[:, r * here : (r + 1) * here]) for r in range(ranks)]


@given(groups())
def test_every_copy_that_is_sent_arrives_at_the_rank_of_its_expert(counts):
    all_trips = trips(counts)
    for giver, trip in enumerate(all_trips):
        assert sum(trip.sent) == counts[giver].sum()
        assert trip.sent == [taker.came[giver] for taker in all_trips]
    assert [n for trip in all_trips for n in trip.by_expert] == counts.sum(axis=0).tolist()


@given(groups())
def test_rows_that_arrive_are_brought_together_by_expert_in_the_order_of_ranks(counts):
    for trip in trips(counts):
        rows = [(e, rank) for rank, sizes in enumerate(trip.arriving) for e, n in enumerate(sizes) for _ in range(n)]
        assert [rows[i] for i in together(trip.arriving)] == sorted(rows)
        assert spans(trip.by_expert)[-1][1] == len(rows)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_a_rank_alone_keeps_what_it_has(counts):
    trip = alone(np.array(counts))
    assert trip.sent == trip.came == [sum(counts)]
    assert trip.by_expert == counts


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 4), st.randoms())
def test_the_balance_is_the_same_however_the_batch_was_parted(load, parts, random):
    """Loads are whole numbers, so that micro-batches and replicas may be summed in any order."""
    shares = np.array([[random.randint(0, n) for n in load] for _ in range(parts)])
    start = np.zeros(len(load), dtype=np.int64)
    assert (moved(start, shares.sum(axis=0)) == moved(start, sum(reversed(list(shares))))).all()


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8))
def test_the_balance_rises_below_the_mean_and_falls_above(load):
    change = moved(np.zeros(len(load), dtype=np.int64), np.array(load))
    mean = sum(load) / len(load)
    assert [int(np.sign(mean - n)) for n in load] == change.tolist()


def test_the_balance_moves_loads_together():
    """Tokens that all prefer the first experts are spread over all of them, without a token changing its scores."""
    rng = np.random.default_rng(3)
    scores = rng.random((400, 8)) * 0.1 + np.linspace(0.5, 0.0, 8)
    balance, spread = np.zeros(8, dtype=np.int64), []
    for _ in range(300):
        chosen = np.argsort(-(scores + 0.002 * balance), axis=1)[:, :2]
        load = np.bincount(chosen.reshape(-1), minlength=8)
        spread.append(load.max() / load.mean())
        balance = moved(balance, load)
    assert spread[0] == 4.0
    assert max(spread[-20:]) < 1.15


def test_impossible_routings_are_refused():
    with pytest.raises(BadInput, match="none of softmax, sigmoid"):
        Routing(score="tanh")
    with pytest.raises(BadInput, match="below 0"):
        Routing(speed=-1e-3)
