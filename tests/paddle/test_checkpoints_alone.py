"""Checkpoints on one process: what plain Paddle does not see, what users can do wrong, what goes on beside weights."""

import json
import os
import re
import resource
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
import pytest
from paddle import nn
from paddle.distributed.flex_checkpoint.dcp.sharded_weight import ShardedWeight
from safetensors.numpy import load_file

import nebula
from nebula.checkpoint.boxes import Box, whole
from nebula.checkpoint.commit import commit, saving_folder, write_part
from nebula.checkpoint.copies import TENSORS
from nebula.checkpoint.copy_file import CopyFile, stamp
from nebula.checkpoint.export import export
from nebula.checkpoint.folder import checkpoints as checkpoints_of
from nebula.checkpoint.folder import newest
from nebula.checkpoint.manifest import Damaged
from nebula.checkpoint.reader import Reader
from nebula.checkpoint.shard_file import Part
from nebula.errors import BadInput, RunFailed
from nebula.runtime.memory_copy import RESUME
from nebula.runtime.parallelize import parallelize
from nebula.runtime.progress import STOPPED, Watched
from nebula.runtime.serial import serial_plan

sys.path.insert(0, str(Path(__file__).parent.parent / "emulated"))
import toy_chain as toy


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")


def trained(steps=2, optimizer="adamw"):
    step = parallelize(*toy.build(optimizer), toy.loss, serial_plan())
    for index in range(steps):
        step(toy.batch(index))
    return step


def saved(folder, step=None, done=2, **more):
    with nebula.Checkpoints(step or trained(), folder, every=1, tell=str, **more) as checkpoints:
        checkpoints.save(done)
    return newest(folder).path


