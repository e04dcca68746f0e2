"""A checkpoint is torn so that every reader notices, and only where an older one is there."""

from __future__ import annotations

import numpy as np
import pytest

from nebula.checkpoint.boxes import whole
from nebula.checkpoint.commit import commit, saving_folder, write_part
from nebula.checkpoint.manifest import Damaged
from nebula.checkpoint.reader import Reader
from nebula.checkpoint.shard_file import Part
from nebula.elastic.chaos.tear import tear
from nebula.errors import BadInput


def save(folder, step):
    saving = saving_folder(folder, step, "run")
    array = np.arange(1000, dtype=np.float32)
    write_part(saving, 0, [Part(key="model/w", dtype="float32", shape=(1000,), box=whole((1000,)), array=array)])
    return commit(saving, step=step, ranks=1, facts={})[0]


def test_the_newest_is_torn_and_the_one_before_left(tmp_path):
    with pytest.raises(BadInput, match="has 0 complete checkpoints: ask again once there are two"):
        tear(tmp_path)
    first = save(tmp_path, 5)
    with pytest.raises(BadInput, match="has 1 complete checkpoint: ask again"):
        tear(tmp_path)
    second = save(tmp_path, 10)
    assert tear(tmp_path) == "step-00000010/rank-00000.safetensors lost its second half"
    Reader(first).verify()
    with pytest.raises(Damaged, match="is damaged"):
        Reader(second).verify()
