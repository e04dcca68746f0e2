"""Checkpoints on the disk: what is written is read, what was changed is refused, what is half is not seen."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import checkpoint_saver as saver
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nebula.checkpoint import manifest as manifests
from nebula.checkpoint.boxes import Box, flat_boxes, overlap, tile, whole
from nebula.checkpoint.commit import commit, saving_folder, write_part
from nebula.checkpoint.export import export
from nebula.checkpoint.folder import checkpoints, newest, pick, retain
from nebula.checkpoint.policy import Policy
from nebula.checkpoint.reader import Reader
from nebula.checkpoint.shard_file import Part
from nebula.checkpoint.share import Copy, writers
from nebula.errors import BadInput, RunFailed

SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(SHAPES, st.data())
def test_a_flat_range_is_its_boxes_in_order(shape, data):
    array = np.arange(int(np.prod(shape))).reshape(shape)
    first = data.draw(st.integers(0, array.size))
    last = data.draw(st.integers(first, array.size))
    boxes = flat_boxes(shape, first, last)
    found = [array[box.within(whole(shape))].reshape(-1) for box in boxes]
    assert np.array_equal(np.concatenate([*found, np.empty(0, int)]), array.reshape(-1)[first:last])
    assert len(boxes) <= 2 * len(shape) + 1


@given(SHAPES, st.data())
def test_ranges_of_ranks_tile_a_tensor_and_a_missing_or_doubled_one_does_not(shape, data):
    size = int(np.prod(shape))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    boxes = [box for a, b in itertools.pairwise([0, *cuts, size]) for box in flat_boxes(shape, a, b)]
    assert tile(shape, boxes)
    odd = data.draw(st.integers(0, len(boxes) - 1))
    assert not tile(shape, boxes[:odd] + boxes[odd + 1 :])
    assert not tile(shape, [*boxes, boxes[odd]])


def test_boxes_of_the_right_volume_that_overlap_do_not_tile():
    assert not tile((4, 4), [Box((0, 0), (4, 2)), Box((0, 1), (4, 2))])
    assert not tile((4, 4), [Box((0, 0), (4, 2)), Box((0, 2), (4, 3))])
    assert not tile((4, 4), [whole((16,))])


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_any_box_is_read_from_any_pieces(tmp_path_factory, rows, columns, data):
    """Written by a grid of ranks, read as any box."""
    shape = (rows * 3, columns * 2)
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    saving = saving_folder(tmp_path_factory.mktemp("grid"), 1, "run")
    boxes = [Box((3 * i, 2 * j), (3, 2)) for i in range(rows) for j in range(columns)]
    for rank, box in enumerate(boxes):
        write_part(saving, rank, [part("x", array, box)])
    path, _ = commit(saving, step=1, ranks=len(boxes), facts={})
    first = [data.draw(st.integers(0, n - 1)) for n in shape]
    size = [data.draw(st.integers(1, n - f)) for n, f in zip(shape, first, strict=True)]
    box = Box(tuple(first), tuple(size))
    assert np.array_equal(Reader(path).read("x", box), array[box.within(whole(shape))])
    assert overlap(whole(shape), box) == box


def test_of_replicas_that_cut_a_tensor_unlike_one_writes_it():
    halves = [Copy("w", Box((0, 4 * i), (4, 4)), 32, 4) for i in range(2)]
    thirds = [Copy("v", Box((2 * i, 0), (2, 3)), 18, 4) for i in range(3)]
    wholes = [Copy("w", whole((4, 8)), 32, 4), Copy("v", whole((6, 3)), 18, 4)]
    held = [[halves[0], thirds[0]], [halves[1], thirds[1]], [thirds[2]], wholes, wholes]
    chosen = writers(held)
    for key, shape in (("w", (4, 8)), ("v", (6, 3))):
        assert tile(shape, [box for held_key, box in chosen if held_key == key])
    assert all(any(copy[:2] == piece for copy in held[rank]) for piece, rank in chosen.items())


def test_pieces_that_all_hold_are_spread_evenly():
    copies = [Copy(f"t{i}", whole((64,)), 64, 4) for i in range(12)]
    chosen = writers([copies] * 4)
    assert [list(chosen.values()).count(rank) for rank in range(4)] == [3, 3, 3, 3]


def part(key, array, box=None, dtype=""):
    box = box or whole(array.shape)
    own = array[box.within(whole(array.shape))]
    return Part(key=key, dtype=dtype or str(array.dtype), shape=array.shape, box=box, array=own)


@pytest.fixture
def saved(tmp_path):
    return saver.save(tmp_path, 5)


def test_a_checkpoint_reads_as_it_was_written(saved):
    reader = Reader(saved)
    reader.verify()
    assert np.array_equal(reader.read("model/weight"), saver.content(5))
    assert reader.manifest.step == 5
    assert reader.manifest.facts["words"] == "data 3"
    assert [one.step for one in checkpoints(saved.parent)] == [5]
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", *sorted(reader.manifest.files)]


def test_every_dtype_and_shape_survives_and_safetensors_reads_it(tmp_path):
    arrays = {
        "half": (np.arange(6, dtype=np.float16).reshape(2, 3), "float16"),
        "brain": (np.arange(6, dtype=np.uint16), "bfloat16"),
        "scalar": (np.float64(3.5).reshape(()), "float64"),
        "flag": (np.array([True, False]), "bool"),
        "empty": (np.empty((0, 4), np.float32), "float32"),
        "across": (np.arange(12, dtype=np.int64).reshape(3, 4).T, "int64"),
    }
    saving = saving_folder(tmp_path, 1, "run")
    write_part(saving, 0, [part(key, array, dtype=dtype) for key, (array, dtype) in arrays.items()])
    path, _ = commit(saving, step=1, ranks=1, facts={})
    reader = Reader(path)
    reader.verify()
    for key, (array, _) in arrays.items():
        assert np.array_equal(reader.read(key), array), key
    without = {key for key in arrays if key != "brain"}
    opened = load_file(cut_out(path / "rank-00000.safetensors", "brain"))
    assert {name.partition("@")[0] for name in opened} == without
    assert all(np.array_equal(opened[name], arrays[name.partition("@")[0]][0]) for name in opened)


def cut_out(path: Path, key: str) -> Path:
    """The file with the bytes of one tensor read as int16, because numpy's safetensors knows no bfloat16."""
    text = path.read_bytes().replace(b'"BF16"', b'"I16" ')
    copy = path.with_name("copy")
    copy.write_bytes(text)
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(copy, "np") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(key)}  # noqa: SIM118
    save_file(kept, copy)
    return copy


