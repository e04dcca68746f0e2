"""Models that know nothing of Nebula, on one process: which chain and which table is found, and what is refused."""

import sys
from pathlib import Path

import paddle
import pytest
from paddle import nn

from nebula.errors import BadInput
from nebula.graph.found_splits import splits_of
from nebula.runtime import chain
from nebula.runtime.parallelize import in_runs, parallelize
from nebula.runtime.serial import serial_plan
from nebula.runtime.tensor import Cut, Member, cut_element
from nebula.runtime.vocabulary_table import check_product

sys.path.insert(0, str(Path(__file__).parent.parent / "emulated"))
import own_models
import toy_plans


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")


def through(elements, x):
    for element in elements:
        x = element(x)
    return x


def test_the_chain_of_a_causal_model_computes_what_the_model_does_at_every_shape():
    model = own_models.CausalModel()
    elements = chain.elements(model)
    assert len(elements) == own_models.BLOCKS + 3
    for rows, length in ((2, 8), (3, 5), (2, 8)):
        ids = paddle.randint(0, own_models.VOCABULARY, [rows, length])
        assert bool((through(elements, ids) == model(ids)).all())
    assert bool((through(elements, {"input_ids": ids}) == model(ids)).all())


def test_the_chain_holds_every_weight_once_and_leaves_the_model_as_it_was():
    model = own_models.CausalModel()
    names = [name for name, _ in model.named_parameters()]
    elements = chain.elements(model)
    through(elements, paddle.zeros([1, 4], "int64"))
    held = [id(p) for element in elements for p in element.parameters()]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert [name for name, _ in model.named_parameters()] == names
    assert len(model.model.layers) == own_models.BLOCKS


def test_inputs_that_the_chain_of_a_causal_model_does_not_read_are_refused():
    elements = chain.elements(own_models.CausalModel())
    ids = paddle.zeros([1, 4], "int64")
    with pytest.raises(BadInput, match="token ids alone, not input_ids, attention_mask; for more give `chain`"):
        through(elements, {"input_ids": ids, "attention_mask": ids})


def test_a_base_model_that_does_not_run_its_list_is_refused():
    model = own_models.CausalModel()
    model.model.forward = lambda ids=None, inputs_embeds=None, use_cache=True: inputs_embeds
    with pytest.raises(BadInput, match="Decoder does not run its `layers`; say how it is cut with `chain`"):
        through(chain.elements(model), paddle.zeros([1, 4], "int64"))
    with pytest.raises(BadInput, match="say how it is cut with `chain`"):
        chain.check_found(model)


class Unlike(own_models.Decoder):
    """Does what some families do around their layers: `does` says what."""

    def __init__(self, does):
        super().__init__(own_models.FeedForward)
        self.does, self.dropout = does, nn.Dropout(0.5)

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=True):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.does == "scales" or (self.does == "scales tokens" and inputs_embeds is None):
            x = own_models.WIDTH**0.5 * x
        x = self.dropout(x) if self.does == "drops out" else x
        positions, embedded = self.rotary_emb(x.shape[1]), x
        for index, layer in enumerate(self.layers):
            if (self.does, index) == ("skips", 2):
                continue
            mask = paddle.triu(paddle.full([x.shape[1], x.shape[1]], -1e9), 1)
            if self.does == "windows" and index != 1:  # four tokens back
                mask = mask + paddle.tril(paddle.full([x.shape[1], x.shape[1]], -1e9), -4)
            if self.does == "looks back":
                positions = positions + embedded.mean()
            x = layer(x, attention_mask=mask, position_embeddings=positions, use_cache=use_cache)[0]
            x = x + embedded if self.does == "adds" else x
        return x if self.does == "ends" else self.norm(x)


class Capped(own_models.CausalModel):
    def forward(self, input_ids):
        return 30 * paddle.tanh(super().forward(input_ids) / 30)


class Tuple(own_models.CausalModel):
    """Returns what else there is beside the logits, in fp32."""

    def forward(self, input_ids):
        return super().forward(input_ids).astype("float32"), None