def flip(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_plain_paddle_loads_a_flipped_byte_in_silence_and_we_do_not(tmp_path):
    weight = paddle.arange(4096, dtype="float32")
    dist.save_state_dict({"weight": weight}, str(tmp_path / "paddle"))
    file = next((tmp_path / "paddle").glob("*.distcp"))
    flip(file, len(file.read_bytes()) // 2)
    read = {"weight": paddle.zeros([4096])}
    dist.load_state_dict(read, str(tmp_path / "paddle"))
    assert (read["weight"] != weight).sum() == 1

    path = saved(tmp_path / "ours")
    shard = path / "rank-00000.safetensors"
    flip(shard, len(shard.read_bytes()) // 2)
    with pytest.raises(BadInput, match=r"rank-00000\.safetensors is damaged"):
        nebula.Checkpoints(trained(0), tmp_path / "ours", every=1).resume()


def test_plain_paddle_cannot_save_in_the_background_on_a_cpu_and_we_can(tmp_path):
    weight = {"weight": paddle.arange(4096, dtype="float32")}
    with pytest.raises(Exception, match=r".") as caught:
        dist.save_state_dict(weight, str(tmp_path / "paddle"), async_save=True)
    assert not isinstance(caught.value, BadInput)
    assert list((tmp_path / "paddle").glob("*.metadata"))
    assert not list((tmp_path / "paddle").glob("*.distcp"))

    Reader(saved(tmp_path / "ours", asynchronous=True)).verify()


def saved_by_two_ranks(folder):
    """Eight rows of which two ranks saved four each, in Paddle's files; the rows."""
    weight = paddle.arange(64, dtype="float32").reshape([8, 8])
    for rank in range(2):
        half = weight[4 * rank : 4 * rank + 4].clone()
        dist.save_state_dict({"w": ShardedWeight("w", half, (4, 8), (8, 8), (4 * rank, 0))}, str(folder / str(rank)))
    whole, other = (paddle.load(str(folder / rank / "0.metadata")) for rank in "01")
    shutil.copy(folder / "1" / "0_0.distcp", folder / "0" / "1_0.distcp")
    whole.state_dict_metadata["w"] += other.state_dict_metadata["w"]
    whole.storage_metadata |= dict.fromkeys(other.storage_metadata, "1_0.distcp")
    paddle.save(whole, str(folder / "0" / "0.metadata"))
    return weight


def recut(source, folder, ranks):
    """The same checkpoint as if each rank had held some rows of every tensor."""
    reader = Reader(source)
    saving = saving_folder(folder, reader.manifest.step, "run")
    for rank in range(ranks):
        parts = []
        for key, tensor in reader.manifest.tensors.items():
            rows = np.array_split(np.arange(tensor.shape[0]), ranks)[rank]
            if len(rows):
                box = Box((int(rows[0]), *(0 for _ in tensor.shape[1:])), (len(rows), *tensor.shape[1:]))
                parts.append(
                    Part(key=key, dtype=tensor.dtype, shape=tensor.shape, box=box, array=reader.read(key, box))
                )
        write_part(saving, rank, parts)
    commit(saving, step=reader.manifest.step, ranks=ranks, facts=reader.manifest.facts)


def test_plain_paddle_fills_a_dtensor_of_one_rank_with_nothing_and_we_fill_ours(tmp_path):
    weight = saved_by_two_ranks(tmp_path)
    read = dist.shard_tensor(paddle.zeros([8, 8]), dist.ProcessMesh([0], dim_names=["x"]), [dist.Replicate()])
    dist.load_state_dict({"w": read}, str(tmp_path / "0"))
    assert float(read._local_value().abs().sum()) == 0 < float(weight.abs().sum())

    step, other = trained(), trained(0)
    recut(saved(tmp_path / "ours", step), tmp_path / "cut", ranks=3)
    assert nebula.Checkpoints(other, tmp_path / "cut", every=1, tell=str).resume() == 2
    for index in (2, 3):
        assert other(toy.batch(index)).loss == step(toy.batch(index)).loss


def test_a_disk_that_refuses_in_the_background_stops_the_training_by_the_next_save(tmp_path):
    """A file stands where the folder of checkpoints should be."""
    (tmp_path / "taken").write_text("")
    checkpoints = nebula.Checkpoints(trained(), tmp_path / "taken", every=1, tell=str)

    def save_twice():
        checkpoints.save(2)  # may see its own failure already
        checkpoints.save(3)

    with pytest.raises(RunFailed, match=r"rank-00000\.safetensors cannot be written: Not a directory"):
        save_twice()


def test_the_end_of_the_block_waits_for_the_last_save_and_raises_its_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(RunFailed, match="cannot be written"),
        nebula.Checkpoints(trained(), tmp_path / "taken", every=1, tell=str) as checkpoints,
    ):
        checkpoints.save(2)


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """What the agent of this process, which watches it and keeps copies in memory, hears."""
    watched = Watched(tmp_path / "progress")
    (tmp_path / "copies").mkdir()
    monkeypatch.setenv("NEBULA_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("NEBULA_MEMORY", str(tmp_path / "copies"))
    return watched


@pytest.mark.parametrize("replica", [False, True])
def test_in_an_elastic_job_a_full_disk_costs_a_checkpoint_and_is_told(tmp_path, agent, monkeypatch, replica):
    if replica:
        monkeypatch.delenv("NEBULA_MEMORY")
    step = trained()
    with nebula.Checkpoints(step, tmp_path / "ours", every=1, tell=str) as checkpoints:
        checkpoints.others_hold = replica
        checkpoints.save(2)
        checkpoints._collect(wait=True)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            checkpoints.save(3)
            checkpoints._collect(wait=True)
        ((kind, sentence),) = agent.remarks()
        assert kind == "unsaved"
        assert "no checkpoint of step 3" in sentence
        assert "rank-00000.safetensors cannot be written: File too large; training goes on" in sentence
        checkpoints.save(4)
    assert [one.step for one in checkpoints_of(tmp_path / "ours")] == [2, 4]
    assert not list((tmp_path / "ours").glob(".saving-*"))
    for one in checkpoints_of(tmp_path / "ours"):
        Reader(one.path).verify()


class Ended(Exception):
    """This process would have ended, with this code."""


@pytest.fixture
def ends(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_rank_that_is_asked_to_end_saves_the_step_where_it_is_to(tmp_path, agent, ends, on_disk):
    saves = nebula.Checkpoints(trained(), tmp_path / "ours", every=100, tell=str)
    agent.ask_to_stop(3, on_disk=on_disk)
    saves.after(2)
    with pytest.raises(Ended, match=str(STOPPED)):
        saves.after(3)
    assert [one.step for one in checkpoints_of(tmp_path / "ours")] == ([3] if on_disk else [])
    assert 3 in [of.step for path in (tmp_path / "copies").iterdir() if (of := stamp(path))]


def test_a_rank_that_cannot_save_where_it_is_asked_to_end_says_so_and_ends(tmp_path, agent, ends):
    """Neither there, nor the save that was under way, nor in memory."""
    saves = nebula.Checkpoints(trained(), tmp_path / "ours", every=3, tell=str)
    agent.ask_to_stop(4, on_disk=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        saves.after(3)
        assert agent.unkept
        with pytest.raises(Ended, match=str(STOPPED)):
            saves.after(4)
    in_memory, before, last = [sentence for kind, sentence in agent.remarks() if kind == "unsaved"]
    assert "keeps no copy of step 3 in memory" in in_memory
    for sentence, step in ((before, 3), (last, 4)):
        assert "stopped after step 4, and" in sentence
        assert re.search(rf"step-0000000{step}-\w+/rank-00000.safetensors cannot be written: File too large", sentence)
    assert not checkpoints_of(tmp_path / "ours")


def test_in_an_elastic_job_steps_go_on_without_room_for_copies_in_memory_and_it_is_told_once(tmp_path, agent):
    copies = tmp_path / "copies"
    with nebula.Checkpoints(trained(), tmp_path / "ours", every=100, tell=str) as checkpoints:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            checkpoints.after(2)
            checkpoints.after(3)
        ((kind, sentence),) = agent.remarks()
        assert kind == "unsaved"
        assert f"rank 0 keeps no copy of step 2 in memory: {copies}: File too large; training goes on" in sentence
        assert [stamp(path) for path in copies.iterdir()] == [None] * len(list(copies.iterdir()))
        checkpoints.after(4)
    assert 4 in [of.step for path in copies.iterdir() if (of := stamp(path))]


def test_in_an_elastic_job_a_damaged_checkpoint_is_set_aside_and_told_and_the_one_before_taken_up(tmp_path, agent):
    step = trained()
    saved(tmp_path / "ours", step, done=2)
    newest_path = saved(tmp_path / "ours", step, done=3)
    flip(newest_path / "rank-00000.safetensors")
    other = trained(0)
    assert nebula.Checkpoints(other, tmp_path / "ours", every=1, tell=str).resume() == 2
    ((kind, sentence),) = agent.remarks()
    assert kind == "damaged"
    assert "is damaged" in sentence
    assert sentence.endswith("it is set aside and step-00000002 is taken up instead")
    assert [one.name for one in (tmp_path / "ours").glob("damaged-*")] == ["damaged-step-00000003"]
    assert other(toy.batch(2)).loss == step(toy.batch(2)).loss
    saved(tmp_path / "ours", other, done=3)


def test_copies_in_memory_that_lack_weights_of_a_rank_are_told_of_and_the_disk_is_taken_up(
    tmp_path, agent, monkeypatch
):
    reader = Reader(saved(tmp_path / "ours", done=2))
    key, resumed = min(reader.manifest.tensors), tmp_path / "resume"
    resumed.mkdir()
    array, kind = reader.read(key), reader.manifest.tensors[key]
    part = Part(key=key, dtype=kind.dtype, shape=kind.shape, box=whole(kind.shape), array=array)
    facts = {**reader.manifest.facts, TENSORS: len(reader.manifest.tensors)}
    CopyFile(resumed / "rank-00000.alone.0").write([part], facts, generation=1, ranks=1, step=3)
    monkeypatch.setenv(RESUME, str(resumed))
    assert nebula.Checkpoints(trained(0), tmp_path / "ours", every=1, tell=str).resume() == 2
    ((kind, sentence),) = agent.remarks()
    assert kind == "damaged"
    assert f"the copies in {resumed} are not those of this rank's model: " in sentence
    assert sentence.endswith("more differ; step-00000002 is taken up instead")


def test_a_manifest_that_the_disk_does_not_give_back_is_damage_too(tmp_path, agent):
    """/proc/self/mem answers a read at its begin with EIO."""
    saved(tmp_path / "ours", done=2)
    manifest = saved(tmp_path / "ours", done=3) / "manifest.json"
    manifest.unlink()
    manifest.symlink_to("/proc/self/mem")
    assert nebula.Checkpoints(trained(0), tmp_path / "ours", every=1, tell=str).resume() == 2
    assert "cannot be read: Input/output error" in agent.remarks()[0][1]


def test_the_only_checkpoint_of_an_elastic_job_is_not_set_aside(tmp_path, agent):
    flip(saved(tmp_path / "ours", done=2) / "rank-00000.safetensors")
    with pytest.raises(Damaged, match="is damaged"):
        nebula.Checkpoints(trained(0), tmp_path / "ours", every=1, tell=str).resume()
    assert newest(tmp_path / "ours").step == 2


def test_training_goes_on_while_a_save_is_written(tmp_path):
    """What is saved is what was, although the weights have moved on before the file is complete."""
    step = trained()
    before = {name: parameter.numpy() for name, parameter in step.wrapped.named_parameters()}
    with nebula.Checkpoints(step, tmp_path, every=1, tell=str) as checkpoints:
        checkpoints.save(2)
        step(toy.batch(2))
    reader = Reader(newest(tmp_path).path)
    for name, array in before.items():
        key = "model/" + name.replace("elements.", "chain.", 1)
        assert np.array_equal(reader.read(key), array), key
    assert any(not np.array_equal(p.numpy(), before[n]) for n, p in step.wrapped.named_parameters())


def test_copies_beside_the_next_passes_are_those_of_their_step(tmp_path):
    """Passes are over long before the copies of 2000 x 2000 weights and moments: the update has to wait."""
    model = nn.Sequential(nn.Linear(2000, 2000), nn.Linear(2000, 1))
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters())
    step = parallelize(model, optimizer, nn.functional.mse_loss, serial_plan())
    batch = np.ones((2, 2000), np.float32), np.zeros((2, 1), np.float32)
    step(batch)
    with nebula.Checkpoints(step, tmp_path, every=1, keep=4, beside_passes=True, tell=str) as saves:
        before = {}
        for done in (1, 2, 3):
            before[done] = [tensor.numpy() for tensor in (*model.parameters(), *states(optimizer))]
            saves.save(done)
            step(batch)
    for one in checkpoints_of(tmp_path):
        reader = Reader(one.path)
        found = [reader.read(key) for key in reader.manifest.tensors if not key.startswith("random/")]
        assert sorted(map(digest, found)) == sorted(map(digest, before[one.step])), one.step


def states(optimizer):
    return [tensor for kind in optimizer._accumulators.values() for tensor in kind.values()]


def digest(array):
    return array.shape, array.tobytes()


def test_saves_come_when_they_are_due_and_the_newest_stay(tmp_path):
    step = trained()
    told = []
    with nebula.Checkpoints(step, tmp_path, every=2, keep=2, tell=told.append, journal=tmp_path / "saves") as saves:
        assert saves.resume() == 0
        due = [saves.after(done) for done in range(1, 8)]
    assert due == [False, True, False, True, False, True, False]
    assert [one.step for one in checkpoints_of(tmp_path)] == [4, 6]
    assert [json.loads(line)["step"] for line in (tmp_path / "saves").read_text().splitlines()] == [2, 4, 6]
    assert len(told) == 4


def test_a_step_is_saved_once_and_another_run_is_not_overwritten(tmp_path):
    step = trained()
    with nebula.Checkpoints(step, tmp_path, every=1, tell=str) as first:
        first.save(2)
        first.save(2)
    with pytest.raises(BadInput, match=r"step-00000002 is of an earlier run: take it up with resume\(\)"):
        nebula.Checkpoints(step, tmp_path, every=1, tell=str).save(2)


def test_what_the_data_are_must_be_the_same(tmp_path):
    saved(tmp_path, about={"text": "wiki", "seed": 3})
    resumed = nebula.Checkpoints(trained(0), tmp_path, every=1, about={"text": "wiki", "seed": 4})
    with pytest.raises(BadInput, match="is of another training: seed is 3 there and 4 here"):
        resumed.resume()


def test_what_is_no_plain_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match="about of a checkpoint must be plain data"):
        nebula.Checkpoints(trained(0), tmp_path, every=1, about={"text": object()})
    with pytest.raises(BadInput, match="the position of a checkpoint must be plain data"):
        nebula.Checkpoints(trained(0), tmp_path, every=1).save(1, position=np.ones(2))
    with pytest.raises(BadInput, match="checkpoints every 0 steps: give 1 or more"):
        nebula.Checkpoints(trained(0), tmp_path, every=0)
    assert not checkpoints_of(tmp_path)


class Normed(nn.Layer):
    """A model that keeps statistics, and a tensor that no checkpoint should hold."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1D(4), nn.Linear(4, 1)
        self.register_buffer("scratch", paddle.zeros([1]), persistable=False)
        self.register_buffer("largest", paddle.zeros([1]))

    def forward(self, x):
        self.largest.set_value(paddle.maximum(self.largest, x.abs().max().reshape([1])))
        return self.out(self.norm(x))


def normed(seed):
    paddle.seed(seed)
    model = Normed()
    rate = paddle.optimizer.lr.StepDecay(0.1, step_size=2)
    optimizer = paddle.optimizer.Momentum(rate, parameters=model.parameters())
    return model, rate, parallelize(model, optimizer, nn.functional.mse_loss, serial_plan())


def rows(index):
    random = np.random.RandomState(index)
    return random.randn(8, 4).astype("float32"), random.randn(8, 1).astype("float32")


def test_buffers_and_the_learning_rate_go_on(tmp_path):
    model, rate, step = normed(1)
    for index in range(3):
        step(rows(index))
        rate.step()
    path = saved(tmp_path, step, 3)
    keys = Reader(path).manifest.tensors
    assert {key for key in keys if key.startswith("buffer/")} == {"buffer/largest"}
    assert {"model/norm._mean", "model/norm._variance"} <= set(keys)
    other, other_rate, other_step = normed(2)
    assert nebula.Checkpoints(other_step, tmp_path, every=1, tell=str).resume() == 3
    assert other_rate.get_lr() == rate.get_lr() == pytest.approx(0.01)
    for (name, here), (_, there) in zip(other.state_dict().items(), model.state_dict().items(), strict=True):
        assert np.array_equal(here.numpy(), there.numpy()), name
    assert step(rows(3)).loss == other_step(rows(3)).loss


def test_exported_weights_fill_a_plain_paddle_model(tmp_path):
    step = trained()
    expected = float(toy.loss(step.wrapped(paddle.to_tensor(toy.batch(0)[0])), paddle.to_tensor(toy.batch(0)[1])))
    path = tmp_path / "weights.safetensors"
    export(Reader(saved(tmp_path / "checkpoints", step)), path)
    model, _ = toy.build()
    for parameter in model.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    model.set_state_dict({name: paddle.to_tensor(array) for name, array in load_file(path).items()})
    x, labels = (paddle.to_tensor(array) for array in toy.batch(0))
    for element in model.chain:
        x = element(x)
    assert float(toy.loss(x, labels)) == expected
