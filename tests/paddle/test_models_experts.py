"""Mixtures of experts against the dense computation that they stand for, gradients included."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from nebula.errors import BadInput
from nebula.graph.capture import About, capture
from nebula.models.decoder import DecoderModel
from nebula.models.decoders import DECODER_SPLITS, DecoderConfig
from nebula.models.decoders_parts import DENSE
from nebula.models.decoders_parts import Experts as Sizes
from nebula.models.describe import decoder_graph
from nebula.models.experts import GroupedLinear, Mixture, Router
from nebula.models.families import family_of
from nebula.models.objectives import IGNORED, next_token_loss
from nebula.models.presets import trained
from nebula.models.routing import UNBALANCED, Routing
from nebula.runtime.recompute import apply_policy

HIDDEN = 16
SIZES = Sizes(count=6, top_k=2, ffn=8, shared=1)
ROUTINGS = {
    "softmax": Routing(normalised=False),
    "softmax, normalised": Routing(),
    "sigmoid, balanced": Routing(score="sigmoid", speed=0.05),
}
DECODER = DecoderConfig(
    style="llama",
    layers=3,
    hidden=HIDDEN,
    heads=4,
    kv_heads=2,
    ffn=24,
    vocabulary=32,
    seq_len=8,
    fused_attention=False,
    experts=Sizes(count=4, top_k=2, ffn=8, shared=1, dense_layers=1),
)


def mixture(sizes=SIZES, routing=UNBALANCED, seed=1):
    paddle.seed(seed)
    layer = Mixture(HIDDEN, sizes, routing)
    for parameter in layer.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    return layer


def tokens(seed=2):
    paddle.seed(seed)
    return paddle.randn([3, 5, HIDDEN])


def expert(layer, index, x):
    gate, up, down = (part.weight[index] for part in (layer.experts.gate, layer.experts.up, layer.experts.down))
    return (F.silu(x @ gate) * (x @ up)) @ down


def dense(layer, x):
    """Every expert sees every token; a token's chosen ones count."""
    routing, sizes = layer.router.routing, layer.router.sizes
    flat = x.reshape([-1, HIDDEN])
    logits = flat @ layer.router.weight
    scores = F.softmax(logits) if routing.score == "softmax" else F.sigmoid(logits)
    bias = routing.speed * layer.router.balance.astype("float32")
    order = np.argsort(-(scores + bias).numpy(), axis=1)[:, : sizes.top_k]
    chosen = np.zeros(scores.shape, dtype="float32")
    np.put_along_axis(chosen, order, 1.0, axis=1)
    weights = scores * paddle.to_tensor(chosen)
    if routing.normalised:
        weights = weights / weights.sum(axis=1, keepdim=True)
    total = sum(expert(layer, e, flat) * weights[:, e : e + 1] for e in range(sizes.count))
    return (total + layer.shared(flat) if layer.shared is not None else total).reshape(x.shape)


def values_and_gradients(run, layer, x):
    x = x.detach()
    x.stop_gradient = False
    layer.clear_gradients()
    y = run(x)
    (y * paddle.to_tensor(np.random.RandomState(4).randn(*y.shape).astype("float32"))).sum().backward()
    return [y.numpy(), x.grad.numpy(), *(parameter.grad.numpy() for parameter in layer.parameters())]


