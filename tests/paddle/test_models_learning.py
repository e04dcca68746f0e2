"""What the small ERNIE learns from the novel: its loss falls; an unseen chapter is predicted better than by counts."""

from __future__ import annotations

import dataclasses

import paddle
import pytest

from nebula.models.config import ErnieConfig
from nebula.models.data.batches import batches
from nebula.models.ernie import ErnieModel
from nebula.models.evaluation import evaluate
from nebula.models.objectives import document_nats, loss
from nebula.models.presets import preset


def trained(
    config: ErnieConfig, *, steps: int, rows: int, rate: float, repeated: bool
) -> tuple[ErnieModel, list[float]]:
    """The model after some steps, and its losses; `repeated` shows it the first batch again and again."""
    paddle.seed(3)
    model = ErnieModel(config)
    schedule = paddle.optimizer.lr.LambdaDecay(
        rate, lambda step: min((step + 1) / 10, 1.0 - 0.9 * max(0, step - 10) / steps)
    )
    optimizer = paddle.optimizer.AdamW(
        schedule, parameters=model.parameters(), beta2=0.99, grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0)
    )
    data, losses = batches(config, global_batch=rows), []
    for step in range(steps):
        ids, labels = data.batch(0 if repeated else step, range(rows))
        value = loss(model(paddle.to_tensor(ids)), paddle.to_tensor(labels))
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        losses.append(float(value))
    return model, losses


def narrow(config: ErnieConfig, hidden: int) -> ErnieConfig:
    """The same stack of layers, narrower."""
    modules = {
        name: dataclasses.replace(getattr(config, name), hidden=hidden, ffn=2 * hidden)
        for name in ("universal", "nlu", "nlg")
    }
    return dataclasses.replace(config, **modules)


def test_the_loss_on_one_batch_falls_by_a_fifth_within_20_steps() -> None:
    _, losses = trained(narrow(preset("ernie-3.0-small"), 64), steps=20, rows=2, rate=2e-3, repeated=True)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_small_ernie_predicts_a_chapter_it_never_saw_better_than_token_counts() -> None:
    config = preset("ernie-3.0-small")
    model, _ = trained(config, steps=120, rows=8, rate=5e-4, repeated=False)
    corpus = batches(config, global_batch=8).corpus
    for chapter in corpus.held_out:
        result = evaluate(document_nats(model), corpus, seq_len=config.seq_len, chapter=chapter)
        assert result.learned, str(result)
