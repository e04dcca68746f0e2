"""A training that was saved and taken up again is the training that was never interrupted, under any plan."""

import itertools
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import ranks
from checkpoint_worker import HALF, Job
from toy_plans import (
    CONTEXT_FOUR,
    CONTEXT_TWO,
    EXPERT,
    NAMED,
    SEQUENCE_FOUR,
    SEQUENCE_TWO,
    TWO,
    UNLIKE,
    UNLIKE_TWO,
    named,
)

from nebula.checkpoint.reader import Reader

WORKER = Path(__file__).parent / "checkpoint_worker.py"
STEPS = 4
PLANS = ("tensor 2", "pipeline 2 uneven", "sharding stage 1", "sharding stage 2", "sharding stage 3")
PLANS += ("rows 3 : 1", "virtual stages, zb-v", "context 2 by ring", "sequence, tensor 2")
LOSS_TOLERANCE = 1e-5


def whole(plan, model="dropping", name=""):
    """Saves at half time and goes on: both the source and what a resumed run must equal."""
    return Job(name=name or f"{model}, {plan}", plan=plan, model=model, last=STEPS, saves=(HALF, STEPS))


def resumed(before, plan, **more):
    """Takes up what `before` saved at half time, under the same plan or another."""
    return Job(
        name=f"{before.name} -> {plan}",
        plan=plan,
        model=before.model,
        source=before.name,
        resumes=HALF,
        last=STEPS,
        saves=(STEPS,),
        **more,
    )


SAME = [(whole(plan), resumed(whole(plan), plan, asynchronous=index % 2 == 0)) for index, plan in enumerate(PLANS)]
SAME.append((whole("data 2", "scaled"), resumed(whole("data 2", "scaled"), "data 2")))
REMEMBERING = whole("data 2", "remembering")
TO_OTHERS = [
    (whole(source, "toy"), resumed(whole(source, "toy"), target))
    for source, target in (
        ("data 2", "sharding stage 3"),
        ("sharding stage 3", "tensor 2"),
        ("context 2 by ulysses", "sequence, tensor 2"),
    )
] + [(REMEMBERING, resumed(REMEMBERING, plan)) for plan in ("data 2", "rows 3 : 1", "tensor 2")]
DEALT = whole("expert 2, rows 3 : 1", "experts")
TO_OTHERS += [(DEALT, resumed(DEALT, plan)) for plan in ("expert 2, rows 3 : 1", "pipeline, 1f1b")]
BEFORE = whole("sharding stage 2", "toy")
WRONG = [
    Job(name="wrong model", plan="tensor 2", last=0, source=BEFORE.name, model="remembering", wrong=True),
    Job(name="wrong optimizer", plan="data 2", last=0, source=BEFORE.name, optimizer="momentum", wrong=True),
    Job(name="damaged", plan="data 2", last=0, source=BEFORE.name, wrong=True),
]


def rounds(pairs, model="toy"):
    """A reshard: saved under one plan, loaded and at once saved under another."""
    sources = {source: whole(source, model) for source, _ in pairs}
    return [(sources[source], resaved(sources[source], target)) for source, target in pairs]


def resaved(before, plan):
    return Job(
        name=f"{before.name} => {plan}",
        plan=plan,
        model=before.model,
        source=before.name,
        resumes=HALF,
        last=HALF,
        saves=(HALF,),
    )


