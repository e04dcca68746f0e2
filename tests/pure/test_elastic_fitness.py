"""Nodes that are not fit are found by comparison: slow devices, slow ways; who merely met a slow one is not accused."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.controller.admission import Admission
from nebula.elastic.policy.fitness import Fitness, slow_links, unfit
from nebula.elastic.policy.slow import Slowness
from nebula.elastic.protocol import control_pb2 as wire

LIMITS = Slowness()
NODES = ["a", "b", "c", "d", "e"]
USUAL = Fitness(flops=1e13, copy_bytes_per_s=2e10)


def test_a_device_that_computes_slowly_is_named():
    found = list(unfit({"a": USUAL, "b": USUAL, "c": Fitness(flops=4e12, copy_bytes_per_s=2e10)}, LIMITS))
    assert [(one.node, one.factor) for one in found] == [("c", 2.5)]
    assert found[0].because == "c computes 2.5 times as slowly as the others"


def test_a_device_behind_a_slow_link_is_named_with_its_rate():
    slow = Fitness(flops=1e13, copy_bytes_per_s=4e9)
    (found,) = unfit({"a": USUAL, "b": slow, "c": USUAL}, LIMITS)
    assert found.because == "b copies to its device 5.0 times as slowly as the others, at 4 GB/s"


def test_one_alone_and_those_that_are_alike_are_fit():
    assert list(unfit({"a": USUAL}, LIMITS)) == []
    assert list(unfit({"a": USUAL, "b": Fitness(flops=7e12, copy_bytes_per_s=2.5e10)}, LIMITS)) == []


@given(noise=st.lists(st.floats(0.9, 1.1), min_size=20, max_size=20), slow=st.sampled_from(NODES), by=st.floats(2, 100))
def test_a_node_that_is_slow_to_and_from_all_is_named_and_nobody_else(noise, slow, by):
    pairs = list(permutations(NODES, 2))
    usual = {pair: 1e9 * one for pair, one in zip(pairs, noise, strict=True)}
    assert list(slow_links(usual, LIMITS)) == []
    rates = {pair: rate / by if slow in pair else rate for pair, rate in usual.items()}
    assert [one.node for one in slow_links(rates, LIMITS)] == [slow]


@pytest.mark.parametrize("bad", [[("a", "b")], [("a", "b"), ("b", "a")]])
def test_a_way_between_two_that_are_fast_else_accuses_nobody(bad):
    rates = {pair: 1e8 if pair in bad else 1e9 for pair in permutations(NODES, 2)}
    assert list(slow_links(rates, LIMITS)) == []


def test_a_node_that_reaches_nobody_is_named():
    rates = {pair: 0.0 if "c" in pair else 1e9 for pair in permutations(NODES, 2)}
    (found,) = slow_links(rates, LIMITS)
    assert (found.node, found.factor) == ("c", float("inf"))
    assert found.because == "c reaches others at 0 B/s, where 1 GB/s are usual"


def test_too_few_pairs_say_nothing():
    assert list(slow_links({("a", "b"): 1.0, ("b", "a"): 1e9}, LIMITS)) == []


def hello(node, flops=1e13):
    return wire.Hello(node=node, fitness=wire.Fitness(flops=flops, copy_bytes_per_s=2e10))


def test_admission_compares_those_who_were_tried_and_names_each_once():
    admission, addresses = Admission(LIMITS), {name: f"{name}:1" for name in "abcd"}
    assert list(admission.joined(wire.Hello(node="d"))) == []
    assert admission.peers("d", addresses) == []
    assert list(admission.joined(hello("a", 2e12))) == []
    assert [one.node for one in admission.joined(hello("b"))] == ["a"]
    assert list(admission.joined(hello("c"))) == []
    assert [peer.node for peer in admission.peers("c", addresses)] == ["a", "b"]
    admission.left("a")
    assert [one.node for one in admission.joined(hello("a", 2e12))] == ["a"]


def test_nodes_are_tried_with_those_that_were_tried_least():
    admission = Admission(LIMITS)
    addresses = {name: f"{name}:1" for name in "abcdef"}
    for name in "abcde":
        list(admission.joined(hello(name)))
    list(admission.probed("e", wire.Probed(rates=[wire.Rate(node=name, bytes_per_s=1e9) for name in "abc"])))
    list(admission.joined(hello("f")))
    assert [peer.node for peer in admission.peers("f", addresses)] == ["d", "a", "b"]


def test_ways_that_were_tried_name_a_slow_node():
    admission = Admission(LIMITS)
    for node, rates in {"b": {"a": 1e9}, "c": {"a": 1e9, "b": 1e9}, "d": {"a": 1e8, "b": 1e8, "c": 1e8}}.items():
        told = wire.Probed(rates=[wire.Rate(node=name, bytes_per_s=rate) for name, rate in rates.items()])
        found = list(admission.probed(node, told))
        assert [one.node for one in found] == (["d"] if node == "d" else [])
