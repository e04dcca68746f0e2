"""Trains a built-in model on its text as a plan says; every rank runs this, rank 0 speaks.

Each rank makes exactly its rows of a batch, so that the number of steps done is the place in the data. At the end the
weights are gathered into one file, and rank 0 predicts a held-out chapter with the whole model on the host, so that the
answer does not depend on the split.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from nebula.models.config import ErnieConfig
from nebula.models.data.batches import Batches, batches
from nebula.models.decoders import DecoderConfig
from nebula.models.families import Family, family_of
from nebula.models.memory import set_micro_batches
from nebula.plan.values import Plan
from nebula.runtime import timeline, weights
from nebula.runtime.checkpoints import Checkpoints, NoCheckpoints
from nebula.runtime.circles import from_all
from nebula.runtime.clock import Clock
from nebula.runtime.parallelize import Step, parallelize
from nebula.runtime.place import Place
from nebula.runtime.progress import Section
from nebula.runtime.steps import Journal, StepRecord
from nebula.runtime.training import EVALUATION, SAVES, STEPS, WEIGHTS, Training


def train(plan: Plan, training: Training, run_dir: Path, clock: Clock) -> None:
    """Trains to the end and leaves steps, timelines, weights and evaluation in `run_dir`.

    Args:
        plan: from nebula.init().
        clock: of this rank's device.
    """
    config, (step, rate, data) = training.config, built(plan, training)
    family = family_of(config)
    with checkpoints_of(step, training, config, run_dir, beside_passes=True) as checkpoints:
        first = checkpoints.resume() if training.resume else 0
        with _journal(run_dir, step.place) as journal:
            _loop(step, family, data, rate, training, run_dir, clock, journal, checkpoints, first)
    finish(step, family, config, data, training, run_dir)


def built(plan: Plan, training: Training) -> tuple[Step, Any, Batches]:
    """The step of a built-in model, the schedule of its learning rate, and its data."""
    config = training.config
    family = family_of(config)
    model = family.model(config)
    set_micro_batches(model.chain, plan.micro_batches)
    rate = paddle.optimizer.lr.LambdaDecay(training.learning_rate, training.rate)
    step = parallelize(
        model,
        optimizer(model, rate, training, plan.job.optimizer),
        family.loss,
        plan,
        tensor_split=family.tensor_split,
    )
    return step, rate, batches(config, global_batch=plan.job.global_batch, seed=training.seed)


def optimizer(model: nn.Layer, rate: Any, training: Training, kind: str) -> paddle.optimizer.Optimizer:
    """The job's optimizer, `adamw` or `sgd`, with a global-norm clip."""
    common = {"parameters": model.parameters(), "weight_decay": training.weight_decay}
    common["grad_clip"] = nn.ClipGradByGlobalNorm(training.clip_norm)
    if kind == "sgd":
        return paddle.optimizer.SGD(rate, **common)
    return paddle.optimizer.AdamW(rate, beta2=training.beta2, epsilon=training.epsilon, **common)


def checkpoints_of(
    step: Step, training: Training, config: ErnieConfig | DecoderConfig, run_dir: Path, *, beside_passes: bool
) -> Checkpoints | NoCheckpoints:
    """Where a training saves; a run that goes on must have the same text in the same order.

    Args:
        beside_passes: weights change in `step` alone, so that they may be copied while its passes run.
    """
    policy = training.checkpoint
    if not policy.every:
        return NoCheckpoints()
    return Checkpoints(
        step,
        run_dir / policy.folder,
        every=policy.every,
        keep=policy.keep,
        asynchronous=policy.asynchronous,
        beside_passes=beside_passes,
        mtbf_s=policy.mtbf_s,
        about=about_of(step, training, config),
        tell=functools.partial(print, flush=True),
        journal=run_dir / SAVES,
    )