def unlike(does):
    model = own_models.CausalModel()
    model.model = Unlike(does)
    return model


def trained(model):
    optimizer = own_models.optimizer_of(model, 1e-2)
    return parallelize(model, optimizer, own_models.loss, serial_plan())


@pytest.mark.parametrize("length", [3, 8])
def test_masks_that_differ_from_layer_to_layer_are_carried(length):
    model = unlike("windows")
    ids = paddle.randint(0, own_models.VOCABULARY, [2, length])
    wanted = model(ids)
    elements = trained(model).part.elements
    assert bool((through(elements, ids) == wanted).all())
    plain = own_models.CausalModel()
    plain.set_state_dict(model.state_dict())
    assert bool((plain(ids) == wanted).all()) == (length <= 4)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("scales", "Unlike changes hidden states before its first layer"),
        ("scales tokens", "Unlike changes hidden states before its first layer"),
        ("drops out", "Unlike changes hidden states before its first layer"),
        ("adds", "Unlike changes hidden states between its layers 0 and 1"),
        ("skips", "Unlike runs 2 of its 3 layers"),
        ("ends", "Unlike does not call its norm"),
    ],
)
def test_a_base_model_that_does_more_than_its_layers_is_refused(does, words):
    with pytest.raises(BadInput, match=f"{words}.*; say how it is cut with `chain`"):
        trained(unlike(does))
    model = unlike(does)  # nothing is asked of a chain that is given
    assert parallelize(
        model, own_models.optimizer_of(model, 1e-2), own_models.loss, serial_plan(), chain=lambda model: [model]
    )


def test_a_layer_that_gets_what_hidden_states_make_is_refused():
    step = trained(unlike("looks back"))
    with pytest.raises(BadInput, match="Unlike gives its layer 0 a tensor that is made of hidden states"):
        step(own_models.tokens(0))


def test_logits_that_are_changed_behind_the_head_are_refused():
    with pytest.raises(BadInput, match=r"Capped changes logits behind its lm_head \(scales, caps or drops some\)"):
        trained(Capped())
    assert trained(Tuple())(own_models.tokens(0)).loss > 0


@pytest.mark.parametrize("form", [lambda x: (x,), lambda x: (x, None)])
def test_looking_at_a_model_leaves_it_as_it_was(form):
    model = own_models.CausalModel()
    for layer in model.model.layers:
        layer.forward = lambda *given, own=layer.forward, **named: form(own(*given, **named)[0])
    ids = paddle.randint(0, own_models.VOCABULARY, [2, 5])
    wanted, state = model(ids), paddle.get_rng_state()[0].__getstate__()
    chain.check_found(model)
    assert bool((model(ids) == wanted).all())
    assert paddle.get_rng_state()[0].__getstate__() == state


def test_a_chain_that_is_given_keeps_the_names_of_the_model():
    model = own_models.Classifier()
    names = [name for name, _ in model.named_parameters()]
    optimizer = own_models.optimizer_of(model, 1e-2)
    step = parallelize(model, optimizer, own_models.loss, serial_plan(), chain=own_models.classifier_chain)
    assert len(step.part.elements) == own_models.BLOCKS + 2
    assert set(step.part.weights) == set(names)
    assert step(own_models.tokens(0)).loss > 0


def test_buffers_behind_a_chain_that_is_given_keep_the_names_of_the_model():
    model = own_models.Classifier()
    model.classes.register_buffer("seen", paddle.zeros([1]))
    model.encoder.layers[0].norm1.register_buffer("passing", paddle.zeros([1]), persistable=False)
    optimizer = own_models.optimizer_of(model, 1e-2)
    step = parallelize(model, optimizer, own_models.loss, serial_plan(), chain=own_models.classifier_chain)
    assert set(step.part.buffers) == {"classes.seen"}


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_a_sequential_with_a_forward_of_its_own_is_no_list_of_layers():
    model = Residual(nn.Linear(4, 4), nn.Tanh())
    assert chain.elements(model) == [model]
    assert len(chain.elements(nn.Sequential(model, nn.Linear(4, 4)))) == 2
    assert len(chain.elements(nn.LayerList([model, model]))) == 2
    optimizer = paddle.optimizer.SGD(0.0, parameters=model.parameters())
    step, x = parallelize(model, optimizer, nn.MSELoss(), serial_plan()), paddle.randn([2, 4])
    wanted = float(nn.MSELoss()(model(x), x))
    assert step((x, x)).loss == wanted


