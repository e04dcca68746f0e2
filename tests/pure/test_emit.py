"""Plans in the formats of other tools: what stands there, and what is refused with which sentence."""

from __future__ import annotations

import csv
import io
import json
import shlex
from dataclasses import replace
from functools import cache

import pytest
import yaml

from nebula.cluster.schema import load_cluster
from nebula.emit import FORMATS, Config, Decided, Options, emit
from nebula.emit.auto_parallel import placements
from nebula.errors import BadInput
from nebula.graph.distribution import Distribution, Mesh
from nebula.graph.values import DistributedGraph
from nebula.models.describe import graph
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, Prediction, RankPlace, Replica, Sharding, Stage, StepParts
from tests.pure.graph_blocks import SPLITS, transformer
from tests.pure.plan_samples import uniform

EVEN = (0, 17, 34)
"""Llama 3 8B on two stages: embedding and 16 layers, 16 layers and head."""


@cache
def llama():
    return graph("llama3-8b")


@cache
def cluster(device="A100-80GB-SXM", nodes=4):
    link = {"kind": "hccs", "bandwidth": "30GB/s", "latency": "5us"}
    node = {"name": "n", "count": nodes, "device": device, "devices_per_node": 4, "intra": link}
    return load_cluster({"name": "c", "nodes": [{**node, "nic": {"count": 1, "bandwidth": "100Gb/s"}}]})


def plan(**more):
    return uniform(**{"boundaries": EVEN, "tensor": 2, "data": 2, **more})


def decided(*plans, device="A100-80GB-SXM", model=None):
    return Decided(graph=model or llama(), cluster=cluster(device), candidates=plans)


def emitted(form, *plans, **options):
    return emit(form, decided(*plans), Options(**options))


def predicted(made, seconds):
    parts = StepParts(**{**dict.fromkeys(StepParts.__dataclass_fields__, 0.0), "compute_s": seconds})
    numbers = {"step_time_s": seconds, "interval_s": (seconds, seconds), "tokens_per_s": 1.0, "mfu": 0.1}
    return replace(made, prediction=Prediction(**numbers, parts=parts, memory=()))


def unlike():
    """A stage of tensor 2 before one of tensor 1."""
    first = Stage(layers=(0, 17), replicas=(Replica(ranks=(0, 1), tensor_shares=(1, 1), micro_batch_rows=2),))
    second = Stage(layers=(17, 34), replicas=(Replica(ranks=(2,), tensor_shares=(1,), micro_batch_rows=2),))
    places = tuple(RankPlace("n/0", device) for device in range(3))
    return replace(plan(), stages=(first, second), ranks=places, engine="executor", job=Job(global_batch=4))


def test_fleet_gets_degrees_rows_and_boundaries():
    made = emitted("fleet", plan(data=4, sharding=Sharding(stage=1, degree=2)))
    hybrid = made.document["hybrid_configs"]
    degrees = {key: hybrid[f"{key}_degree"] for key in ("dp", "pp", "sharding", "sep", "mp")}
    assert degrees == {"dp": 2, "pp": 2, "sharding": 2, "sep": 1, "mp": 2}
    assert made.document["pipeline_configs"]["accumulate_steps"] == 2
    assert made.document["seg_method"] == [0, 17, 34]
    names = {}
    exec(
        made.text.replace("from paddle.distributed import fleet", "").partition("fleet.init")[0],
        {"fleet": Fleet},
        names,
    )
    assert names["strategy"].hybrid_configs == hybrid
    assert names["strategy"].pipeline_configs == made.document["pipeline_configs"]


class Fleet:
    """Stands where Paddle's module would: takes what is assigned."""

    class DistributedStrategy:
        pass


def numbered(*order):
    """Data 4 in sharding groups of 2, two stages, tensor 2, ranks numbered so."""
    cut = Sharding(stage=1, degree=2)
    stages = uniform_stages(
        boundaries=EVEN, data=4, tensor=2, sharding=cut, micro_batch_rows=2, order=(*order, "tensor")
    )
    return replace(plan(data=4, sharding=cut), stages=stages)


