"""Paddle itself takes what is written for it: fleet's strategy and topology, the tuner's search, meshes, placements."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest

from nebula.cluster.schema import load_cluster
from nebula.emit import Decided, Options, emit
from nebula.models.describe import graph
from nebula.plan.values import Sharding
from tests.pure.plan_samples import uniform

NODE = {
    "name": "n",
    "count": 4,
    "device": "A100-80GB-SXM",
    "devices_per_node": 4,
    "intra": {"kind": "nvlink", "bandwidth": "300GB/s", "latency": "5us"},
    "nic": {"count": 4, "bandwidth": "200Gb/s"},
}
PLAN = uniform(boundaries=(0, 17, 34), tensor=2, data=4, sharding=Sharding(stage=1, degree=2))


@cache
def llama():
    return graph("llama3-8b")


def emitted(form, *plans, **options):
    cluster = load_cluster({"name": "c", "nodes": [NODE]})
    return emit(form, Decided(graph=llama(), cluster=cluster, candidates=plans), Options(**options))


def test_fleets_strategy_takes_the_settings():
    text = emitted("fleet", PLAN).text
    names = {}
    exec(text.replace("fleet.init", "init"), {"init": lambda **_: None}, names)
    strategy = names["strategy"]
    assert strategy.hybrid_parallel_order == ["dp", "pp", "sharding", "sep", "mp"]
    kept = {key: strategy.hybrid_configs[key] for key in ("dp_degree", "mp_degree", "pp_degree", "sharding_degree")}
    assert kept == {"dp_degree": 2, "mp_degree": 2, "pp_degree": 2, "sharding_degree": 2}
    assert strategy.pipeline_configs["accumulate_steps"] == names["ACCUMULATE_STEPS"] == 2
    assert strategy.pipeline_configs["micro_batch_size"] == names["MICRO_BATCH_SIZE"] == 2


def test_fleets_topology_puts_ranks_where_the_plan_does():
    from paddle.distributed.fleet.base.topology import CommunicateTopology

    hybrid = emitted("fleet", PLAN).document["hybrid_configs"]
    words = {"dp": "data", "pp": "pipe", "sharding": "sharding", "sep": "sep", "mp": "model"}
    topology = CommunicateTopology(
        [words[axis] for axis in hybrid["order"]], [hybrid[f"{axis}_degree"] for axis in hybrid["order"]]
    )
    assert topology.world_size() == PLAN.world_size
    for index, stage in enumerate(PLAN.stages):
        for place, replica in enumerate(stage.replicas):
            data, shard = divmod(place, 2)
            at = {"data": data, "pipe": index, "sharding": shard, "sep": 0}
            assert tuple(topology.get_rank(**at, model=t) for t in range(2)) == replica.ranks


def test_fleet_cuts_a_chain_at_the_boundaries():
    from paddle.distributed.fleet.meta_parallel.parallel_layers.pp_layers import SegmentLayers

    boundaries = emitted("fleet", PLAN).document["seg_method"]
    assert SegmentLayers([None] * 34, num_parts=2, method=list(boundaries)).do_segment() == boundaries


def test_the_tuner_tries_exactly_the_candidates(tmp_path):
    from paddle.distributed.auto_tuner.tuner import AutoTuner
    from paddle.distributed.auto_tuner.utils import gen_new_args

    plans = (PLAN, uniform(boundaries=(0, 34), tensor=2, data=8), uniform(boundaries=(0, 17, 34), tensor=4, data=2))
    made = emitted("auto-tuner", *plans, to=str(tmp_path / "tuner.json"))
    for path, text in (*made.beside, (tmp_path / "tuner.json", made.text)):
        tmp_path.joinpath(path).write_text(text)
    config = json.loads((tmp_path / "tuner.json").read_text())
    # what paddle.distributed.launch adds
    config |= {"nodes": 4, "gpus_per_node": 4, "num_gpus": 16}
    tuner, tried = AutoTuner(config), []
    while task := tuner.search_once():
        tried.append(task)
    keys = ("dp_degree", "mp_degree", "pp_degree", "sharding_degree", "micro_batch_size", "use_recompute")
    assert [tuple(task[key] for key in keys) for task in tried] == [
        (2, 2, 2, 2, 2, False),
        (8, 2, 1, 1, 2, False),
        (2, 4, 2, 1, 2, False),
    ]
    said = dict(zip(*[iter(gen_new_args([], tried[0], config))] * 2, strict=True))
    assert said["--tensor_parallel_degree"] == said["--sharding_parallel_degree"] == "2"
    assert (said["--sharding"], said["--per_device_train_batch_size"]) == ("stage1", "2")


def test_meshes_and_placements_are_paddles():
    import paddle.distributed as dist

    for stage in emitted("auto-parallel", PLAN).document["stages"]:
        said = stage["mesh"]
        mesh = dist.ProcessMesh(shape=said["shape"], process_ids=said["process_ids"], dim_names=said["dim_names"])
        assert mesh.shape == [2, 2, 2]
        assert mesh.get_dim_size("mp") == 2
        for entry in stage["parameters"].values():
            placed = [placement(word, dist) for word in entry["placements"]]
            assert len(placed) == len(mesh.shape)
            assert all(p.is_replicated() for p in placed[:2])
            assert placed[2].is_replicated() or entry["shape"][placed[2].get_dim()] % 2 == 0


def placement(word, dist):
    """As docs/emit.md reads it."""
    name, dim = re.fullmatch(r"(\w+)\((\d*)\)", word).groups()
    return getattr(dist, name)(*([int(dim)] if dim else []))


def test_a_parameter_is_placed_on_one_process():
    import paddle
    import paddle.distributed as dist

    stage = emitted("auto-parallel", uniform(boundaries=(0, 34))).document["stages"][0]
    said = stage["mesh"]
    mesh = dist.ProcessMesh(shape=said["shape"], process_ids=said["process_ids"], dim_names=said["dim_names"])
    entry = stage["parameters"]["decoder.0.attention_norm.weight"]
    placed = dist.shard_tensor(paddle.ones(entry["shape"]), mesh, [placement(w, dist) for w in entry["placements"]])
    assert placed.is_dist()
    assert placed.placements == [dist.Replicate()] * 3


@pytest.mark.parametrize("word", ["Replicate()", "Partial()", "Shard(1)"])
def test_words_for_placements_are_paddles(word):
    import paddle.distributed as dist

    kinds = {"Replicate()": "is_replicated", "Partial()": "is_partial", "Shard(1)": "is_shard"}
    assert getattr(placement(word, dist), kinds[word])()
