"""Where the ranks of a stage talk along each axis, and what their links attain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster
from nebula.cost_model.communication import Fabric, Levels, collective, ranks_of
from nebula.cost_model.step_parameters import DEFAULT, StepParameters, meanings
from nebula.cost_model.traffic import FRAMED, Axes, across, attained, seconds_by_axis, stage_axes, wire
from nebula.graph.values import Collective
from tests.pure.cost_samples import cluster, device


def real(*, intra_kind="nvlink", nic_kind="infiniband", cards=8, intra=1e10, nic=1e9) -> Cluster:
    """Two nodes of eight devices that are not emulated."""
    whole = cluster(2, kind=device(emulated=False), intra=intra, nic=nic)
    (group,) = whole.groups
    links = {"intra": replace(group.intra, kind=intra_kind), "nic": replace(group.nic, kind=nic_kind)}
    return replace(whole, groups=(replace(group, nic_count=cards, **links),))


@pytest.mark.parametrize(("kind", "share"), [("pcie", DEFAULT.pcie_share), ("nvlink", DEFAULT.intra_share)])
def test_links_in_a_node_attain_their_share(kind: str, share: float) -> None:
    (group,) = attained(real(intra_kind=kind), DEFAULT).groups
    assert group.intra.bytes_per_s == pytest.approx(1e10 * share)


@pytest.mark.parametrize(
    ("kind", "cards", "rate", "per_card"),
    [
        ("infiniband", 8, 50e9, DEFAULT.nic_share * 50e9),
        ("ethernet", 1, 12.5e9, DEFAULT.tcp_bytes_per_s),
        ("omni-path", 4, 12.5e9, DEFAULT.tcp_bytes_per_s),
        ("ethernet", 1, 1.25e9, FRAMED * 1.25e9),
    ],
)
def test_cards_attain_their_share_and_without_rdma_no_more_than_the_host_passes_on(kind, cards, rate, per_card) -> None:
    (group,) = attained(real(nic_kind=kind, cards=cards, nic=rate), DEFAULT).groups
    assert group.nic.bytes_per_s == pytest.approx(per_card)


@pytest.mark.parametrize(
    ("cards", "talking", "times"),
    [(1, 8, 1.0), (1, 2, 4.0), (1, 1, 8.0), (4, 1, 2.0), (8, 1, 1.0)],
)
def test_ranks_that_talk_alone_share_cards_among_themselves(cards: int, talking: int, times: float) -> None:
    fabric = Fabric(real(cards=cards))
    first = np.arange(talking).reshape(1, 1, -1)
    (level,) = across(first, first + 8, fabric)
    (usual,) = fabric.levels((0, 8))
    assert level.link.bytes_per_s == pytest.approx(times * usual.link.bytes_per_s)


def test_ranks_of_one_node_meet_on_its_links() -> None:
    fabric = Fabric(real(cards=1))
    first = np.arange(2).reshape(1, 1, -1)
    assert across(first, first + 2, fabric) == fabric.levels((0, 2))


def test_emulated_links_attain_what_they_have() -> None:
    assert attained(cluster(2), DEFAULT) == cluster(2)


@given(
    st.sampled_from(["intra", "nic"]),
    st.sampled_from(["nvlink", "pcie"]),
    st.sampled_from(["infiniband", "ethernet"]),
    st.floats(1e8, 1e12),
    st.floats(1, 10),
)
def test_faster_links_attain_no_less(which: str, intra: str, nic: str, rate: float, factor: float) -> None:
    slow, fast = (
        getattr(attained(real(intra_kind=intra, nic_kind=nic, **{which: r}), DEFAULT).groups[0], which).bytes_per_s
        for r in (rate, rate * factor)
    )
    assert slow <= fast


@pytest.mark.parametrize("name", ["intra_share", "nic_share", "pcie_share", "tcp_bytes_per_s", "start_s"])
@settings(max_examples=20)
@given(st.data())
def test_no_collective_is_slower_when_links_attain_more(name: str, data: st.DataObject) -> None:
    meaning = meanings()[name]
    low, high = sorted(data.draw(st.tuples(*[st.floats(meaning.low, meaning.high)] * 2)))
    intra, nic = data.draw(st.sampled_from([("pcie", "ethernet"), ("nvlink", "infiniband")]))
    size = data.draw(st.floats(1, 1e10))

    def seconds(value: float) -> float:
        parameters = replace(DEFAULT, **{name: value})
        levels = Fabric(attained(real(intra_kind=intra, nic_kind=nic), parameters)).levels(range(16))
        return wire("all_reduce", levels, parameters).seconds(size)

    worse, better = (high, low) if name == "start_s" else (low, high)
    assert seconds(better) <= seconds(worse) * (1 + 1e-12)


def axes(data: int, context: int, tensor: int, **more) -> Axes:
    grid = np.arange(data * context * tensor).reshape(data, context, tensor)
    given_ = {"shard": 1, "expert": 1, "expert_tensor": 1, "behind": None} | more
    return stage_axes(grid, fabric=Fabric(real()), **given_)


def test_axes_of_two_nodes() -> None:
    found = axes(4, 2, 2, shard=2, expert=4, expert_tensor=2)
    assert [level.members for level in found.tensor] == [2]
    assert [level.members for level in found.context] == [2]
    # two replicas of two context ranks share states on one node, the other node has the same
    assert ranks_of(found.shard) == 4
    assert [(level.name, level.members) for level in found.outer] == [("leaf", 2)]
    # experts over four neighbours' places in steps of their width, the same ones on the other node
    assert (ranks_of(found.expert), ranks_of(found.expert_tensor)) == (4, 2)
    assert [(level.name, level.members) for level in found.expert_shard] == [("leaf", 2)]


@settings(max_examples=40)
@given(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.data())
def test_ranks_of_every_axis_multiply_out(data: int, context: int, tensor: int, draw: st.DataObject) -> None:
    data, context, tensor = 2**data, 2**context, 2**tensor
    world = data * context * tensor
    powers = st.sampled_from([1, 2, 4, 8, 16])
    shard = draw.draw(powers.filter(lambda n: data % n == 0))
    expert = draw.draw(powers.filter(lambda n: world % n == 0))
    width = draw.draw(powers.filter(lambda n: world // expert % n == 0))
    found = axes(data, context, tensor, shard=shard, expert=expert, expert_tensor=width)
    count = {name: ranks_of(found.of(name)) for name in Axes.__dataclass_fields__}
    assert (count["tensor"], count["context"]) == (tensor, context)
    assert count["shard"] * count["outer"] == data * context
    assert count["expert"] * count["expert_tensor"] * count["expert_shard"] == world


def test_ranks_with_the_same_tokens_add_gradients_of_experts_at_one_place_of_their_tensor_groups() -> None:
    own, same = (axes(4, 2, 2, same_tokens=alike).expert_shard for alike in (False, True))
    assert (ranks_of(own), ranks_of(same)) == (16, 8)
    assert same == axes(4, 2, 2, shard=4).shard


def test_the_slowest_of_unlike_groups_is_waited_for() -> None:
    # replicas of six ranks over nodes of eight: the second lies on both
    grid = np.arange(12).reshape(2, 1, 6)
    found = stage_axes(grid, shard=1, expert=1, expert_tensor=1, behind=None, fabric=Fabric(real()))
    assert [level.name for level in found.tensor] == ["node", "leaf"]


def test_a_stage_behind_on_another_node_is_reached_through_the_cards() -> None:
    near = axes(1, 1, 4, behind=np.arange(4, 8).reshape(1, 1, 4)).pair
    far = axes(1, 1, 4, behind=np.arange(8, 12).reshape(1, 1, 4)).pair
    assert axes(1, 1, 4).pair == Levels()
    assert [near[-1].name, far[-1].name] == ["node", "leaf"]


def test_a_collective_has_its_start_beside_its_links_and_a_lone_rank_none() -> None:
    levels = axes(1, 1, 4).tensor
    cost = collective("all_gather", levels)
    assert wire("all_gather", levels, DEFAULT).seconds(1e6) == pytest.approx(cost.seconds(1e6) + DEFAULT.start_s)
    assert wire("all_gather", Levels(), DEFAULT).seconds(1e6) == 0.0


def test_seconds_are_summed_by_axis_whatever_the_order() -> None:
    found = axes(2, 1, 4, expert=2)
    wires = [
        Collective(kind="all_reduce", axis="tensor", bytes=1e6),
        Collective(kind="all_to_all", axis="expert", bytes=2e6),
        Collective(kind="all_gather", axis="tensor", bytes=3e6),
    ]
    total = seconds_by_axis(wires, found, DEFAULT)
    assert total == pytest.approx(seconds_by_axis(wires[::-1], found, DEFAULT))
    both = wire("all_reduce", found.tensor, DEFAULT).seconds(1e6) + wire("all_gather", found.tensor, DEFAULT).seconds(
        3e6
    )
    assert total["tensor"] == pytest.approx(both)
    assert seconds_by_axis([], found, DEFAULT) == {}


def test_every_parameter_has_a_plausible_default_and_says_what_it_is() -> None:
    for name, meaning in meanings().items():
        assert meaning.low <= getattr(StepParameters(), name) <= meaning.high, name
        assert len(meaning.unit) * len(meaning.text) > 0, name