def test_the_order_of_ranks_is_said_where_a_format_has_words_for_it():
    outermost, inside = numbered("pipeline", "data", "sharding"), numbered("data", "sharding", "pipeline")
    hybrid = emitted("fleet", outermost).document["hybrid_configs"]
    assert hybrid["order"] == ["pp", "dp", "sharding", "sep", "mp"]
    made = emitted("paddleformers", inside)
    assert made.document["set"]["hybrid_parallel_topo_order"] == "sharding_first"
    assert not any("ranks lie" in note for note in made.notes)
    for form, options in (("paddleformers", {}), ("auto-tuner", {"to": "tuner.json"})):
        notes = emitted(form, outermost, **options).notes
        assert any("ranks lie pipeline, data, sharding, tensor from the outside in" in note for note in notes)


def test_names_cannot_leave_the_docstring():
    made = plan()
    made = replace(made, made_from=replace(made.made_from, model='x"""\nimport os #'))
    compile(emitted("fleet", made).text, "fleet", "exec")


@pytest.mark.parametrize("form", ["fleet", "auto-tuner", "paddleformers"])
@pytest.mark.parametrize("axis", ["context", "expert"])
def test_an_axis_without_words_is_named(form, axis):
    made = replace(plan(), stages=tuple(replace(stage, **{axis: 2}) for stage in plan().stages))
    with pytest.raises(BadInput, match=f"{form} cannot express this plan: {axis} 2"):
        emitted(form, made, to="tuner.json")


@pytest.mark.parametrize("form", ["fleet", "auto-tuner", "paddleformers"])
def test_other_schedules_are_refused(form):
    with pytest.raises(BadInput, match=f"{form} cannot express this plan: schedule fthenb"):
        emitted(form, replace(plan(), engine="executor", schedule="fthenb"), to="tuner.json")


@pytest.mark.parametrize("form", ["auto-tuner", "paddleformers"])
def test_one_recompute_setting_is_told_apart_from_several(form):
    made = replace(plan(), stages=(replace(plan().stages[0], recompute="full"), plan().stages[1]))
    with pytest.raises(BadInput, match=f"{form} cannot express this plan: recompute is none in stage 1 and full in"):
        emitted(form, made, to="tuner.json")
    assert emitted("fleet", made).document["recompute"] == ["full", "none"]


@pytest.mark.parametrize("form", ["fleet", "auto-tuner", "paddleformers"])
def test_unlike_stages_are_refused(form):
    with pytest.raises(BadInput, match=r"stage 1 has data 1, tensor 1.* where stage 0 has data 1, tensor 2"):
        emitted(form, unlike(), to="tuner.json")


def test_an_illegal_plan_is_written_nowhere():
    for form in FORMATS:
        with pytest.raises(BadInput, match=r"the plan is not legal: .*16 rows of the global batch"):
            emitted(form, replace(plan(), job=Job(global_batch=16)), to="tuner.json")


def test_an_unknown_format_names_the_closest():
    with pytest.raises(BadInput, match="did you mean 'auto-tuner'"):
        emitted("autotuner", plan())


def test_a_refusal_names_the_candidate_that_can_be_written():
    best, later = predicted(plan(boundaries=(0, 10, 20, 34), tensor=1, data=2), 1.0), predicted(plan(), 1.1)
    with pytest.raises(BadInput, match=r"candidate 2, data 2 .*10\.0% slower.*--candidate 2"):
        emitted("paddleformers", best, later)