def run(folder, jobs):
    """Runs jobs, each name once, in a launch for every number of ranks."""
    by_ranks = {}
    for job in {job.name: job for job in jobs}.values():
        by_ranks.setdefault(named(job.plan).world_size, []).append(json.dumps(asdict(job)))
    for count, texts in by_ranks.items():
        if count == 1:
            ranks.run_serial(WORKER, [folder, *texts])
        else:
            ranks.run_emulated(count, WORKER, [folder, *texts], folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All jobs of this page in one launch of two ranks."""
    path = tmp_path_factory.mktemp("checkpoints")
    pairs = [*SAME, *TO_OTHERS, *rounds(PAIRS)]
    run(path, [*(before for before, _ in pairs), BEFORE, *(after for _, after in pairs), *WRONG])
    return path


def answer(folder, job):
    return json.loads((folder / f"{job.name}.json").read_text())


def tensors(folder, name, step):
    """Everything that a checkpoint keeps but random states, which are a rank's."""
    reader = Reader(folder / name / f"step-{step:08}")
    reader.verify()
    return {key: reader.read(key) for key in reader.manifest.tensors if not key.startswith("random/")}


def assert_equal(there, here):
    assert set(there) == set(here)
    for key, array in there.items():
        assert array.dtype == here[key].dtype, key
        assert array.tobytes() == here[key].tobytes(), key


@pytest.mark.parametrize(("before", "after"), SAME, ids=lambda job: job.name)
def test_under_the_same_plan_every_bit_is_that_of_the_uninterrupted_run(folder, before, after):
    """Dropout included: losses, weights, moments; saving in the background or not."""
    losses = answer(folder, before)["losses"]
    assert answer(folder, after)["losses"] == losses[HALF:]
    assert_equal(tensors(folder, before.name, STEPS), tensors(folder, after.name, STEPS))


@pytest.mark.parametrize(("before", "after"), TO_OTHERS, ids=lambda job: job.name)
def test_under_another_plan_the_losses_are_those_of_the_uninterrupted_run(folder, before, after):
    losses, expected = answer(folder, after)["losses"], answer(folder, before)["losses"]
    assert np.allclose(losses, expected[HALF:], rtol=LOSS_TOLERANCE, atol=0)
    assert min(abs(a / b - 1) for a, b in zip(expected[HALF:], expected[: STEPS - HALF], strict=True)) > 1e-3


def test_a_loss_scaler_goes_on(folder):
    before, after = SAME[-1]
    assert answer(folder, before)["scale"] == answer(folder, after)["scale"] == 8.0 * 2 ** (STEPS // 2)


def test_dropout_masks_differ_from_step_to_step_so_that_equality_means_something(folder):
    plan = "sharding stage 3"
    dropping, without = (answer(folder, whole(plan, model))["losses"] for model in ("dropping", "toy"))
    assert min(abs(a - b) for a, b in zip(dropping, without, strict=True)) > 1e-3


def test_a_memory_that_is_lost_shows(folder):
    """The rows that the recurrence remembers are saved, and not all alike."""
    saved = tensors(folder, f"{REMEMBERING.name}.half", HALF)
    memories = [array for key, array in saved.items() if key.startswith("rows/")]
    assert len(memories) == 3
    assert all(array.shape == (16, 4, 32) for array in memories)
    assert all(len({row.tobytes() for row in array}) == 16 for array in memories)


def three_pairs(seed):
    names = sorted(TWO | UNLIKE_TWO)
    rng = random.Random(seed)
    return [tuple(rng.sample(names, 2)) for _ in range(3)]


PAIRS = three_pairs(17)
BESIDE = "tensor 2 beside single ranks in one stage"
SHARING = SEQUENCE_TWO | SEQUENCE_FOUR | CONTEXT_TWO | CONTEXT_FOUR
UNLIKE_TENSOR_DEGREES = [(BESIDE, "sharding stage 3"), ("data 2 x sharding stage 3", BESIDE)]


def check_reshard(folder, pairs):
    for before, after in pairs:
        there = tensors(folder, f"{before.name}.half", HALF)
        assert_equal(there, tensors(folder, after.name, HALF))
        gathered = np.load(folder / f"{after.name}.npz")
        assert {f"model/{name}" for name in gathered} == {key for key in there if key.startswith("model/")}
        for name in gathered:
            assert gathered[name].tobytes() == there[f"model/{name}"].tobytes(), name


def test_three_random_pairs_of_plans_reshard_bit_by_bit(folder):
    check_reshard(folder, rounds(PAIRS))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_random_pairs_of_plans_reshard_bit_by_bit(tmp_path, capsys):
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    names = [*sorted(NAMED | UNLIKE | SHARING), "serial"]
    drawn = [*drawn_pairs(rng, names, 20), *UNLIKE_TENSOR_DEGREES]
    pairs = [*rounds(drawn), *rounds(drawn_pairs(rng, [*sorted(EXPERT), "serial"], 6), "experts")]
    run(tmp_path, [before for before, _ in pairs])
    run(tmp_path, [after for _, after in pairs])
    check_reshard(tmp_path, pairs)
    with capsys.disabled():
        print(f"\nseed {seed}: {len(pairs)} pairs, all tensors bit-equal")
        print("\n".join(after.name for _, after in pairs))


def drawn_pairs(rng, names, count):
    """So many ordered pairs of different names, none twice."""
    return rng.sample(list(itertools.permutations(names, 2)), count)


def test_who_resumes_is_told_where_and_from_which_plan(folder):
    before, after = TO_OTHERS[0]
    told = answer(folder, after)["told"]
    assert f"resumed from {folder / before.name}.half/step-{HALF:08}, saved under another plan (data 2 · " in told[0]
    assert told[0].endswith(f": training goes on at step {HALF + 1}")
    assert (
        f"no complete checkpoint in {folder / 'nothing.half'}: training begins at step 1"
        == answer(folder, before)["told"][0]
    )
    assert answer(folder, after)["position"] == {"half": HALF}


def test_every_save_says_what_training_waited(folder):
    for before, _ in SAME:
        saves, told = answer(folder, before)["saves"], answer(folder, before)["told"]
        assert [save["step"] for save in saves] == [HALF, STEPS]
        assert all(0 < save["stall_s"] <= save["written_s"] for save in saves)
        assert sum("training waited" in sentence for sentence in told) == 2


def refusals(folder, name):
    texts = [path.read_text() for path in sorted(folder.glob(f"{name}.refused.*"))]
    assert len(texts) == 2
    assert len(set(texts)) == 1
    return texts[0]


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(folder):
    text = refusals(folder, "wrong model")
    assert f"{BEFORE.name}.half/step-{HALF:08} is a checkpoint of another model (toy): " in text
    assert "is not in this model" in text
    assert "more differ; name another folder, or build the model as it was" in text


def test_a_checkpoint_of_another_optimizer_is_refused_with_what_differs(folder):
    text = refusals(folder, "wrong optimizer")
    assert "another optimizer: AdamW with beta1_pow_acc, beta2_pow_acc, moment1, moment2 there, Momentum with " in text
    assert text.endswith("velocity here; train on with AdamW")


def test_a_flipped_byte_that_one_rank_reads_stops_all_with_its_sentence(folder):
    assert "rank-00001.safetensors is damaged (in random/1): " in refusals(folder, "damaged")
