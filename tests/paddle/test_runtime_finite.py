"""What is not finite stops a watched rank before a copy of it is made: in any weight, under any clip."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

import nebula
from nebula.checkpoint.copy_file import stamp
from nebula.errors import RunFailed
from nebula.runtime import finite
from nebula.runtime.finite import Finite
from nebula.runtime.parallelize import parallelize
from nebula.runtime.progress import make
from nebula.runtime.serial import serial_plan

CLIPS = {
    "none": lambda: None,
    "by value": lambda: nn.ClipGradByValue(1.0),
    "by each norm": lambda: nn.ClipGradByNorm(1.0),
    "by global norm": lambda: nn.ClipGradByGlobalNorm(1.0),
}
ROWS = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    """Where this process, which an agent watches, copies to."""
    paddle.set_device("cpu")
    make(tmp_path / "progress")
    (tmp_path / "copies").mkdir()
    monkeypatch.setenv("NEBULA_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("NEBULA_MEMORY", str(tmp_path / "copies"))
    yield tmp_path / "copies"
    finite.SPOILT.clear()


def built(clip):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    optimizer = paddle.optimizer.AdamW(0.01, parameters=model.parameters(), grad_clip=CLIPS[clip]())
    return model, parallelize(model, optimizer, nn.MSELoss(), serial_plan())


@pytest.mark.parametrize("clip", CLIPS)
def test_a_gradient_that_is_no_number_gets_into_no_copy_whatever_clips_it(clip, copies, tmp_path):
    _, step = built(clip)
    with nebula.Checkpoints(step, tmp_path / "ours", every=100, tell=str) as checkpoints:
        for done in (1, 2):
            step((ROWS, ROWS[:, :1]))
            checkpoints.after(done)
        finite.SPOILT.append("nan")
        with pytest.raises(RunFailed, match=r"0\.weight is not finite after step 3: a faulty device, or a training"):
            step((ROWS, ROWS[:, :1]))
    assert finite.SPOILT == []
    assert {of.step for path in copies.iterdir() if (of := stamp(path))} == {1, 2}


def test_infinity_which_a_clip_by_the_global_norm_keeps_to_one_weight_is_seen_there():
    model, step = built("by global norm")
    model[0].weight.register_hook(lambda gradient: paddle.full_like(gradient, float("inf")))
    with pytest.raises(RunFailed, match=r"0\.weight is not finite after step 1"):
        step((ROWS, ROWS[:, :1]))
    assert all(bool(paddle.isfinite(weight).all()) for weight in (model[0].bias, *model[1].parameters()))


def test_a_loss_that_is_no_number_is_told_as_such():
    with pytest.raises(RunFailed, match="the loss is not finite after step 7"):
        Finite({}).after(7, math.nan)


def test_weights_whose_sum_alone_is_not_finite_are_fine():
    wide = paddle.to_tensor([3e38, 3e38], stop_gradient=False)
    assert not math.isfinite(float(wide.sum()))
    Finite({"wide": wide}).after(1, 0.5)


def test_of_a_weight_that_sharding_cut_the_range_of_this_rank_is_looked_at():
    weight = paddle.to_tensor([0.5, 0.5], stop_gradient=False)
    weight.fw_storage = paddle.to_tensor([0.5, math.nan])
    with pytest.raises(RunFailed, match="cut is not finite after step 1"):
        Finite({"cut": weight}).after(1, 0.5)