def test_auto_parallel_gives_every_stage_its_mesh_and_every_parameter_placements():
    first, second = emitted("auto-parallel", unlike()).document["stages"]
    assert (first["mesh"]["shape"], first["mesh"]["process_ids"]) == ([1, 1, 2], [0, 1])
    assert (second["mesh"]["shape"], second["mesh"]["process_ids"]) == ([1, 1, 1], [2])
    names = [f"{llama().layer_names[i]}.{p.name}" for i in range(17) for p in llama().block_of(i).parameters]
    assert list(first["parameters"]) == names
    placed = {name: entry["placements"] for name, entry in first["parameters"].items()}
    assert placed["embedding.tokens.weight"] == ["Replicate()", "Replicate()", "Shard(0)"]
    assert placed["decoder.3.attention.query.weight"][2] == "Shard(1)"
    assert placed["decoder.3.attention.out.weight"][2] == "Shard(0)"
    assert placed["decoder.3.attention_norm.weight"] == ["Replicate()"] * 3
    assert {p for entry in second["parameters"].values() for p in entry["placements"]} == {"Replicate()"}


def test_a_fused_dim_is_told():
    block = transformer(fused="side by side")
    model = DistributedGraph(
        name="m", blocks=(block,), layers=(0,), layer_names=("l",), rows=block.rows, tokens_per_row=1, splits=SPLITS
    )
    made = emit("auto-parallel", decided(plan(boundaries=(0, 1)), model=model), Options())
    entry = made.document["stages"][0]["parameters"]["l.attention.qkv.weight"]
    assert (entry["placements"][2], entry["blocks"]) == ("Shard(1)", 3)
    assert made.notes[0].startswith("l.attention.qkv.bias and 1 more fuse")


def test_a_partial_tensor_is_placed_so():
    mesh = Mesh(shape=(2,), axes=("tensor",))
    assert placements(Distribution(mesh=mesh, dims_mapping=(-1,), partial=frozenset({0})))[2] == "Partial()"


def test_auto_parallel_refuses_unequal_replicas():
    stage = plan(boundaries=(0, 34)).stages[0]
    uneven = replace(stage, replicas=(stage.replicas[0], replace(stage.replicas[1], micro_batch_rows=4)))
    made = replace(plan(boundaries=(0, 34)), stages=(uneven,), engine="executor", job=Job(global_batch=12))
    with pytest.raises(BadInput, match=r"auto-parallel cannot express .*replica 1 of stage 0 has 2 ranks and 4 rows"):
        emitted("auto-parallel", made)


def test_auto_tuner_holds_the_candidates_alone():
    others = [plan(tensor=1, data=4), plan(tensor=1, data=8, boundaries=(0, 34))]
    uneven, few = plan(boundaries=(0, 10, 34)), plan(tensor=1)
    made = emitted("auto-tuner", plan(), *others, uneven, few, plan(), to="runs/tuner.json")
    ((path, text),) = made.beside
    rows = list(csv.DictReader(io.StringIO(text)))
    assert path == made.document["configs_csv"] == "runs/tuner_candidates.csv"
    degrees = [tuple(int(row[f"{key}_degree"]) for key in ("dp", "mp", "pp")) for row in rows]
    assert degrees == [(2, 2, 2), (4, 1, 2), (8, 1, 1)]
    assert made.document["task_limit"] == 3
    assert json.loads(made.text) == made.document
    assert made.notes[0].startswith("left out 2 candidates: its stages hold 9|23 decoder layers")
    assert "4 ranks where the best plan has 8" in made.notes[0]


@pytest.mark.parametrize(("to", "sentence"), [("", "two files"), ("tuner.txt", "ends in .json")])
def test_auto_tuner_needs_a_file_that_paddle_reads(to, sentence):
    with pytest.raises(BadInput, match=sentence):
        emitted("auto-tuner", plan(), to=to)


def test_a_pipeline_evaluates_with_the_rows_that_it_trains_with():
    made = emitted(
        "paddleformers", plan(), into=Config(source="f.yaml", text=FORMERS + "per_device_eval_batch_size: 1\n")
    )
    assert yaml.safe_load(made.text)["per_device_eval_batch_size"] == 2


FORMERS = "### performance\ntensor_model_parallel_size: 8 # of 8\npipeline_model_parallel_size: 1\nsharding: stage1\n"
NLP = "tensor_parallel_degree: 8\nrecompute: True\nlogging_steps: 1\n"


