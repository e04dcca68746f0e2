"""What a controller holds stays bounded, however many nodes it leads and however much they send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.controller import journal
from nebula.elastic.controller.crowd import Crowd, Line
from nebula.elastic.controller.journal import Happened, Journal
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.shared import packed, whole
from nebula.errors import RunFailed


def happened(number, line=""):
    return Happened(number=number, wall_s=0.0, epoch=1, generation=1, step=0, kind="x", because="y", last_lines=(line,))


def test_a_journal_keeps_the_newest_events_in_memory_and_all_in_the_store(monkeypatch):
    monkeypatch.setattr(journal, "KEPT", 5)
    stored = {}
    one = Journal(stored.__setitem__)
    for number in range(1, 9):
        one.add(happened(number))
    assert [event.number for event in one.after(0)] == [4, 5, 6, 7, 8]
    assert [event.number for event in one.after(6)] == [7, 8]
    assert one.after(8) == []
    assert len(stored) == 8
    again = Journal(stored.__setitem__, list(stored.values()))
    assert (again.after(0), again.last) == (one.after(0), 8)


def test_long_events_push_older_ones_out_but_the_newest_stays(monkeypatch):
    monkeypatch.setattr(journal, "KEPT_BYTES", 3000)
    one = Journal(lambda key, text: None)
    for number in range(1, 11):
        one.add(happened(number, "x" * 800))
    assert [event.number for event in one.after(0)] == [9, 10]
    one.add(happened(11, "x" * 5000))
    assert [event.number for event in one.after(0)] == [11]


@given(ranks=st.integers(0, 50), epoch=st.integers(0, 9), neighbour=st.text(max_size=5), everything=st.booleans())
def test_what_all_are_told_alike_and_what_one_is_told_come_together(ranks, epoch, neighbour, everything):
    alike = {"generation": 3, "plan_json": "{}", "words": ["a", "b"], "environment": {"A": "1"}}
    placed = [wire.Rank(rank=rank, node=f"n{rank}") for rank in range(ranks)]
    shared = packed(wire.Start(**alike, ranks=placed))
    own = {"epoch": epoch, "neighbour": neighbour, "everything": everything}
    assert whole(wire.Start(**own, shared=shared)) == wire.Start(**alike, **own, ranks=placed)
    assert whole(wire.Start(**own)) == wire.Start(**own)


def test_a_table_of_a_thousand_ranks_is_sent_small():
    placed = [wire.Rank(rank=rank, node=f"host-{rank}", endpoint=f"10.0.{rank % 7}.9:40000") for rank in range(1000)]
    start = wire.Start(ranks=placed)
    assert 4 * len(packed(start)) < len(start.SerializeToString())


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: b"x" + text])
def test_a_damaged_start_is_said(damage):
    shared = packed(wire.Start(plan_json="x" * 100))
    with pytest.raises(RunFailed, match="what all nodes are told of a generation is"):
        whole(wire.Start(shared=damage(shared)))


def test_nobody_is_blamed_for_a_time_in_which_the_controller_was_away():
    crowd = Crowd()
    crowd.lines = {name: Line(hello=wire.Hello(), heard_s=at_s, refusal=str) for name, at_s in (("a", 1.0), ("b", 5.0))}
    assert crowd.silent(4.0) == ["a"]
    crowd.forgive(3.5)
    assert crowd.silent(4.0) == []