def about_of(step: Step, training: Training, config: ErnieConfig | DecoderConfig) -> dict[str, Any]:
    """What must be the same when a training goes on."""
    return {
        "preset": training.preset,
        "seq_len": config.seq_len,
        "seed": training.seed,
        "global_batch": step.plan.job.global_batch,
    }


@contextmanager
def _journal(run_dir: Path, place: Place) -> Iterator[Journal | None]:
    """steps.jsonl on rank 0; nothing elsewhere."""
    if place.rank != 0:
        yield None
        return
    with closing(Journal(run_dir / STEPS)) as journal:
        yield journal


def _loop(
    step: Step,
    family: Family,
    data: Batches,
    rate: Any,
    training: Training,
    run_dir: Path,
    clock: Clock,
    journal: Journal | None,
    checkpoints: Checkpoints | NoCheckpoints,
    first: int,
) -> None:
    rows = step.place.rows
    tokens = family.sequences * data.seq_len * data.global_batch
    if clock.name == "virtual":
        step.progress.keep(clock.seconds)
    before_s = clock.seconds()
    for index in range(first, training.steps):
        clock.begin_step(index)
        recorded = index == max(first, training.recorded_step)
        if recorded:
            begin_s = _begin_record(step, clock)
        result = step.local(family.batch(data, index, rows), data.global_batch)
        rate.step()
        now_s = clock.seconds()
        if journal:
            _tell(step, index, result.loss, tokens, now_s - before_s, clock, journal)
        if recorded:
            _end_record(step, index, begin_s, now_s, run_dir, clock)
        saved = checkpoints.after(index + 1)
        before_s = clock.seconds() if recorded or saved else now_s
    clock.begin_step(training.steps)  # the end of the last
    if first < training.steps:
        checkpoints.save(training.steps)


def _tell(step: Step, index: int, loss: float, tokens: int, took_s: float, clock: Clock, journal: Journal) -> None:
    prediction = step.plan.prediction
    record = StepRecord(
        step=index + 1,
        loss=loss,
        tokens=tokens,
        predicted_s=prediction.step_time_s if prediction else 0.0,
        took_s=took_s,
        clock=clock.name,
        memory_bytes=clock.peak_bytes(),
        mfu=prediction.mfu * prediction.step_time_s / took_s if prediction and took_s else 0.0,
    )
    journal.write(record)
    print(record.line, flush=True)


def _begin_record(step: Step, clock: Clock) -> float:
    step.driver.observers.append(timeline.observer(clock))
    clock.record(True)
    return clock.seconds()


def _end_record(step: Step, index: int, begin_s: float, end_s: float, run_dir: Path, clock: Clock) -> None:
    clock.record(False)
    step.driver.observers.pop()
    facts = {
        "rank": step.place.rank,
        "stage": step.place.stage,
        "step": index + 1,
        "clock": clock.name,
        "step_s": end_s - begin_s,
        "memory_bytes": clock.peak_bytes(),
    }
    origin_s = min(from_all(begin_s, step.plan.world_size))
    path = run_dir / f"timeline.{step.place.rank}.json"
    timeline.write(path, origin_s=origin_s, events=clock.drain(), facts=facts)


def finish(
    step: Step, family: Family, config: ErnieConfig | DecoderConfig, data: Batches, training: Training, run_dir: Path
) -> None:
    """Gathers the weights into one file and, if asked, predicts a held-out chapter."""
    step.progress.enter(Section.END)
    whole = weights.gather(step)
    if step.place.rank != 0:
        return
    weights.save(whole, run_dir / WEIGHTS)
    if not training.evaluate:
        return
    from nebula.models.evaluation import evaluate

    paddle.set_device("cpu")
    model = family.model(config)
    weights.fill(model, whole)
    result = evaluate(family.document_nats(model), data.corpus, seq_len=config.seq_len)
    (run_dir / EVALUATION).write_text(json.dumps(dataclasses.asdict(result)) + "\n")
    print(result, flush=True)
    sys.stdout.flush()
