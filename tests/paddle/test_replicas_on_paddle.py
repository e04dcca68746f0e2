"""A member's model: its steps are those of one serial process, and its state makes another member its equal."""

import dataclasses
import time

import numpy as np
import paddle
import pytest
from paddle import nn

from nebula.errors import BadInput, RunFailed
from nebula.models.data.batches import batches
from nebula.models.families import family_of
from nebula.models.memory import set_micro_batches
from nebula.models.presets import trained
from nebula.runtime import finite
from nebula.runtime.parallelize import parallelize
from nebula.runtime.progress import Progress, Section
from nebula.runtime.progress import Watched as Seen
from nebula.runtime.replicas.on_paddle import OnPaddle
from nebula.runtime.replicas.training import Watched
from nebula.runtime.replicas.tree import Sums
from nebula.runtime.serial import serial_plan

SHARDS, ROWS, STEPS = 4, 4, 4
PRESETS = ["ernie-3.0-small", "ernie-4.5-small"]


def member(name, seed=7):
    """A serial step with as many micro-batches as shards, and the same as a member."""
    config = dataclasses.replace(trained(name), seq_len=16)
    family = family_of(config)
    paddle.seed(seed)
    model = family.model(config)
    set_micro_batches(model.chain, SHARDS)
    rate = paddle.optimizer.lr.LambdaDecay(2e-3, lambda step: 1 / (1 + step))
    optimizer = paddle.optimizer.AdamW(
        rate, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.0), weight_decay=0.01
    )
    step = parallelize(model, optimizer, family.loss, serial_plan(global_batch=ROWS, micro_batches=SHARDS))
    data = batches(config, global_batch=ROWS, seed=3)
    return step, rate, OnPaddle(step, lambda index, rows: family.batch(data, index, rows), after=rate.step)


def weights(replica):
    return {name: weight.numpy() for name, weight in replica.step.part.weights.items()}


def train(replicas, first, last):
    """Steps of members that have equal shares; the losses."""
    losses = []
    for index in range(first, last):
        total, memory = Sums(SHARDS), {}
        for shard in range(SHARDS):
            gradient, memory[shard] = replicas[shard % len(replicas)].gradient(index, shard)
            total.add(shard, gradient)
        for replica in replicas:
            replica.apply(total.total().copy(), memory)
        losses.append(replicas[0].loss)
    return losses


def alike(one, other):
    ours, theirs = weights(one), weights(other)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", PRESETS)
def test_steps_are_those_of_one_serial_process(name):
    serial, rate, like = member(name)
    expected = []
    for index in range(STEPS):
        expected.append(serial.local(like._batch(index, range(ROWS)), ROWS).loss)
        rate.step()
    *_, replica = member(name)
    assert train([replica], 0, STEPS) == pytest.approx(expected, rel=1e-5)
    ours, theirs = weights(replica), weights(like)
    assert max(np.abs(ours[key] - theirs[key]).max() for key in ours) <= 1e-4


@pytest.mark.parametrize("name", PRESETS)
def test_two_members_have_the_bits_of_one_and_a_newcomer_goes_on_as_they_do(name):
    *_, alone = member(name)
    losses = train([alone], 0, STEPS)
    pair = [member(name)[2] for _ in range(2)]
    assert train(pair, 0, 2) == losses[:2]
    *_, late = member(name, seed=99)
    assert not alike(late, pair[0])
    late.load([np.asarray(array).tobytes() for array in pair[1].state()])
    assert train([late, pair[0]], 2, STEPS) == losses[2:]
    assert alike(late, alone)
    assert alike(pair[0], alone)


def test_a_shard_that_is_done_again_after_its_member_was_lost_has_the_same_gradient():
    """What is remembered of rows changes with the step alone, not with each try."""
    *_, replica = member("ernie-3.0-small")
    train([replica], 0, 2)
    first, again = replica.gradient(2, 1)[0], replica.gradient(2, 1)[0]
    np.testing.assert_array_equal(first, again)


def test_statistics_that_change_with_the_rows_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1D(4), nn.Linear(4, 1))
    step = parallelize(
        model,
        paddle.optimizer.SGD(0.1, parameters=model.parameters()),
        lambda out, labels: ((out - labels) ** 2).mean(),
        serial_plan(global_batch=8, micro_batches=2),
    )
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 4)).astype(np.float32)
    replica = OnPaddle(step, lambda _, some: (rows[list(some)], rows[list(some), :1]))
    with pytest.raises(BadInput, match="batch norm"):
        replica.gradient(0, 0)


def test_another_model_is_refused():
    *_, small = member("ernie-3.0-small")
    *_, other = member("ernie-4.5-small")
    with pytest.raises(BadInput, match="another model or optimizer"):
        small.load([np.asarray(array).tobytes() for array in other.state()])


def test_a_gradient_that_is_no_number_once_is_worked_out_again_and_twice_stops_the_member():
    *_, replica = member("ernie-3.0-small")
    expected = replica.gradient(0, 1)[0]
    finite.SPOILT.append("nan")
    np.testing.assert_array_equal(replica.gradient(0, 1)[0], expected)
    with paddle.no_grad():
        replica._trained[0].scale_(float("inf"))
    with pytest.raises(RunFailed, match="of shard 1 of step 1 is not finite, twice"):
        replica.gradient(0, 1)


def test_of_each_step_the_first_shard_counts_as_work_and_what_it_took_before_beside_a_save(tmp_path):
    step, _, plain = member("ernie-3.0-small")
    seen, pauses_s = Seen(tmp_path / "progress"), iter([0.1, 3.0, 3.0])

    def rows(index, which):
        time.sleep(next(pauses_s))
        return plain._batch(index, which)

    step.progress = Progress(tmp_path / "progress")
    replica = Watched(step, rows)
    replica.gradient(0, 0)
    first_s = seen.spent_s(Section.FORWARD)
    assert first_s >= 0.1
    replica.gradient(0, 1)
    assert seen.spent_s(Section.FORWARD) == pytest.approx(first_s, abs=0.1)
    replica.saves = lambda: True
    replica.gradient(1, 0)
    assert seen.spent_s(Section.FORWARD) == pytest.approx(2 * first_s, abs=0.2)
    assert seen.section is Section.COLLECTIVE
