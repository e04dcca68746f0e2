"""Between any two distributions the steps give the right shards and receive few bytes; a border sends each once."""

import numpy as np
import pytest
from graph_blocks import mlp
from graph_cases import random_values
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.graph.completion import complete
from nebula.graph.distribution import Distribution, Mesh, distribution, whole
from nebula.graph.interpret import gather, run, run_partitioned
from nebula.graph.interpret_ranks import SimulatedRanks
from nebula.graph.interpret_steps import assemble, shard, take
from nebula.graph.partition import partition
from nebula.graph.reshard import border, moved_share, reshard

SHAPE = (12, 24, 12)
MESHES = (
    Mesh(shape=(2,), axes=("tensor",)),
    Mesh(shape=(2, 3), axes=("data", "tensor")),
    Mesh(shape=(2, 2, 3), axes=("data", "context", "tensor")),
)


@st.composite
def lies_on(draw, mesh, *, partial=True):
    """A distribution of a tensor of SHAPE on the mesh."""
    cuts = [(-1, 1)] * len(SHAPE)
    addends = set()
    for axis in range(len(mesh.shape)):
        place = draw(st.integers(-2 if partial else -1, len(SHAPE) - 1))
        if place == -2:
            addends.add(axis)
        elif place >= 0 and cuts[place][0] < 0:
            cuts[place] = (axis, draw(st.sampled_from((1, 1, 2))))
    return distribution(mesh, cuts, frozenset(addends))


@given(st.sampled_from(MESHES).flatmap(lambda m: st.tuples(lies_on(m), lies_on(m))))
def test_steps_give_the_shards_of_the_target(pair):
    source, target = pair
    ranks = SimulatedRanks(source.mesh)
    value = np.random.default_rng(0).standard_normal(SHAPE)
    moved = take({r: shard(value, source, r) for r in ranks.here}, reshard(source, target), ranks)
    assert all(moved[r].shape == target.local_shape(SHAPE) for r in ranks.here)
    np.testing.assert_allclose(assemble(moved, target, SHAPE), value, atol=1e-12)


@given(st.tuples(*[lies_on(MESHES[0])] * 3))
def test_on_one_axis_no_way_round_receives_fewer_bytes(three):
    source, between, target = three
    mesh = source.mesh
    straight = moved_share(reshard(source, target), mesh)
    around = moved_share(reshard(source, between), mesh) + moved_share(reshard(between, target), mesh)
    assert straight <= around + 1e-12


@given(st.sampled_from(MESHES).flatmap(lambda m: st.tuples(lies_on(m), lies_on(m))))
def test_making_the_tensor_whole_between_is_never_cheaper(pair):
    source, target = pair
    mesh = source.mesh
    full = whole(mesh, len(SHAPE))
    around = moved_share(reshard(source, full), mesh) + moved_share(reshard(full, target), mesh)
    assert moved_share(reshard(source, target), mesh) <= around + 1e-12


@given(st.sampled_from(MESHES).flatmap(lambda m: lies_on(m)))
def test_staying_costs_nothing(lies):
    assert reshard(lies, lies) == ()


def _one(*mapping, partial=()):
    return Distribution(mesh=Mesh(shape=(4,), axes=("tensor",)), dims_mapping=mapping, partial=frozenset(partial))


@pytest.mark.parametrize(
    ("source", "target", "kinds", "share"),
    [
        (_one(-1, -1, partial=[0]), _one(-1, -1), ["all_reduce"], 1.5),
        (_one(-1, -1, partial=[0]), _one(0, -1), ["reduce_scatter"], 0.75),
        (_one(0, -1), _one(-1, -1), ["all_gather"], 0.75),
        (_one(0, -1), _one(-1, 0), ["all_to_all"], 0.1875),
        (_one(-1, -1), _one(-1, 0), ["slice"], 0.0),
        (_one(-1, -1), _one(-1, -1, partial=[0]), ["addend"], 0.0),
        (_one(0, -1), _one(-1, -1, partial=[0]), ["pad"], 0.0),
    ],
)
def test_one_axis_takes_one_step(source, target, kinds, share):
    steps = reshard(source, target)
    assert [s.kind for s in steps] == kinds
    assert moved_share(steps, source.mesh) == pytest.approx(share)


def test_a_cut_on_another_axis_is_taken_before_the_gather():
    """Slicing first makes the gathered buffers smaller."""
    mesh = Mesh(shape=(2, 4), axes=("data", "tensor"))
    source = Distribution(mesh=mesh, dims_mapping=(-1, 1))
    target = Distribution(mesh=mesh, dims_mapping=(0, -1))
    assert [s.kind for s in reshard(source, target)] == ["slice", "all_gather"]


