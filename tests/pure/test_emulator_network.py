"""Messages that share links are as fast as fairness lets them, and what ranks did gets its times from that."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.emulator import RECORD
from nebula.emulator.network import Flow, Network
from nebula.emulator.replay import step_starts
from nebula.emulator.table import Link, SharedLinks, uniform_links
from nebula.emulator.work import Act, Work, read_work
from nebula.errors import BadInput

FIELDS = ("act", "thread", "stream", "peer", "batch", "spare", "id", "seconds", "bytes", "other")
LINK = Link(bytes_per_s=100.0, latency_s=1.0)


def flow(most, *ports, size=100.0):
    return Flow(left_bytes=size, most_bytes_per_s=most, ports=dict.fromkeys(ports, 1))


def rates(ports, flows):
    network = Network(ports)
    for number, one in enumerate(flows):
        network.add(0.0, number, one)
    return [one.rate for one in flows]


def test_a_port_is_shared_evenly_and_who_cannot_use_a_share_leaves_it_to_the_others():
    assert rates([90.0], [flow(100.0, 0)]) == [90.0]
    assert rates([90.0], [flow(100.0, 0), flow(100.0, 0)]) == pytest.approx([45.0, 45.0])
    assert rates([90.0], [flow(10.0, 0), flow(100.0, 0), flow(100.0, 0)]) == pytest.approx([10.0, 40.0, 40.0])
    assert rates([90.0, 20.0], [flow(100.0, 0), flow(100.0, 0, 1)]) == pytest.approx([70.0, 20.0])


def test_a_ring_that_passes_a_port_twice_takes_two_shares_at_one_pace():
    ring = Flow(left_bytes=1.0, most_bytes_per_s=100.0, ports={0: 2})
    assert rates([90.0], [ring, flow(100.0, 0)]) == pytest.approx([30.0, 30.0])


def test_what_ends_leaves_its_share():
    network = Network([100.0])
    network.add(0.0, 0, flow(100.0, 0, size=100.0))
    network.add(1.0, 1, flow(100.0, 0, size=100.0))  # 0 has nothing left by then
    assert network.next_end() == (1.0, 0)
    network.remove(1.0, 0)
    assert network.next_end() == (pytest.approx(2.0), 1)


@given(
    st.lists(st.floats(1.0, 50.0), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.floats(1.0, 60.0), st.dictionaries(st.integers(0, 3), st.integers(1, 3), max_size=3)),
        min_size=1,
        max_size=6,
    ),
)
def test_no_message_can_go_faster_without_taking_from_a_slower_one(ports, drawn):
    flows = [
        Flow(left_bytes=1.0, most_bytes_per_s=most, ports={p: n for p, n in passed.items() if p < len(ports)})
        for most, passed in drawn
    ]
    rates(ports, flows)
    used = [sum(one.rate * one.ports.get(port, 0) for one in flows) for port in range(len(ports))]
    for port, rate in enumerate(ports):
        assert used[port] <= rate * (1 + 1e-6)
    for one in flows:
        full = [port for port in one.ports if used[port] >= ports[port] * (1 - 1e-6)]
        slowest = any(
            all(other.rate <= one.rate * (1 + 1e-6) for other in flows if port in other.ports) for port in full
        )
        assert one.rate == pytest.approx(one.most_bytes_per_s, rel=1e-6) or slowest


def work(groups, *deeds):
    rows = [tuple(deed.get(field, 0) for field in FIELDS) for deed in deeds]
    kinds = [(f, "<u8" if f == "id" else "<f8" if f in ("seconds", "bytes", "other") else "<i4") for f in FIELDS]
    return Work(groups=groups, deeds=np.array(rows, dtype=kinds))


def run(seconds, stream=1):
    return {"act": Act.RUN, "stream": stream, "seconds": seconds}


def sends(peer, size, stream=2, group=7):
    return {"act": Act.SEND, "stream": stream, "peer": peer, "bytes": size, "id": group}


def receives(peer, size, stream=2, group=7):
    return {"act": Act.RECEIVE, "stream": stream, "peer": peer, "bytes": size, "id": group}


def step(number):
    return {"act": Act.STEP, "peer": number}


def test_streams_go_beside_each_other_until_one_waits_for_the_other():
    deeds = [run(3.0), run(2.0, stream=2), step(0), {"act": Act.NOTE, "stream": 1, "id": 5}]
    deeds += [{"act": Act.AWAIT, "stream": 2, "id": 5}, run(4.0, stream=2), step(1)]
    assert step_starts([work({}, *deeds)], {}, None) == [{0: 3.0, 1: 7.0}]


def test_a_message_takes_its_latency_and_its_bytes_from_when_it_is_sent():
    two = [work({}, run(3.0, stream=2), sends(1, 200.0), step(0)), work({}, receives(0, 200.0), step(0))]
    assert step_starts(two, uniform_links(2, LINK), None) == [{0: 6.0}, {0: 6.0}]


def test_two_messages_through_one_card_take_twice_as_long_if_they_meet():
    links = uniform_links(4, LINK)
    shared = SharedLinks(ports=(100.0,), through={(0, 2): (100.0, (0,)), (1, 3): (100.0, (0,))})

    def ends(wait_s):
        senders = [work({}, sends(2, 200.0), step(0)), work({}, run(wait_s, stream=2), sends(3, 200.0), step(0))]
        takers = [work({}, receives(rank, 200.0), step(0)) for rank in (0, 1)]
        return [own[0] for own in step_starts([*senders, *takers], links, shared)]

    assert ends(0.0) == pytest.approx([5.0, 5.0, 5.0, 5.0])
    assert ends(1.0) == pytest.approx([4.0, 5.0, 4.0, 5.0])
    assert ends(9.0) == pytest.approx([3.0, 12.0, 3.0, 12.0])


def test_a_collective_begins_when_its_last_member_does_and_passes_a_shared_card_once():
    groups = {9: (0, 1, 2)}
    gather = {"act": Act.COLLECTIVE, "stream": 3, "peer": 1, "bytes": 400.0, "id": 9}
    three = [work(groups, run(float(rank), stream=3), gather, step(0)) for rank in range(3)]
    links = uniform_links(3, LINK)
    assert [own[0] for own in step_starts(three, links, None)] == pytest.approx([2.0 + 2.0 + 4.0] * 3)
    card = SharedLinks(ports=(50.0,), through={(2, 0): (100.0, (0,))})
    assert [own[0] for own in step_starts(three, links, card)] == pytest.approx([2.0 + 2.0 + 8.0] * 3)


def test_records_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(BadInput, match="do not fit"):
        step_starts([work({}, receives(1, 5.0), step(0)), work({}, step(0))], uniform_links(2, LINK), None)
    with pytest.raises(BadInput, match=RECORD):
        read_work(tmp_path, 1)
    (tmp_path / "work.0").write_bytes(b"nebula-emulated-work 1\n\nabc")
    with pytest.raises(BadInput, match="no whole record"):
        read_work(tmp_path, 1)
