"""Run files: what they mean, what overrides change, and one sentence with a place for each mistake."""

import pytest
from cluster_samples import MIXED

from nebula.errors import BadInput
from nebula.plan.job import ROWS, InputSpec
from nebula.plan.run_file import load_run
from nebula.plan.values import Job

RUN = """\
model: {preset: ernie-3.0-titan, seq_len: 512}
cluster: clusters/mixed.yaml
job: {global_batch: 2048, precision: bf16, optimizer: adamw, tokens: 300e9}
objective:
  minimise: cost
  limits: {memory_fraction: 0.9, deadline: 30d, budget: 1e6}
  fixed: {tensor: 8, recompute: full}
  exclude: [old/3]
"""


@pytest.fixture
def run(tmp_path):
    """Writes run files beside a cluster file and loads them."""
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mixed.yaml").write_text(MIXED)

    def write(text=RUN, *overrides):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return load_run(path, overrides)

    return write


def test_means_what_it_says(run):
    found = run()
    assert (found.model.preset, found.model.seq_len, found.model.name) == ("ernie-3.0-titan", 512, "ernie-3.0-titan")
    assert found.cluster.name == "mixed"
    assert found.cluster.groups[1].excluded == {3}
    assert found.job == Job(
        global_batch=2048, precision="bf16", optimizer="adamw", tokens=300e9, memory_fraction=0.9, steps=0
    )
    assert found.objective.minimise == "cost"
    assert (found.objective.deadline_s, found.objective.budget) == (30 * 86400, 1e6)
    assert found.objective.fixed == {"tensor": 8, "recompute": "full"}
    assert found.source.endswith("run.yaml")


def test_the_least_that_a_run_file_needs(run):
    found = run("model: {preset: llama3-8b}\ncluster: clusters/mixed.yaml\njob: {global_batch: 8}\n")
    assert found.job == Job(global_batch=8)
    assert (found.objective.minimise, found.objective.budget, found.objective.exclude) == ("step_time", 0.0, ())
    assert found.model.seq_len is None


def test_a_cluster_inside_the_run_file(run):
    indented = "\n".join("  " + line for line in MIXED.splitlines())
    text = RUN.replace("cluster: clusters/mixed.yaml", "cluster:\n" + indented)
    assert run(text).cluster.device_count == 192
    with pytest.raises(BadInput, match=r"run\.yaml:7:32: unknown key 'bandwith' in nodes\[0\]\.intra"):
        run(text.replace("bandwidth: 300GB/s", "bandwith: 300GB/s"))


def test_a_layer_of_the_users_own(run):
    layer = "{layer: 'my.models:make', inputs: {ids: {shape: [rows, 128], dtype: int64}}}"
    found = run(RUN.replace("{preset: ernie-3.0-titan, seq_len: 512}", layer))
    assert found.model.layer == "my.models:make"
    assert found.model.inputs == (InputSpec(name="ids", shape=(ROWS, 128), dtype="int64"),)