@pytest.mark.parametrize("name", ROUTINGS)
@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_a_mixture_equals_the_dense_computation(name, top_k):
    layer = mixture(Sizes(count=6, top_k=top_k, ffn=8, shared=1), ROUTINGS[name])
    layer.router.balance.set_value(np.array([3, -2, 0, 1, -4, 2]))
    found, expected = (values_and_gradients(run, layer, tokens()) for run in (layer, lambda x: dense(layer, x)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_every_token_gets_its_experts_and_none_is_dropped():
    layer = mixture()
    layer.router.weight.set_value(np.eye(HIDDEN, 6, dtype="float32") * 50)  # nearly all tokens want the same experts
    layer(tokens())
    assert layer.router.load.sum() == 15 * SIZES.top_k


def test_experts_without_tokens_have_gradients_of_zeros():
    layer = mixture()
    layer.router.balance.set_value(np.array([10**6, 10**6, 0, 0, 0, 0]))
    layer.router.routing = Routing(speed=1.0)
    values_and_gradients(layer, layer, tokens())
    for part in (layer.experts.gate, layer.experts.up, layer.experts.down):
        assert (part.weight.grad[2:] == 0).all()
        assert (part.weight.grad[:2] != 0).any()


def test_a_group_of_experts_without_any_row_still_hands_gradients_on():
    part = GroupedLinear(3, 4, 5)
    x = paddle.zeros([0, 4])
    x.stop_gradient = False
    part(x * 1.0, [0, 0, 0]).sum().backward()
    assert x.grad.shape == [0, 4]
    assert (part.weight.grad == 0).all()


@pytest.mark.parametrize("frozen", ["input", "experts"])
def test_what_is_frozen_needs_no_gradient(frozen):
    layer, x = mixture(), tokens()
    x.stop_gradient = frozen == "input"
    for parameter in layer.experts.parameters():
        parameter.stop_gradient = frozen == "experts"
    layer(x).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert (layer.experts.up.weight.grad is None) == (frozen == "experts")


@pytest.mark.parametrize("again", ["none", "full"])
def test_load_is_counted_once_for_each_micro_batch_of_training(again):
    layer = mixture()
    apply_policy(layer, again)
    for seed in (1, 2):
        x = tokens(seed)
        x.stop_gradient = False
        layer(x).sum().backward()
    layer.eval()
    layer(tokens(3))
    assert layer.router.load.sum() == 2 * 15 * SIZES.top_k


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_small_step_of_the_balance_changes_a_choice_in_reduced_precision_too(dtype):
    router = Router(HIDDEN, SIZES, Routing(score="sigmoid", speed=1e-4))
    scores = paddle.full([1, SIZES.count], 0.75, dtype=dtype)
    for first, second in ((5, 2), (1, 4)):
        moves = {first: 2, second: 1}
        router.balance.set_value(np.array([1000 + moves.get(expert, 0) for expert in range(SIZES.count)]))
        assert router.choice(scores).tolist() == [[first, second]]


def test_the_balance_moves_the_choice_and_not_the_weights():
    layer = mixture(routing=Routing(speed=0.1, normalised=False))
    x = tokens().reshape([-1, HIDDEN])
    _, before = layer.router(x)
    layer.router.move(np.array([9, 0, 9, 9, 9, 9]))
    layer.router.balance.set_value(layer.router.balance * 100)
    weights, after = layer.router(x)
    assert not (before == after).all()
    assert (after == 1).any(axis=1).all()
    scores = F.softmax(x @ layer.router.weight)
    np.testing.assert_allclose(weights, np.take_along_axis(scores.numpy(), after.numpy(), axis=1), rtol=1e-6)


def test_a_router_without_speed_keeps_its_choice():
    router = Router(HIDDEN, SIZES, Routing())
    router.move(np.array([9, 0, 0, 0, 0, 0]))
    assert (router.balance == 0).all()


class SameRouter:
    """Gives Paddle's layer the choices and weights of ours."""

    @staticmethod
    def of(layer):
        from paddle.incubate.distributed.models.moe.gate import NaiveGate

        class Gate(NaiveGate):
            def forward(self, x):
                return layer.router(x)

        return Gate(HIDDEN, SIZES.count, 1, topk=layer.router.sizes.top_k)


class OneExpert(nn.Layer):
    def __init__(self, layer, index):
        super().__init__()
        self.run = lambda x: expert(layer, index, x)

    def forward(self, x):
        return self.run(x)


@pytest.fixture
def on_cpu(monkeypatch):
    """Paddle's wheel has no CPU kernels for two small steps of its layer."""
    from paddle.incubate.distributed.models.moe import utils

    monkeypatch.setattr(utils, "_number_count", lambda gate, n: paddle.bincount(gate.flatten(), minlength=n))
    monkeypatch.setattr(utils, "_assign_pos", lambda gate, _: paddle.argsort(gate.flatten(), stable=True))


@pytest.mark.parametrize("top_k", [1, 2])
def test_paddles_own_layer_gives_a_wrong_gradient_of_tokens_with_two_experts_and_ours_a_right_one(on_cpu, top_k):
    """Its backward overwrites the gradient of a token's first copy by that of the next (paddle 3.3.1)."""
    del on_cpu
    from paddle.incubate.distributed.models.moe import MoELayer

    layer = mixture(Sizes(count=6, top_k=top_k, ffn=8), Routing(normalised=False))
    layer.router.weight.stop_gradient = True
    theirs = MoELayer(
        HIDDEN, nn.LayerList([OneExpert(layer, e) for e in range(SIZES.count)]), gate=SameRouter.of(layer)
    )
    expected, ours, paddles = (
        values_and_gradients(run, layer.experts, tokens())
        for run in (lambda x: dense(layer, x), layer, lambda x: theirs(x * 1.0))
    )
    np.testing.assert_allclose(paddles[0], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-4, atol=1e-5)
    off = np.abs(paddles[1] - expected[1]).max() / np.abs(expected[1]).max()
    assert off > 0.1 if top_k == 2 else off < 1e-5


def test_a_decoder_sees_no_token_ahead():
    paddle.seed(3)
    model = DecoderModel(DECODER)
    ids = np.random.RandomState(0).randint(0, 32, (2, 8))
    changed = ids.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 32
    found, other = (model(paddle.to_tensor(rows)).numpy() for rows in (ids, changed))
    np.testing.assert_allclose(found[:, :5], other[:, :5], rtol=1e-5, atol=1e-6)
    assert np.abs(found[:, 5:] - other[:, 5:]).max() > 1e-3


def test_a_decoder_tells_places_apart():
    paddle.seed(3)
    model = DecoderModel(DECODER)
    for parameter in model.parameters():
        parameter.set_value(parameter + paddle.randn(parameter.shape) * 0.2)
    logits = model(paddle.to_tensor(np.array([[1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 3, 4, 5, 6, 7, 8]])))
    assert float((logits[0, -1] - logits[1, -1]).abs().max()) > 1e-4


def test_a_decoder_with_experts_learns_rows_by_heart():
    paddle.seed(3)
    model = DecoderModel(DECODER, Routing(score="sigmoid", speed=1e-3))
    data = np.random.RandomState(1).randint(0, 32, (4, 9))
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    losses = []
    for _ in range(30):
        value = next_token_loss(model(paddle.to_tensor(data[:, :-1])), paddle.to_tensor(data[:, 1:]))
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]


def test_the_small_decoder_predicts_a_chapter_that_it_has_not_learned_as_badly_as_chance():
    """Its nats are those of the document's labels; at first every token is as likely."""
    config = dataclasses.replace(trained("ernie-4.5-small"), vocabulary=512, seq_len=16)
    family = family_of(config)
    paddle.seed(5)
    model = family.model(config)
    assert model.chain[2].ffn.router.routing.speed > 0
    ids = np.random.RandomState(2).randint(0, 512, (2, 2, 16))
    labels = np.full_like(ids, IGNORED)
    labels[:, 1, :-1] = ids[:, 1, 1:]
    nats = family.document_nats(model)(ids, labels) / (2 * 15)
    assert abs(nats - np.log(512)) < 0.1


def test_a_decoder_has_the_weights_of_its_description():
    """The names are the description's, where layer i of the chain is element i; balance is no weight."""
    graph = decoder_graph("toy", DECODER, "float32")
    described = {
        f"chain.{index}.{tensor.name}": tuple(tensor.shape)
        for index, block in enumerate(graph.layers)
        for tensor in graph.blocks[block].parameters
    }
    found = {name: tuple(parameter.shape) for name, parameter in DecoderModel(DECODER).named_parameters()}
    assert found == described


def test_a_dense_decoder_is_described_as_it_is_traced():
    """But for views."""
    config = dataclasses.replace(trained("ernie-4.5-small"), layers=2, seq_len=16, experts=DENSE)
    described = decoder_graph("toy", config, "float32")
    with paddle.LazyGuard():
        chain = list(DecoderModel(config).chain)
    ids = InputSpec([None, config.seq_len], "int64")
    names = [f"layer.{index}" for index in range(4)]
    about = About(name="toy", layer_names=names, modules=names, tokens_per_row=config.seq_len, splits=DECODER_SPLITS)
    traced = capture(chain, [ids], about, loss=next_token_loss, labels=ids)
    assert traced.parameter_count == described.parameter_count
    for index in range(4):
        found, written = (graph.blocks[graph.layers[index]] for graph in (traced, described))
        counted = [Counter(op.kind for op in block.operators) for block in (found, written)]
        views = {"unsqueeze", "reshape", "squeeze"}
        assert {kind: n for kind, n in counted[0].items() if kind not in views} == {
            kind: n for kind, n in counted[1].items() if kind not in views
        }


def test_what_has_no_layers_is_refused():
    with pytest.raises(BadInput, match="decoder with style gpt"):
        DecoderModel(dataclasses.replace(DECODER, style="gpt"))
    with pytest.raises(BadInput, match="tied weights"):
        DecoderModel(dataclasses.replace(DECODER, tied=True))
