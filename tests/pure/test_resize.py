"""A cluster with other numbers of nodes: the mix stays, health follows the nodes, and what cannot be says so."""

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nebula.cluster.resize import smallest_step, with_devices
from nebula.cluster.schema import dump_cluster, load_cluster
from nebula.errors import BadInput
from tests.pure.cluster_samples import MIXED
from tests.pure.cost_samples import cluster

TWO_SITES = load_cluster(yaml.safe_load(MIXED))


@given(st.integers(1, 40))
def test_groups_keep_their_mix_at_every_size(times):
    step = smallest_step(TWO_SITES)
    found = with_devices(TWO_SITES, step * times)
    assert step == 24
    assert found.device_count == step * times
    assert [group.count for group in found.groups] == [times, 2 * times]
    assert load_cluster(yaml.safe_load(dump_cluster(found))) == found


def test_its_own_size_is_the_cluster_itself():
    assert with_devices(TWO_SITES, TWO_SITES.device_count) is TWO_SITES


def test_one_group_can_be_a_part_of_a_node():
    found = with_devices(cluster(nodes=4, per_node=8), 3)
    assert (found.node_count, found.device_count) == (1, 3)


def test_excluded_and_slow_nodes_stay_so_while_they_are_there():
    sick = cluster(nodes=4, per_node=2, excluded=frozenset({1, 3}), slow=((0, 1.5), (2, 2.0)))
    (smaller,) = with_devices(sick, 4).groups
    (larger,) = with_devices(sick, 16).groups
    assert (smaller.excluded, smaller.slow) == ({1}, ((0, 1.5),))
    assert (larger.excluded, larger.slow) == (sick.groups[0].excluded, sick.groups[0].slow)


@pytest.mark.parametrize(("devices", "near"), [(20, "16 or 24"), (7 * 8 + 4, "56 or 64"), (0, "8")])
def test_no_whole_nodes_names_the_sizes_that_are(devices, near):
    with pytest.raises(BadInput, match=rf"{devices} devices are no whole nodes; {near} would be"):
        with_devices(cluster(nodes=4, per_node=8), devices)


def test_a_lone_node_without_a_network_cannot_be_two():
    lone = cluster(nodes=1, per_node=4, nic=0.0)
    assert with_devices(lone, 2).device_count == 2
    with pytest.raises(BadInput, match="no nic to join 2 nodes"):
        with_devices(lone, 8)


def test_the_last_tier_still_spans_all_nodes():
    where = cluster(nodes=4, per_node=2)
    bounded = replace(where, tiers=(where.tiers[0], replace(where.tiers[1], nodes=4)))
    assert with_devices(bounded, 32).tiers[-1].nodes == 0