def test_a_hugging_face_config_is_found_beside_the_run_file(run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = RUN.replace("preset: ernie-3.0-titan", "hf: config.json")
    assert run(text).model.hf == str(tmp_path / "config.json")
    with pytest.raises(BadInput, match="there is no file"):
        run(text.replace("config.json", "konfig.json"))


def test_overrides_replace_add_and_reach_into_the_cluster_file(run):
    found = run(
        RUN,
        "job.global_batch=64",
        "objective.fixed.pipeline=2",
        "objective.allow=[offload]",
        "objective.limits={deadline: 2h}",
        "model.preset=llama3-8b",
        "cluster.nodes.0.count=16",
    )
    assert found.job.global_batch == 64
    assert found.objective.fixed == {"tensor": 8, "recompute": "full", "pipeline": 2}
    assert (found.objective.deadline_s, found.objective.budget, found.job.memory_fraction) == (7200, 0, 0.92)
    assert found.objective.allow == ("offload",)
    with pytest.raises(BadInput, match=r"objective\.allow: 'ofload' is nothing to allow; did you mean 'offload'\?"):
        run(RUN, "objective.allow=[ofload]")
    assert found.model.preset == "llama3-8b"
    assert found.cluster.groups[0].count == 16


def test_overrides_reach_names_with_dashes(run):
    text = MIXED.replace("slow", "slow-one")
    found = run(
        RUN.replace("cluster: clusters/mixed.yaml", "cluster:\n" + "\n".join("  " + t for t in text.splitlines())),
        "cluster.devices.slow-one.memory=8GiB",
    )
    assert found.cluster.groups[1].device.memory_bytes == 8 * 2**30


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("job.globl_batch=3", "unknown key 'globl_batch' in job; did you mean 'global_batch'?"),
        ("job.global_batch=abc", "job.global_batch must be a whole number, not 'abc'"),
        ("job.global_batch=0", "at least 1"),
        ("job=3", "job must be a mapping, not 3"),
        ("objective.fixed.offload=cpu", "must be one of none, optimizer, activations, both, not 'cpu'"),
        ("objective.minimise=money", "must be one of 'step_time', 'cost', 'energy' or 'days', not 'money'"),
        ("cluster.nodes.0.cuont=4", "unknown key 'cuont' in nodes[0]; did you mean 'count'?"),
    ],
)
def test_a_wrong_override_is_shown_with_a_caret(run, override, sentence):
    with pytest.raises(BadInput) as caught:
        run(RUN, override)
    first, line, caret = str(caught.value).splitlines()
    assert first.startswith("command line: ")
    assert sentence in first
    assert line[caret.index("^") : caret.rindex("^") + 1] == override.partition("=")[0]


@pytest.mark.parametrize("override", ["foo", "=3", "a b=3", "model.preset.x=3", "job.steps=[1"])
def test_what_is_no_override_is_refused(run, override):
    with pytest.raises(BadInput, match="override") as caught:
        run(RUN, override)
    assert override in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("precision:", "precison:", ":3:27: unknown key 'precison' in job; did you mean 'precision'?"),
        ("bf16", "bf61", "must be one of 'fp32', 'bf16' or 'fp16', not 'bf61'"),
        ("global_batch: 2048, ", "", "the key 'global_batch' of job is missing"),
        ("model: {preset: ernie-3.0-titan, seq_len: 512}\n", "", "the key 'model' is missing; add `model: {preset:"),
        ("preset: ernie-3.0-titan, ", "", "the model says neither preset, hf nor layer"),
        ("seq_len: 512", "hf: x.json", "the model says both preset and hf"),
        ("preset: ernie-3.0-titan", "layer: make", "write package.module:factory"),
        ("preset: ernie-3.0-titan", "layer: 'a:b'", "a layer needs its inputs"),
        ("seq_len: 512", "inputs: {x: {shape: [rows]}}", "inputs belong to a layer"),
        ("clusters/mixed.yaml", "clusters/mixd.yaml", "there is no cluster file"),
        ("tensor: 8", "tensr: 8", "'tensr' is no degree; did you mean 'tensor'?"),
        ("tensor: 8", "tensor: 0", "objective.fixed.tensor must be a whole number from 1 on, not 0"),
        ("recompute: full", "recompute: ful", "must be one of none, selective, full, not 'ful'"),
        ("old/3", "odl/3", "did you mean 'old'?"),
        ("30d", "30 parsecs", "'30 parsecs' is not a duration"),
        ("0.9", "1.2", "at most 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_place(run, right, wrong, sentence):
    assert right in RUN
    with pytest.raises(BadInput) as caught:
        run(RUN.replace(right, wrong, 1))
    assert sentence in str(caught.value)
    assert "run.yaml:" in str(caught.value)
    assert str(caught.value).rstrip().endswith("^")


def test_a_mistake_in_the_cluster_file_names_that_file(run, tmp_path):
    path = tmp_path / "clusters" / "mixed.yaml"
    path.write_text(MIXED.replace("count: 16", "cuont: 16"))
    with pytest.raises(BadInput, match=r"mixed\.yaml:6:17: unknown key 'cuont'"):
        run()


def test_a_missing_run_file(tmp_path):
    with pytest.raises(BadInput, match="there is no such file"):
        load_run(tmp_path / "run.yaml")