class Temperature(nn.Layer):
    """A loss with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.factor = self.create_parameter([1])

    def forward(self, outputs, labels):
        return (self.factor * outputs - labels).square().mean()


def test_a_weight_of_the_loss_that_nothing_would_train_is_refused():
    model, loss = nn.Sequential(nn.Linear(4, 4)), Temperature()
    both = paddle.optimizer.SGD(0.1, parameters=[*model.parameters(), *loss.parameters()])
    with pytest.raises(BadInput, match=r"the optimizer has .*, which no element of the model's chain holds"):
        parallelize(model, both, loss, serial_plan())


def test_weights_that_a_chain_leaves_out_or_makes_itself_are_refused():
    def without_norm(model):
        return own_models.classifier_chain(model)[:2]

    def with_more(model):
        return [*own_models.classifier_chain(model), nn.Linear(own_models.VOCABULARY, own_models.VOCABULARY)]

    for cut, words in (
        (without_norm, r"the optimizer has encoder\.layers\.1\..*, which no element of the model's chain holds"),
        (with_more, "is a weight of the chain and not of the model"),
    ):
        model = own_models.Classifier()
        optimizer = own_models.optimizer_of(model, 1e-2)
        with pytest.raises(BadInput, match=words):
            parallelize(model, optimizer, own_models.loss, serial_plan(), chain=cut)
    model = own_models.Classifier()
    optimizer = own_models.optimizer_of(model.tokens, 1e-2)
    assert parallelize(model, optimizer, own_models.loss, serial_plan(), chain=without_norm)


def test_the_executor_leaves_halves_whole_where_it_has_tensor_groups():
    model = own_models.FusedModel()
    ring = toy_plans.named("context 2 by ring")
    assert in_runs(model.tensor_split, model, toy_plans.named("pipeline, zb-h1")) == model.tensor_split
    assert in_runs(model.tensor_split, model, ring) == model.tensor_split
    assert set(in_runs(model.tensor_split, model, toy_plans.named("tensor 2, then rows 1 : 3"))) == {
        "*[qkv]_proj",
        "*o_proj",
        "*self_attn",
    }


def test_a_table_of_the_model_wins_and_an_embedding_with_padding_stays_whole():
    model = own_models.CausalModel()
    assert splits_of(model)["*embed_tokens"] == "vocabulary"
    model.model.embed_tokens = nn.Embedding(own_models.VOCABULARY, own_models.WIDTH, padding_idx=0)
    assert "*embed_tokens" not in splits_of(model)
    model.tensor_split = {"*o_proj": "row"}
    assert splits_of(model) == {"*o_proj": "row"}


def test_heads_that_do_not_divide_are_refused_with_the_equation():
    model = own_models.CausalModel()
    layer = chain.elements(model)[1]
    with pytest.raises(BadInput, match=r"layer\.self_attn: 2 num_key_value_heads % tensor 4 = 2, not 0"):
        cut_element(layer, splits_of(model), Member(degree=4, rank=0), gather=True, cut=Cut())


class Head(nn.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.weight, self.bias = self.create_parameter([8, 4]), self.create_parameter([8], is_bias=True)

    def forward(self, hidden):
        return self.factor * (paddle.matmul(hidden, self.weight, transpose_y=True) + self.bias)


def test_a_head_that_does_more_than_multiply_is_not_cut():
    check_product(Head(1.0), "lm_head")
    with pytest.raises(BadInput, match="lm_head: Head cannot be cut by 'vocabulary': it does more than multiply"):
        check_product(Head(0.5), "lm_head")
    with pytest.raises(BadInput, match=r"norm: LayerNorm cannot be cut .* no weight \[vocabulary, width\]"):
        check_product(nn.LayerNorm(4), "norm")
