"""A generation that was given up makes no checkpoint visible any more."""

from __future__ import annotations

import numpy as np
import pytest

from nebula.checkpoint.boxes import whole
from nebula.checkpoint.commit import commit, saving_folder, write_part
from nebula.checkpoint.folder import newest
from nebula.checkpoint.shard_file import Part
from nebula.errors import RunFailed
from nebula.runtime.fence import check_fence, raise_fence


def save(folder, step, generation):
    env = {"NEBULA_GENERATION": str(generation)}
    saving = saving_folder(folder, step, f"run{generation}")
    array = np.arange(4, dtype=np.float32)
    write_part(saving, 0, [Part(key="w", dtype="float32", shape=(4,), box=whole((4,)), array=array)])
    commit(saving, step=step, ranks=1, facts={}, fence=lambda: check_fence(folder, env))


def test_a_stale_generation_commits_nothing(tmp_path):
    raise_fence(tmp_path, {"NEBULA_GENERATION": "3"})
    save(tmp_path, 10, 3)
    raise_fence(tmp_path, {"NEBULA_GENERATION": "4"})
    with pytest.raises(RunFailed, match="this process is of generation 3, generation 4 writes"):
        save(tmp_path, 20, 3)
    assert newest(tmp_path).step == 10
    with pytest.raises(RunFailed):
        raise_fence(tmp_path, {"NEBULA_GENERATION": "3"})
    save(tmp_path, 12, 4)
    assert newest(tmp_path).step == 12


def test_without_an_agent_there_are_no_generations(tmp_path):
    raise_fence(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    raise_fence(tmp_path, {"NEBULA_GENERATION": "4"})
    check_fence(tmp_path, {})
