"""Copies of a training in memory: whole or marked as not, read as one checkpoint, chosen and sent safely."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.checkpoint.boxes import Box, whole
from nebula.checkpoint.copies import TENSORS, CopyReader, assemble
from nebula.checkpoint.copy_file import CopyFile, content, stamp
from nebula.checkpoint.shard_file import Part
from nebula.elastic.agent.copies import Copies, receive
from nebula.elastic.agent.peer import Peer
from nebula.elastic.controller.restore import Copy, newest
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import add_PeerServicer_to_server
from nebula.elastic.trust import OpenDoor
from nebula.errors import BadInput

WEIGHTS = np.arange(24, dtype=np.float32).reshape(6, 4)


def rows(first, last, key="model/w"):
    array = WEIGHTS[first:last]
    return Part(key=key, dtype="float32", shape=WEIGHTS.shape, box=Box((first, 0), array.shape), array=array)


def write(path, *parts, step=7, generation=2, tensors=1):
    return CopyFile(path).write(parts, {TENSORS: tensors}, generation=generation, ranks=2, step=step)


def test_a_copy_is_read_as_it_was_written(tmp_path):
    half = Part(key="m", dtype="bfloat16", shape=(3,), box=whole((3,)), array=np.array([1, 2, 3], np.uint16))
    told = write(tmp_path / "rank-00000.alone.0", rows(0, 6), half, tensors=2)
    assert stamp(tmp_path / "rank-00000.alone.0") == told
    assert (told.generation, told.ranks, told.step) == (2, 2, 7)
    reader = CopyReader(tmp_path)
    assert (reader.read("model/w") == WEIGHTS).all()
    assert (reader.read("model/w", Box((2, 1), (3, 2))) == WEIGHTS[2:5, 1:3]).all()
    assert (reader.read("m") == half.array).all()
    assert reader.manifest.step == 7


def test_a_file_is_written_again_and_again(tmp_path):
    file = CopyFile(tmp_path / "copy")
    for step, last in enumerate((2, 6, 1, 4)):
        file.write([rows(0, last)], {TENSORS: 1}, generation=1, ranks=1, step=step)
        found = content(tmp_path / "copy")
        assert found.stamp.step == step
        assert found.pieces["model/w"][2][0].box.shape == (last, 4)


def test_a_copy_that_was_interrupted_is_none(tmp_path):
    class Interrupt(Exception):
        pass

    class Torn:
        dtype = np.dtype(np.float32)
        nbytes = 96
        shape = (6, 4)

        def __array__(self, *_, **__):
            raise Interrupt

    path = tmp_path / "copy"
    write(path, rows(0, 6))
    with pytest.raises(Interrupt):
        write(path, Part(key="w", dtype="float32", shape=(6, 4), box=whole((6, 4)), array=Torn()))
    assert stamp(path) is None
    with pytest.raises(BadInput, match="no whole copy"):
        content(path)
    assert stamp(tmp_path / "nothing") is None
    (tmp_path / "text").write_text("no copy at all, but long enough to hold a prologue")
    assert stamp(tmp_path / "text") is None


def test_pieces_that_several_ranks_hold_are_read_once(tmp_path):
    write(tmp_path / "rank-00000.common.0", rows(0, 6))
    write(tmp_path / "rank-00001.common.0", rows(0, 3), rows(3, 6))
    assert (CopyReader(tmp_path).read("model/w") == WEIGHTS).all()


def test_what_leaves_something_out_is_refused(tmp_path):
    write(tmp_path / "rank-00000.common.0", rows(0, 3), tensors=2)
    with pytest.raises(BadInput, match="the pieces of model/w do not make up the tensor"):
        assemble(tmp_path)
    write(tmp_path / "rank-00001.common.0", rows(3, 6), tensors=2)
    assert assemble(tmp_path).step == 7
    with pytest.raises(BadInput, match="copies of 1 tensors, the training has 2"):
        assemble(tmp_path, everything=True)
    write(tmp_path / "rank-00002.common.0", rows(0, 6), step=8)
    with pytest.raises(BadInput, match="copies of steps 7, 8"):
        assemble(tmp_path)
    with pytest.raises(BadInput, match="no copy of a training"):
        assemble(tmp_path / "nowhere")


def copy(rank, step, *, node="", alone=True, generation=1, ranks=2, kept=False):
    kind, folder = ("alone" if alone else "common"), ("kept" if kept else "own")
    name = f"{folder}/rank-{rank:05}.{kind}.{step % 2}"
    return Copy(
        node=node or "ab"[rank], name=name, generation=generation, ranks=ranks, step=step, rank=rank, alone=alone
    )


def test_the_newest_step_of_which_every_rank_has_its_part_is_chosen():
    found = newest([copy(0, 9), copy(0, 8), copy(0, 8, alone=False), copy(1, 8), copy(1, 7)])
    assert (found.generation, found.step, len(found.copies)) == (1, 8, 3)
    assert found.ranks_by_node() == {"a": {0}}
    assert newest([copy(0, 9), copy(1, 8)]) is None
    assert newest([]) is None


def test_a_neighbour_stands_in_for_a_lost_node():
    found = newest([copy(0, 6), copy(1, 6, node="a", kept=True)])
    assert found.step == 6
    assert found.ranks_by_node() == {}
    both = newest([copy(1, 6, node="a", kept=True), copy(0, 6), copy(1, 6)])
    assert [one.node for one in both.copies] == ["a", "b"]


def test_a_node_that_has_only_what_a_neighbour_kept_of_its_rank_fetches_the_rest():
    """Node a lost its copies, began anew from those of b, and begins once more: it never has the file `common` of 0."""
    of_b = [copy(1, 6), copy(1, 6, alone=False), copy(0, 6, node="b", kept=True)]
    of_a = [replace(one, node="a", name=f"resume/3/{one.name.partition('/')[2]}") for one in of_b]
    found = newest([*of_b, *of_a])
    assert {copy.name: copy.node for copy in found.copies} == {
        "resume/3/rank-00000.alone.0": "a",
        "own/rank-00001.common.0": "b",
        "own/rank-00001.alone.0": "b",
    }
    assert found.ranks_by_node() == {"b": {1}}


def test_copies_of_generations_are_not_mixed_and_untrusted_ones_left_out():
    old, new = [copy(0, 9), copy(1, 9)], [copy(0, 5, generation=2), copy(1, 5, generation=2)]
    assert newest(old + new).generation == 2
    assert newest(old + new, {(2, 5)}).generation == 1
    older = [copy(0, 4, generation=2), copy(1, 4, generation=2)]
    assert newest(old + new + older, {(2, 5)}).step == 4
    assert newest([copy(0, 9), copy(1, 9, generation=2)]) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 2)), max_size=30))
def test_whatever_is_there_what_is_chosen_is_complete(there):
    held = [copy(rank, step, node="abc"[rank], generation=generation, ranks=3) for rank, step, generation in there]
    found = newest(held)
    complete = [
        (generation, step)
        for generation in (1, 2)
        for step in range(6)
        if {rank for rank, at, of in there if (at, of) == (step, generation)} == {0, 1, 2}
    ]
    assert (None if found is None else (found.generation, found.step)) == max(complete, default=None)


def chunks(data, name="rank-00001.alone.2", digest=None, size=10):
    for begin in range(0, len(data), size):
        last = begin + size >= len(data)
        sha = (digest or hashlib.sha256(data).digest()) if last else b""
        yield wire.Chunk(name=name, node="b", data=data[begin : begin + size], sha256=sha)


def test_what_travels_arrives_as_it_was_sent_or_not_at_all(tmp_path):
    assert receive(chunks(b"x" * 35), tmp_path).read_bytes() == b"x" * 35
    (tmp_path / "rank-00001.alone.2").unlink()
    with pytest.raises(BadInput, match="did not arrive as it was sent"):
        receive(chunks(b"x" * 35, digest=b"0" * 32), tmp_path)
    with pytest.raises(BadInput, match="did not arrive as it was sent"):
        receive(list(chunks(b"x" * 35))[:-1], tmp_path)
    for name in ("../../etc/passwd", "rank-1.alone.2", ""):
        with pytest.raises(BadInput, match="is no name of a copy"):
            receive(chunks(b"x", name=name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_node_gives_only_copies_away(tmp_path):
    copies = Copies(tmp_path, "a", lambda address: None)
    write(tmp_path / "own" / "rank-00000.alone.2", rows(0, 6))
    sent = list(copies.chunks("own/rank-00000.alone.2"))
    copies.keep(iter(sent))
    assert {(one.name, one.step, one.alone) for one in copies.held()} == {
        ("own/rank-00000.alone.2", 7, True),
        ("kept/rank-00000.alone.2", 7, True),
    }
    for name in ("resume/rank-00000.alone.2", "own/../plan.json", "own/rank-00009.alone.2"):
        with pytest.raises(BadInput):
            list(copies.chunks(name))


def in_step(copies, *names, step, generation):
    """What two ranks of one node hold after a step: a half of the weights each, written in place of an older one."""
    for name, part in zip(names, (rows(0, 3), rows(3, 6)), strict=True):
        write(copies.scratch / "own" / name, part, step=step, generation=generation)


def sources(copies, generation):
    return [
        wire.Source(name=one.name, node="a", rank=one.rank, alone=one.alone)
        for one in copies.held()
        if one.generation == generation
    ]


def test_what_a_generation_began_from_outlasts_its_first_copies(tmp_path):
    copies, names = Copies(tmp_path, "a", lambda address: None), ("rank-00000.alone.1", "rank-00001.alone.1")
    in_step(copies, *names, step=7, generation=1)
    folder = copies.prepare(2, sources(copies, 1), everything=True)
    in_step(copies, *names, step=9, generation=2)
    assert CopyReader(folder).manifest.step == 7
    (copies.scratch / "own" / names[1]).unlink()  # with the node that held it
    held = [
        Copy(node="a", name=one.name, generation=one.generation, ranks=2, step=one.step, rank=one.rank, alone=one.alone)
        for one in copies.held()
    ]
    assert (newest(held).generation, newest(held).step) == (1, 7)
    again = copies.prepare(3, sources(copies, 1), everything=True)
    assert (CopyReader(again).read("model/w") == WEIGHTS).all()
    assert folder.exists()  # another node may be fetching from it
    copies.prepare(4, [source for source in sources(copies, 1) if "/3/" in source.name], everything=True)
    assert not folder.exists()


def test_what_a_generation_began_from_is_given_up_once_two_steps_are_with_the_neighbour(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    neighbour = Copies(tmp_path / "b", "b", lambda address: None)
    server = grpc.server(ThreadPoolExecutor(1))
    add_PeerServicer_to_server(Peer(neighbour, OpenDoor()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        copies = Copies(tmp_path / "a", "a", grpc.insecure_channel)
        in_step(copies, "rank-00000.alone.1", "rank-00001.alone.1", step=7, generation=1)
        folder = copies.prepare(2, sources(copies, 1), everything=True)
        for generation, step, there in ((1, 5, True), (1, 6, True), (2, 8, True), (2, 16, False)):
            in_step(copies, "rank-00000.alone.2", "rank-00001.alone.2", step=step, generation=generation)
            for _ in range(2):
                copies._not_before_s = 0.0
                copies.pass_on(f"127.0.0.1:{port}")
                copies._passing.result(10)
            assert {(one.rank, one.step) for one in neighbour.held()} == {(0, step), (1, step)}
            assert folder.exists() is there
    finally:
        server.stop(0).wait()