@given(
    st.sampled_from(MESHES).flatmap(lambda m: lies_on(m, partial=False)),
    st.sampled_from(MESHES).flatmap(lambda m: lies_on(m, partial=False)),
)
def test_a_border_gives_each_rank_its_shard_once(source, target):
    value = np.random.default_rng(0).standard_normal(SHAPE)
    crossing = border(source, target, SHAPE)
    assert crossing.before == crossing.after == ()
    landed = {r: np.full(target.local_shape(SHAPE), np.nan) for r in range(target.mesh.size)}
    for sent in crossing.transfers:
        place = np.ix_(*sent.write)
        assert np.isnan(landed[sent.target][place]).all(), "an element is sent twice"
        landed[sent.target][place] = shard(value, source, sent.source)[np.ix_(*sent.read)]
    for rank, array in landed.items():
        np.testing.assert_array_equal(array, shard(value, target, rank))
    assert sum(t.size for t in crossing.transfers) == sum(a.size for a in landed.values())


def test_a_border_between_equal_meshes_pairs_equal_ranks():
    lies = _one(0, -1)
    assert {(t.source, t.target) for t in border(lies, lies, (8, 3)).transfers} == {(r, r) for r in range(4)}


def test_replicas_take_turns_at_sending():
    whole = _one(-1, -1)
    assert {t.source for t in border(whole, _one(0, -1), (8, 3)).transfers} == {0, 1, 2, 3}


def over(crossing, shards, source, target, shape):
    """The shards behind a border, of those before it."""
    sent = take(shards, crossing.before, SimulatedRanks(source.mesh))
    received = distribution(target.mesh, target.cuts)
    landed = {r: np.full(received.local_shape(shape), np.nan) for r in range(target.mesh.size)}
    for box in crossing.transfers:
        landed[box.target][np.ix_(*box.write)] = sent[box.source][np.ix_(*box.read)]
    return take(landed, crossing.after, SimulatedRanks(target.mesh))


@given(st.sampled_from(MESHES).flatmap(lies_on), st.sampled_from(MESHES).flatmap(lies_on))
@settings(max_examples=50)
def test_partial_sums_end_before_a_border_and_begin_behind_it(source, target):
    value = np.random.default_rng(0).standard_normal(SHAPE)
    shards = {r: shard(value, source, r) for r in range(source.mesh.size)}
    crossing = border(source, target, SHAPE)
    assert not crossing.before or source.partial
    assert not crossing.after or target.partial
    whole = assemble(over(crossing, shards, source, target, SHAPE), target, SHAPE)
    np.testing.assert_allclose(whole, value, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"ffn.up.weight": (-1, 0), "ffn.down.weight": (0, -1)}, {"x0": (0, -1, -1)}),
        ({"x0": (0, -1, -1)}, {"x0": (-1, 0, -1)}),
    ],
    ids=["tensor to data", "data to sequence"],
)
def test_two_pipeline_stages_on_unlike_meshes_compute_what_one_does(first, second):
    """What crosses a border lies as the next stage wants it, and comes back through the border turned around."""
    block, meshes = mlp(4, 6, 12), (Mesh(shape=(2,), axes=("first",)), Mesh(shape=(2, 1), axes=("second", "spare")))
    rng = np.random.default_rng(0)
    values = [random_values(block, rng) for _ in meshes]
    leaves = run(block, values[0])[block.outputs[0]]
    serial = run(block, values[1] | {"x0": leaves})[block.outputs[0]]
    stages = [
        partition(complete(block, {n: Distribution(mesh=mesh, dims_mapping=m) for n, m in mappings.items()}))
        for mesh, mappings in zip(meshes, (first, second), strict=True)
    ]
    out, into = stages[0].tensor(block.outputs[0]).distribution, stages[1].tensor("x0").distribution
    states = [run_partitioned(stages[0], values[0], SimulatedRanks(meshes[0]))]
    crossed = over(border(out, into, leaves.shape), states[0][block.outputs[0]], out, into, leaves.shape)
    fed = assemble(crossed, into, leaves.shape)
    states.append(run_partitioned(stages[1], values[1] | {"x0": fed}, SimulatedRanks(meshes[1])))
    found = gather(stages[1], block.outputs[0], states[1][block.outputs[0]])
    np.testing.assert_allclose(found, serial, 1e-9, 1e-9)
    back = over(border(into, out, leaves.shape), {r: shard(fed, into, r) for r in range(2)}, into, out, leaves.shape)
    np.testing.assert_allclose(assemble(back, out, leaves.shape), leaves, 1e-9, 1e-9)


def test_a_border_ends_partial_sums_first():
    crossing = border(_one(-1, -1, partial=[0]), _one(-1, 0), (8, 4))
    assert [s.kind for s in crossing.before] == ["all_reduce"]
