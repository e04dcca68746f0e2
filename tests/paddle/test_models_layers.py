"""The layers of ERNIE: shapes, what each token may see, memory, and tracing of the large presets."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import time

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.counts import parameter_total
from nebula.models.ernie import DOCUMENT, MASKED, ErnieModel, chain, tensor_split
from nebula.models.memory import WithMemory, memories, set_micro_batches
from nebula.models.objectives import IGNORED, document_nats, loss, task_losses
from nebula.models.presets import PRESETS, preset
from nebula.runtime.recompute import apply_policy

TINY = ErnieConfig(
    universal=ModuleConfig(layers=2, hidden=16, heads=4, ffn=32),
    nlu=ModuleConfig(layers=1, hidden=8, heads=2, ffn=16),
    nlg=ModuleConfig(layers=2, hidden=8, heads=2, ffn=16),
    vocabulary=40,
    seq_len=8,
    max_distance=4,
)
REMEMBERING = dataclasses.replace(TINY, memory_length=4)


def model_of(config: ErnieConfig) -> ErnieModel:
    paddle.seed(7)
    return ErnieModel(config)


def some_ids(rows: int, config: ErnieConfig = TINY, seed: int = 0) -> Tensor:
    ids = np.random.default_rng(seed).integers(0, config.vocabulary, (rows, 2, config.seq_len))
    return paddle.to_tensor(ids)


def some_labels(rows: int, config: ErnieConfig = TINY) -> Tensor:
    labels = some_ids(rows, config, seed=1)
    labels[:, MASKED, config.masked_per_row :] = IGNORED
    return labels


def changed_positions(model: ErnieModel, half: int, position: int) -> tuple[list[int], list[int]]:
    """Positions of each half whose logits change with the token at `position` of `half`."""
    ids = some_ids(1)
    other = ids.clone()
    other[0, half, position] = (ids[0, half, position] + 1) % TINY.vocabulary
    moved = (model(ids) - model(other)).abs().max(axis=-1).numpy()[0] > 1e-7
    return [list(map(int, np.flatnonzero(moved[side]))) for side in (MASKED, DOCUMENT)]  # type: ignore[return-value]


def test_every_element_takes_what_the_one_before_returns() -> None:
    x = some_ids(3)
    for element in chain(TINY):
        x = element(x)
        assert x.shape[0] % 3 == 0
    assert x.shape == [3, 2, TINY.seq_len, TINY.vocabulary]


def test_the_masked_half_sees_all_of_itself_and_nothing_else() -> None:
    assert changed_positions(model_of(TINY), MASKED, 5) == [list(range(8)), []]


def test_the_document_half_sees_only_what_precedes() -> None:
    assert changed_positions(model_of(TINY), DOCUMENT, 5) == [[], [5, 6, 7]]


@pytest.mark.parametrize("name", ["tiny", *PRESETS])
def test_counts_in_closed_form_equal_the_built_layers(name: str) -> None:
    config = PRESETS.get(name, TINY)
    with paddle.LazyGuard():
        built = sum(math.prod(p.shape) for element in chain(config) for p in element.parameters())
    assert built == parameter_total(config)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = model_of(TINY).state_dict(), model_of(TINY).state_dict()
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_every_parameter_gets_a_gradient() -> None:
    model = model_of(REMEMBERING)
    loss(model(some_ids(2)), some_labels(2)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_the_loss_of_many_rows_is_the_mean_of_their_losses() -> None:
    model, ids, labels = model_of(TINY), some_ids(4), some_labels(4)
    parts = [float(loss(model(ids[i : i + 2]), labels[i : i + 2])) for i in (0, 2)]
    assert float(loss(model(ids), labels)) == pytest.approx(sum(parts) / 2, rel=1e-6)


def test_losses_equal_numpy() -> None:
    logits = np.random.default_rng(3).normal(size=(2, 2, 8, 40)).astype("float32")
    labels = some_labels(2).numpy()
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_probability, np.maximum(labels, 0)[..., None], -1)[..., 0]
    expected = nats[:, MASKED, :1].mean(), nats[:, DOCUMENT].mean()
    got = task_losses(paddle.to_tensor(logits), paddle.to_tensor(labels))
    assert [float(part) for part in got] == pytest.approx(expected, rel=1e-5)


def test_memory_changes_the_document_half_alone() -> None:
    model = model_of(REMEMBERING)
    first = model(some_ids(1))
    second = model(some_ids(1))
    moved = (first - second).abs().max(axis=[0, 2, 3]).numpy()
    assert moved[MASKED] == 0
    assert moved[DOCUMENT] > 1e-6


def test_no_gradient_flows_into_the_previous_segment() -> None:
    layer = chain(REMEMBERING)[1]
    assert isinstance(layer, WithMemory)
    older, newer = (paddle.randn([2, 8, 16]) for _ in range(2))
    older.stop_gradient = newer.stop_gradient = False
    layer(older)
    layer(newer).sum().backward()
    assert older.grad is None
    assert float(newer.grad.abs().max()) > 0


def test_each_micro_batch_has_its_own_memory() -> None:
    """Two micro-batches of one row in turn give what each row gives alone."""
    rows = [[some_ids(1, seed=10 * row + segment) for segment in range(2)] for row in range(2)]
    alone = []
    for row in rows:
        model = model_of(REMEMBERING)
        alone.append([model(segment) for segment in row])
    model = model_of(REMEMBERING)
    set_micro_batches(model.chain, 2)
    for segment in range(2):
        for row in range(2):
            assert bool((model(rows[row][segment]) == alone[row][segment]).all())


def test_evaluation_leaves_the_memory_of_training_alone() -> None:
    undisturbed, disturbed = model_of(REMEMBERING), model_of(REMEMBERING)
    for model in (undisturbed, disturbed):
        model(some_ids(1))
    disturbed.eval()
    disturbed(some_ids(1, seed=5))
    disturbed.train()
    assert bool((undisturbed(some_ids(1, seed=6)) == disturbed(some_ids(1, seed=6))).all())


def test_recompute_reads_the_memory_that_the_first_run_read() -> None:
    def gradients(recomputed: bool) -> list[np.ndarray]:
        model = model_of(REMEMBERING)
        if recomputed:
            for element in memories(model.chain):
                apply_policy(element, "full")
        model(some_ids(1))
        loss(model(some_ids(1, seed=2)), some_labels(1)).backward()
        return [parameter.grad.numpy() for parameter in model.parameters()]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_array_equal(plain, again)


@pytest.mark.parametrize("config", [TINY, REMEMBERING], ids=["without memory", "with memory"])
def test_document_nats_do_not_depend_on_how_rows_are_grouped(config: ErnieConfig) -> None:
    model, ids = model_of(config), some_ids(4, config).numpy()
    labels = np.full_like(ids, IGNORED)
    labels[:, DOCUMENT] = some_ids(4, config, seed=1).numpy()[:, DOCUMENT]
    whole, apart = document_nats(model)(ids, labels), document_nats(model)
    assert sum(apart(ids[i : i + 1], labels[i : i + 1]) for i in range(4)) == pytest.approx(whole, rel=1e-5)
    assert model.training


def nats_of_a_key_from_the_segment_before(config: ErnieConfig) -> float:
    """Trains to predict, at the end of a blank segment, the one of 4 keys that filled the segment before."""
    model = model_of(config)
    optimizer = paddle.optimizer.AdamW(5e-3, parameters=model.parameters(), weight_decay=0.0)
    random, blank = np.random.default_rng(0), paddle.zeros([16, 2, 8], dtype="int64")
    nats = []
    for _ in range(120):
        key = random.integers(0, 4, (16, 1, 1))
        labels = np.full((16, 2, 8), IGNORED)
        labels[:, DOCUMENT, -1:] = key[:, 0]
        for element in memories(model.chain):
            element.forget()
        model(paddle.to_tensor(np.broadcast_to(key + 4, (16, 2, 8)).copy()))
        document = 8 * task_losses(model(blank), paddle.to_tensor(labels))[1]
        document.backward()
        optimizer.step()
        optimizer.clear_grad()
        nats.append(float(document))
    return sum(nats[-10:]) / 10


def test_memory_carries_what_the_segment_alone_does_not_show() -> None:
    one_layer = ModuleConfig(layers=1, hidden=16, heads=2, ffn=16)
    wide = dataclasses.replace(
        TINY, universal=ModuleConfig(layers=1, hidden=32, heads=2, ffn=64), nlu=one_layer, nlg=one_layer
    )
    chance = math.log(4)
    assert nats_of_a_key_from_the_segment_before(dataclasses.replace(wide, memory_length=4)) < 0.3 * chance
    assert nats_of_a_key_from_the_segment_before(wide) > 0.9 * chance


def test_split_patterns_name_existing_layers_of_the_right_kind() -> None:
    kinds: dict[str, type[nn.Layer]] = {"column": nn.Linear, "row": nn.Linear}
    for config in (TINY, REMEMBERING):
        found = set()
        for element in chain(config):
            for name, layer in element.named_sublayers():
                for pattern, kind in tensor_split(config).items():
                    if fnmatch.fnmatch(name, pattern):
                        found.add(pattern)
                        assert isinstance(layer, kinds.get(kind, nn.Layer))
        assert found == set(tensor_split(config))


def test_titan_builds_without_weights_in_a_second() -> None:
    start = time.process_time()
    with paddle.LazyGuard():
        elements = chain(preset("ernie-3.0-titan"))
    assert time.process_time() - start < 1.0
    assert len(elements) == 1 + 48 + 1 + 12 + 1


@pytest.mark.parametrize(("index", "width"), [(1, 12288), (49, 12288), (50, 768), (62, 768)])
def test_titans_elements_trace(index: int, width: int) -> None:
    config = preset("ernie-3.0-titan")
    with paddle.LazyGuard():
        element = chain(config)[index]
    spec = paddle.static.InputSpec([2, config.seq_len, width], "float32")
    traced = paddle.jit.to_static(element, input_spec=[spec], full_graph=True).forward.concrete_program
    expected = {49: [2, 512, 768], 62: [1, 2, 512, config.vocabulary]}.get(index, [2, 512, width])
    assert list(traced.outputs[0].shape) == expected
