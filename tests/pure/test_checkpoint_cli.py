"""The section `checkpoint` of a run file and the verbs that look at checkpoints."""

from __future__ import annotations

import json

import checkpoint_saver as saver
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from nebula.checkpoint.policy import NEVER, Policy
from nebula.cli.main import app
from nebula.cli.run_folder import PLAN, make_folder
from nebula.errors import BadInput
from nebula.plan.run_file import load_run
from nebula.runtime.training import Training, load, save

RUN = """model: {{preset: ernie-3.0-small}}
cluster: {{nodes: [{{name: a, count: 1, device: A100-80GB-SXM, devices_per_node: 1}}], name: c}}
job: {{global_batch: 8}}
{section}
"""


def invoke(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def run(tmp_path, section, overrides=()):
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(section=section))
    return load_run(path, overrides)


def test_a_run_file_says_when_to_save(tmp_path):
    section = "checkpoint: {every: 50, folder: /shared/ckpt, keep: 5, async: no}"
    assert run(tmp_path, section).checkpoint == Policy(every=50, folder="/shared/ckpt", keep=5, asynchronous=False)
    assert run(tmp_path, "").checkpoint == NEVER
    assert run(tmp_path, "", ["checkpoint.every=7"]).checkpoint == Policy(every=7)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("checkpoint: {keep: 2}", "the key 'every' of checkpoint is missing; add `every: <optimizer steps between two"),
        ("checkpoint: {every: 0}", "checkpoint.every must be at least 1, not 0"),
        ("checkpoint: {every: 5, keep: 0}", "checkpoint.keep must be at least 1, not 0"),
        (
            "checkpoint: {every: 5, asynchronous: true}",
            "unknown key 'asynchronous' in checkpoint; there are async, every, folder, keep",
        ),
        ("checkpoint: {every: 5, async: later}", "checkpoint.async must be true or false, not 'later'"),
        ("checkpoint: true", "checkpoint must be a mapping, not True"),
    ],
)
def test_a_mistake_in_the_section_is_one_sentence_with_its_line(tmp_path, section, sentence):
    with pytest.raises(BadInput) as caught:
        run(tmp_path, section)
    assert sentence in str(caught.value)
    assert "run.yaml:4:" in str(caught.value)


def test_what_a_training_saves_reaches_every_rank(tmp_path):
    training = Training(preset="ernie-3.0-small", steps=3, checkpoint=Policy(every=2, keep=1), resume=True)
    save(training, tmp_path)
    assert load(tmp_path) == training


@pytest.fixture
def folder(tmp_path):
    for step in (3, 6):
        saver.save(tmp_path / "checkpoints", step)
    return tmp_path


def test_list_names_every_checkpoint_and_why_one_is_none(folder):
    (folder / "checkpoints" / "step-00000006" / "manifest.json").unlink()
    said = invoke("checkpoint", "list", folder)
    assert said.exit_code == 0
    assert said.output.splitlines()[0] == "step 3 · 72.5 KiB · toy with AdamW · saved under data 3"
    assert said.output.splitlines()[1] == "step 6 · incomplete: it has no manifest"
    listed = json.loads(invoke("checkpoint", "list", folder, "--json").output)
    assert [(row["step"], row["complete"]) for row in listed["checkpoints"]] == [(3, True), (6, False)]


def test_verify_reads_every_byte_and_ends_with_2_when_one_is_wrong(folder):
    assert invoke("checkpoint", "verify", folder).output.count("every byte is as it was saved") == 2
    shard = folder / "checkpoints" / "step-00000003" / "rank-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)
    said = invoke("checkpoint", "verify", folder)
    assert said.exit_code == 2
    assert "step 3: refused" in said.output
    assert "step 6: every byte" in said.output
    told = json.loads(invoke("checkpoint", "verify", shard.parent, "--json").stdout)
    assert told["checkpoints"][0]["whole"] is False
    assert "rank-00001.safetensors is damaged" in told["checkpoints"][0]["fault"]


def test_export_writes_the_newest_weights_and_replaces_nothing_unasked(folder, tmp_path):
    path = tmp_path / "weights.safetensors"
    assert invoke("checkpoint", "export", folder, "-o", path).exit_code == 0
    assert np.array_equal(load_file(path)["weight"], saver.content(6))
    assert invoke("checkpoint", "export", folder, "-o", path).exit_code == 2
    older = folder / "checkpoints" / "step-00000003"
    assert invoke("checkpoint", "export", older, "-o", path, "--force").exit_code == 0
    assert np.array_equal(load_file(path)["weight"], saver.content(3))


def test_a_folder_without_checkpoints_is_one_sentence(tmp_path):
    for verb in ("list", "verify", "export"):
        said = invoke("checkpoint", verb, tmp_path)
        assert said.exit_code == 2
        assert "holds no checkpoint: name a run's folder" in said.output


def test_a_run_is_not_replaced_and_the_way_on_is_named(folder):
    (folder / PLAN).write_text("{}")
    policy = Policy(every=3)
    with pytest.raises(BadInput, match="holds a run already: name another folder, go on with --resume, or replace it"):
        make_folder(folder, None, None, None, None, checkpoint=policy, force=False)
    with pytest.raises(BadInput, match="--force replaces a run and --resume goes on with it: give one"):
        make_folder(folder, None, None, None, None, checkpoint=policy, force=True, resume=True)


def test_checkpoints_elsewhere_are_neither_replaced_nor_taken_up_unasked(folder, tmp_path_factory):
    policy = Policy(every=3, folder=str(folder / "checkpoints"))
    with pytest.raises(BadInput, match=r"holds checkpoints up to step 6: go on with --resume, or name another"):
        make_folder(tmp_path_factory.mktemp("new"), None, None, None, None, checkpoint=policy, force=True)