def refusal(path):
    """Why a checkpoint is refused; nothing when it is not."""
    try:
        Reader(path).verify()
    except BadInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["manifest.json", "rank-00000.safetensors", "rank-00002.safetensors"])
def test_a_flipped_byte_is_always_refused(saved, name):
    path = saved / name
    content = path.read_bytes()
    rng = np.random.default_rng()
    header = np.arange(min(400, len(content)))  # of a shard: its header, whose bytes no tensor needs
    places = {0, len(content) - 1, *map(int, rng.choice(header, 40)), *map(int, rng.integers(0, len(content), 150))}
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        assert str(path) in refusal(saved), f"byte {place} of {name}: {content[place]} became {changed[place]}"
    path.write_bytes(content)
    Reader(saved).verify()


def test_reading_one_tensor_refuses_a_flipped_byte_of_it(saved):
    path = saved / "rank-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    reader = Reader(saved)
    reader.read("model/weight", Box((0, 0), (saver.ROWS, saver.COLUMNS)))  # rank 0's rows
    with pytest.raises(BadInput, match=r"rank-00001\.safetensors is damaged \(in .*delete .*step-00000005 to go on"):
        [reader.read(key) for key in reader.manifest.tensors]


def test_a_cut_off_manifest_is_refused_wherever_it_was_cut(saved):
    path = saved / "manifest.json"
    content = path.read_bytes()
    for length in [*range(0, len(content), max(1, len(content) // 60)), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"manifest\.json"):
            Reader(saved)


def test_a_manifest_that_leaves_a_piece_out_is_refused(saved):
    manifest = manifests.load(saved)
    weight = manifest.tensors["model/weight"]
    fewer = manifests.Saved(dtype=weight.dtype, shape=weight.shape, pieces=weight.pieces[1:])
    odd = manifests.Manifest(step=5, files=manifest.files, tensors={"model/weight": fewer})
    with pytest.raises(BadInput, match="the pieces of model/weight do not make up the tensor"):
        manifests.loads(manifests.dumps(odd), saved)


def test_another_version_is_named(saved):
    path = saved / "manifest.json"
    path.write_text(path.read_text().replace("nebula-checkpoint/1", "nebula-checkpoint/2"))
    with pytest.raises(BadInput, match="'nebula-checkpoint/2', this version reads nebula-checkpoint/1"):
        Reader(saved)


def test_a_missing_or_shortened_file_is_named(saved):
    path = saved / "rank-00002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(BadInput, match=r"rank-00002\.safetensors is damaged \(\d+ bytes instead of \d+\)"):
        Reader(saved).verify()
    path.unlink()
    with pytest.raises(BadInput, match=r"rank-00002\.safetensors is missing: restore it"):
        Reader(saved).verify()


def test_extra_files_are_ignored(saved):
    (saved / "notes.txt").write_text("mine")
    (saved.parent / "step-x").mkdir()
    (saved.parent / "step-00000007").write_text("no folder")
    Reader(saved).verify()
    assert newest(saved.parent).step == 5


def test_a_folder_without_manifest_is_no_checkpoint(saved):
    shutil.copytree(saved, saved.parent / "step-00000006")
    (saved.parent / "step-00000006" / "manifest.json").unlink()
    assert [(one.step, one.complete) for one in checkpoints(saved.parent)] == [(5, True), (6, False)]
    assert newest(saved.parent).step == 5
    with pytest.raises(BadInput, match="is no complete checkpoint"):
        Reader(saved.parent / "step-00000006")


def test_retention_keeps_the_newest_complete_ones(tmp_path):
    for step in range(1, 6):
        saver.save(tmp_path, step)
    (tmp_path / "step-00000005" / "manifest.json").unlink()
    retain(tmp_path, 2)
    assert [one.step for one in checkpoints(tmp_path)] == [3, 4, 5]
    assert not list(tmp_path.glob(".*"))


def test_names_that_a_person_may_give(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    path = saver.save(folder, 3)
    for named in (tmp_path / "run", folder, path):
        assert [one.path.resolve() for one in pick(named)] == [path.resolve()]
    with pytest.raises(BadInput, match="holds no checkpoint"):
        pick(tmp_path)


def test_every_file_is_synced_before_the_rename_and_the_folders_around_it(tmp_path, monkeypatch):
    """What survives a loss of power: the order in which the disk is asked, as the system sees it."""
    told = []
    fsync, rename = os.fsync, os.rename

    def record_sync(descriptor):
        told.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def record_rename(source, target):
        told.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename)
    path = saver.save(tmp_path, 5)
    at = told.index(("rename", path.name))
    synced = [name for kind, name in told[:at] if kind == "sync"]
    shards = [f"rank-{rank:05}.safetensors" for rank in range(saver.RANKS)]
    assert set(shards) <= set(synced)
    manifest = next(index for index, name in enumerate(synced) if "manifest" in name)
    assert all(synced.index(name) < manifest for name in shards)
    assert synced[manifest + 1 :] == [saving_folder(tmp_path, 5, "run").name]
    assert told[at + 1 :] == [("sync", tmp_path.name)]


def test_the_commit_waits_for_every_rank(tmp_path):
    saving = saving_folder(tmp_path, 5, "run")
    late = threading.Timer(0.3, write_part, [saving, 2, saver.parts(5, 2)])
    for rank in (0, 1):
        write_part(saving, rank, saver.parts(5, rank))
    late.start()
    path, manifest = commit(saving, step=5, ranks=3, facts={})
    late.join()
    assert len(manifest.files) == 3
    Reader(path).verify()


def test_ranks_that_leave_a_piece_out_commit_nothing(tmp_path):
    saving = saving_folder(tmp_path, 5, "run")
    for rank in (0, 1):
        write_part(saving, rank, saver.parts(5, rank))
    with pytest.raises(RunFailed, match="the pieces of model/weight do not make up the tensor"):
        commit(saving, step=5, ranks=2, facts={})
    assert newest(tmp_path) is None


def test_a_rank_that_never_writes_is_named(tmp_path):
    saving = saving_folder(tmp_path, 5, "run")
    write_part(saving, 0, saver.parts(5, 0))
    with pytest.raises(RunFailed, match=r"rank 1 has not written .*rank-00001\.safetensors in 0\.1 s"):
        commit(saving, step=5, ranks=2, facts={}, patience_s=0.1)
    assert newest(tmp_path) is None


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
import checkpoint_saver as saver
from pathlib import Path
from nebula.checkpoint.commit import saving_folder, write_part
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_part(saving_folder(Path(sys.argv[1]), 5, "run"), 1, saver.parts(5, 1))
"""


def test_a_disk_that_refuses_is_told_by_the_rank_and_by_the_commit(tmp_path):
    """The system itself cuts the file off at 4 KiB, as a full disk would."""
    assert resource.RLIMIT_FSIZE
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": str(here.parents[1])}
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(here)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert "RunFailed" in done.stderr
    assert "rank-00001.safetensors cannot be written: File too large" in done.stderr
    saving = saving_folder(tmp_path, 5, "run")
    write_part(saving, 0, saver.parts(5, 0))
    with pytest.raises(RunFailed, match=r"rank 1: .*rank-00001\.safetensors cannot be written: File too large"):
        commit(saving, step=5, ranks=2, facts={})
    assert newest(tmp_path) is None


def test_export_gives_the_weights_alone(saved, tmp_path):
    path = tmp_path / "weights.safetensors"
    assert export(Reader(saved), path) == 1
    opened = load_file(path)
    assert list(opened) == ["weight"]
    assert np.array_equal(opened["weight"], saver.content(5))


def test_export_of_a_damaged_checkpoint_leaves_no_file(saved, tmp_path):
    shard = saved / "rank-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    path = tmp_path / "weights.safetensors"
    with pytest.raises(BadInput, match="is damaged"):
        export(Reader(saved), path)
    assert not path.exists()
    assert not list(tmp_path.glob(".weights*"))


def test_a_manifest_is_json_with_a_tensor_a_line(saved):
    text = (saved / "manifest.json").read_text()
    assert json.loads(text)["tensors"]["model/weight"]["shape"] == [saver.RANKS * saver.ROWS, saver.COLUMNS]
    assert sum('"model/weight"' in line for line in text.splitlines()) == 1


def test_a_policy_refuses_what_saves_nothing():
    with pytest.raises(BadInput, match="checkpoints every 5 steps, 0 kept"):
        Policy(every=5, keep=0)