def test_paddleformers_names_follow_the_file():
    sharded = plan(data=4, sharding=Sharding(stage=1, degree=2))
    made = emitted("paddleformers", sharded, into=Config(source="f.yaml", text=FORMERS))
    said = yaml.safe_load(made.text)
    assert "# of 8" in made.text
    assert (said["tensor_model_parallel_size"], said["pipeline_model_parallel_size"]) == (2, 2)
    assert (said["sharding_parallel_size"], said["hybrid_parallel_topo_order"]) == (2, "pp_first")
    assert (said["per_device_train_batch_size"], said["gradient_accumulation_steps"]) == (2, 2)
    assert said["recompute_granularity"] is None
    made = emitted("paddleformers", sharded, into=Config(source="f.yaml", text=NLP))
    said = yaml.safe_load(made.text)
    assert (said["tensor_parallel_degree"], said["pipeline_parallel_degree"]) == (2, 2)
    assert (said["sharding_parallel_degree"], said["recompute"], said["logging_steps"]) == (2, False, 1)
    assert not [key for key in said if key.endswith("_size") and key != "per_device_train_batch_size"]
    assert "recompute: True → false" in made.notes


@pytest.mark.parametrize(("text", "names"), [(FORMERS, ["full", "uniform", 1]), (NLP, ["full"])])
def test_paddleformers_recomputes_as_planned(text, names):
    stages = tuple(replace(stage, recompute="full") for stage in plan().stages)
    made = emitted("paddleformers", replace(plan(), stages=stages), into=Config(source="f.yaml", text=text))
    said = yaml.safe_load(made.text)
    keys = ("recompute_granularity", "recompute_method", "recompute_num_layers")
    assert [said[key] for key in keys if key in said] == names
    assert said.get("recompute", True) is True


def test_short_first_and_last_stages_become_empty_layers():
    made = emitted("paddleformers", plan(data=1, tensor=1, boundaries=(0, 11, 23, 34)))
    said = yaml.safe_load(made.text)
    assert (said["num_empty_layers_add_in_head"], said["num_empty_layers_add_in_tail"]) == (2, 2)
    with pytest.raises(BadInput, match="stage 1 holds 10 decoder layers and another 11"):
        emitted("paddleformers", plan(data=1, tensor=1, boundaries=(0, 12, 22, 34)))


def test_models_that_paddleformers_has_not_are_refused_in_pipelines():
    with pytest.raises(BadInput, match=r"layer universal.0 of ernie-3.0-small is none"):
        emit("paddleformers", decided(plan(boundaries=(0, 5, 11)), model=graph("ernie-3.0-small")), Options())


def test_launch_has_a_line_per_node_that_a_shell_can_split():
    made = emitted("launch", plan(), script="my train.py", master="10.0.0.1:80")
    assert [node["node"] for node in made.document["nodes"]] == ["n/0", "n/1"]
    for node, line in zip(made.document["nodes"], made.text.splitlines()[1::2], strict=True):
        assert shlex.split(line) == node["command"]
        assert node["command"][0] == "python"
        assert node["command"][-1] == "my train.py"


def test_the_rank_table_holds_every_rank_once_and_is_not_finished():
    made = emit("rank-table", decided(plan(), device="Ascend-910B"), Options())
    table = json.loads(made.text)
    assert (table["version"], table["server_count"], table["status"]) == ("1.0", "2", "initializing")
    held = [(s["server_id"], d["device_id"], d["rank_id"]) for s in table["server_list"] for d in s["device"]]
    assert held == [(f"<IP of {place.node}>", str(place.device), str(rank)) for rank, place in enumerate(plan().ranks)]
    assert any("hccn" in note for note in made.notes)


def test_rank_tables_are_for_npus():
    with pytest.raises(BadInput, match="rank 0 is on A100-80GB-SXM, a device of kind gpu"):
        emitted("rank-table", plan())
