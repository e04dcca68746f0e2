"""Which elements of a chain a rank runs on its share of the sequence, and how positions are dealt."""

from dataclasses import replace
from types import SimpleNamespace

import paddle
import pytest
from paddle import nn

from nebula.errors import BadInput
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.decoder import DecoderModel
from nebula.models.decoders import DecoderConfig
from nebula.models.ernie import chain
from nebula.models.splits import ERNIE_SPLITS
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Stage
from nebula.runtime.attention import share_attention
from nebula.runtime.checkpoints import split_of
from nebula.runtime.executor.positions import Positions
from nebula.runtime.parts import part_of
from nebula.runtime.random_state import draw_apart
from nebula.runtime.recompute import apply_policy
from nebula.runtime.resume import _seed
from nebula.runtime.sequence import Deal
from nebula.runtime.shares import GATHERING, SHARED, WHOLE, runs
from nebula.runtime.tensor import Cut, Member, cut_element

SPLITS = dict(ERNIE_SPLITS)


def ernie(task_heads=4, **more):
    task = ModuleConfig(layers=1, hidden=24, heads=task_heads, ffn=32)
    universal = ModuleConfig(layers=1, hidden=32, heads=4, ffn=64)
    return chain(ErnieConfig(universal=universal, nlu=task, nlg=task, vocabulary=64, seq_len=8, **more))


def test_an_ernie_runs_on_shares_and_gathers_for_its_logits():
    assert runs(ernie(), SPLITS, 2) == (SHARED, SHARED, SHARED, SHARED, GATHERING)
    assert set(runs(ernie(), SPLITS, 1)) == {WHOLE}


def test_a_module_whose_heads_do_not_divide_runs_whole():
    assert runs(ernie(task_heads=3), SPLITS, 2) == (SHARED, SHARED, SHARED, WHOLE, GATHERING)


def test_a_layer_with_memory_runs_whole():
    assert runs(ernie(memory_length=4), SPLITS, 2) == (SHARED, WHOLE, SHARED, WHOLE, GATHERING)


@pytest.mark.parametrize("left_out", ["tokens", "*attention.qkv", "*attention.out"])
def test_what_a_table_leaves_whole_is_run_whole(left_out):
    """Without its qkv cut an attention would see its own tokens alone, an embedding without a cut return all."""
    table = {pattern: kind for pattern, kind in SPLITS.items() if pattern != left_out}
    found = runs(ernie(), table, 2)
    assert found[0 if left_out == "tokens" else 1] is WHOLE


def test_an_element_that_says_nothing_runs_whole_and_so_does_what_holds_its_weights():
    class Element(nn.Layer):
        def __init__(self, inner):
            super().__init__()
            self.norm = inner

    norm = nn.LayerNorm(4)
    silent, speaking, alone = Element(norm), Element(norm), Element(nn.LayerNorm(4))
    speaking.token_wise = alone.token_wise = True
    assert runs([silent, speaking, alone], {}, 2) == (WHOLE, WHOLE, SHARED)


def sharing_plan(exchange, layers):
    """Of two ranks that share the sequence."""
    replica = Replica(ranks=(0, 1), tensor_shares=(1, 1), micro_batch_rows=1)
    return Plan(
        stages=(Stage(layers=(0, layers), replicas=(replica,), context=2, exchange=exchange),),
        micro_batches=1,
        schedule="1f1b",
        engine="executor",
        ranks=(RankPlace("n/0", 0), RankPlace("n/0", 1)),
        job=Job(global_batch=1),
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
    )


def sharing(exchange, elements):
    """What rank 1 of 2 that share the sequence holds."""
    plan = sharing_plan(exchange, len(elements))
    pair = Member(degree=2, rank=1, group=SimpleNamespace(nranks=2, rank=1))
    return part_of(nn.Sequential(*elements), nn.functional.mse_loss, SPLITS, plan, [0], Member(degree=1, rank=0), pair)


def test_ulysses_cuts_tables_of_heads_over_the_ranks_that_share_the_sequence_and_a_ring_does_not():
    for exchange, heads in (("ulysses", 2), ("ring", 4)):
        weights = sharing(exchange, ernie())[0].weights
        assert weights["1.attention.bias.weight"].shape[0] == heads
        assert weights["1.attention.qkv.weight"].shape == [32, 96]


def test_ulysses_refuses_heads_that_do_not_divide():
    with pytest.raises(BadInput, match=r"3.nlu.attention.bias.weight: 3 heads % \(tensor 1 × context 2\) = 1, not 0"):
        sharing("ulysses", ernie(task_heads=3))
    assert sharing("gather", ernie(task_heads=3))


def decoder(**more):
    sizes = {"layers": 1, "hidden": 32, "heads": 8, "kv_heads": 2, "ffn": 32, "vocabulary": 64, "seq_len": 8} | more
    return DecoderModel(DecoderConfig(style="llama", **sizes))


def test_a_tensor_degree_that_cuts_through_a_key_head_is_refused_before_anything_is_cut():
    """Its width of 8 divides by 4, its 2 heads do not."""
    layer, cut = decoder().chain[1], Cut()
    with pytest.raises(
        BadInput, match=r"attention: 2 num_key_value_heads % tensor 4 = 2, not 0; choose another tensor"
    ):
        cut_element(layer, DecoderModel.tensor_split, Member(degree=4, rank=0), gather=True, cut=cut)
    assert cut.replaced == {}


def test_ulysses_refuses_counted_heads_that_do_not_divide_before_the_first_step():
    plan = sharing_plan("ulysses", 3)
    pair = Member(degree=2, rank=1, group=SimpleNamespace(nranks=2, rank=1))
    args = (nn.functional.mse_loss, DecoderModel.tensor_split, plan, [0], Member(degree=1, rank=0), pair)
    assert part_of(decoder(), *args)
    with pytest.raises(BadInput, match=r"chain.1.attention: 1 num_key_value_heads % \(tensor 1 × context 2\) = 1"):
        part_of(decoder(kv_heads=1), *args)


def test_a_layer_that_remembers_earlier_segments_shares_no_sequence():
    with pytest.raises(
        BadInput, match=r"context 2: 1 \(WithMemory\) does not say that it works on each token by itself"
    ):
        sharing("ring", ernie(memory_length=4))


def test_a_ring_needs_scores():
    class Mixing(nn.Layer):
        mixes_tokens = ("attend",)

    deal = Deal(group=SimpleNamespace(nranks=2, rank=0))
    with pytest.raises(BadInput, match=r"by ring: Mixing.attend names no method that scores a run of queries"):
        share_attention(Mixing(), "ring", deal)


class Dropping(nn.Layer):
    """Attention that may drop its weights, or what it returns."""

    mixes_tokens = {"attend": "scores"}

    def __init__(self, p, behind, mask):
        super().__init__()
        self.p, self.mask = p, mask
        self.dropout = nn.Dropout(behind)

    def forward(self, x):
        return self.dropout(self.attend(x, x, x, self.mask))

    def attend(self, query, key, value, mask):
        every = range(query.shape[1])
        weights = nn.functional.softmax(self.scores(query, key, mask, queries=every, keys=every))
        weights = nn.functional.dropout(weights, self.p, training=self.training)
        return paddle.matmul(weights, value.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3]).flatten(2)

    def scores(self, query, key, mask, *, queries, keys):
        query, key = (t.transpose([0, 2, 1, 3]) for t in (query, key))
        seen = mask[queries.start : queries.stop, keys.start : keys.stop]
        return paddle.matmul(query, key, transpose_y=True) + seen


def dropping(way, p=0.0, behind=0.0, length=8, kind=Dropping):
    layer = kind(p, behind, paddle.zeros([length, length]))
    alone = SimpleNamespace(nranks=1, rank=0, ranks=[0])
    share_attention(layer, way, Deal(group=alone, mirrored=way == "ring"))
    return layer


@pytest.mark.parametrize("way", ["ring", "gather"])
@pytest.mark.parametrize("length", [2, 8])
def test_dropout_of_attention_weights_is_refused_where_it_would_be_left_out(way, length):
    with pytest.raises(
        BadInput,
        match=f"by {way}: Dropping.attend draws random numbers .* set `exchange` of the plan's stages to ulysses",
    ):
        dropping(way, p=1e-3, length=length)(paddle.randn([2, length, 2, 4]))


def test_other_dropout_is_let_through_and_the_random_numbers_stay_the_same():
    x = paddle.randn([2, 8, 2, 4])
    layer = dropping("ring", p=1e-3)
    layer.eval()
    layer(x)
    layer = dropping("ring", behind=0.5)
    paddle.seed(5)
    wanted = paddle.rand([3]).tolist()
    paddle.seed(5)
    layer.attend(x, x, x, layer.mask)
    assert paddle.rand([3]).tolist() == wanted
    assert int((layer(x) == 0).sum()) > 0


def test_a_method_that_cannot_be_tried_is_judged_by_its_layer():
    layer = Dropping(0.0, 0.5, None)
    alone = SimpleNamespace(nranks=1, rank=0, ranks=[0])
    share_attention(layer, "gather", Deal(group=alone))
    with pytest.raises(BadInput, match="attend cannot be tried by itself, and its layer has a dropout"):
        layer(paddle.randn([2, 8, 2, 4]))


class Gated(Dropping):
    def attend(self, query, key, value, mask):
        return 0.9 * super().attend(query, key, value, mask)


class Hiding(Dropping):
    """Hides the past in the method alone."""

    def attend(self, query, key, value, mask):
        return super().attend(query, key, value, mask + paddle.tril(paddle.full(mask.shape, -1e9), -1))


@pytest.mark.parametrize("way", ["ring", "gather"])
@pytest.mark.parametrize("kind", [Gated, Hiding])
def test_attention_that_is_no_softmax_of_its_scores_is_refused(way, kind):
    with pytest.raises(BadInput, match=f"by {way}: {kind.__name__}.attend does more than weigh values by the softmax"):
        dropping(way, kind=kind)(paddle.randn([2, 8, 2, 4]))


@pytest.mark.parametrize("attention", [lambda: decoder().chain[1].attention, lambda: ernie()[1].attention])
def test_our_own_attention_is_a_softmax_of_its_scores(attention):
    layer = attention()
    alone = SimpleNamespace(nranks=1, rank=0, ranks=[0])
    x = paddle.randn([2, 8, 32])
    wanted = layer(x)
    share_attention(layer, "ring", Deal(group=alone, mirrored=True))
    assert paddle.allclose(layer(x), wanted, atol=1e-6)


def test_what_runs_on_shares_draws_apart_and_as_before_when_it_is_computed_again():
    def dropped(seed, policy="none"):
        """What an element with dropout keeps, its gradient, and what is drawn of the common numbers afterwards."""
        paddle.seed(3)
        element = nn.Sequential(nn.Dropout(0.5))
        draw_apart([element], seed)
        apply_policy(element, policy)
        x = paddle.ones([64])
        x.stop_gradient = False
        y = element(x)
        common = paddle.rand([4]).tolist()
        y.sum().backward()
        return y.tolist(), x.grad.tolist(), common

    one, other, again = dropped(1), dropped(2), dropped(1, "full")
    assert one[0] == one[1] == again[0] == again[1] != other[0]
    assert one[2] == other[2] == again[2]


def test_a_plan_that_shares_the_sequence_of_tensor_groups_is_another_split():
    """Its ranks have numbers of their own, which those of the other never drew."""
    replica = Replica(ranks=(0, 1), tensor_shares=(1, 1), micro_batch_rows=1)
    plan = Plan(
        stages=(Stage(layers=(0, 1), replicas=(replica,)),),
        micro_batches=1,
        schedule="1f1b",
        engine="fleet",
        ranks=(RankPlace("n/0", 0), RankPlace("n/0", 1)),
        job=Job(global_batch=1),
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
    )
    assert split_of(plan) != split_of(replace(plan, sequence_parallel=True))


def test_ranks_that_share_a_sequence_draw_apart_when_another_split_goes_on():
    def seed(place):
        where = SimpleNamespace(rows=(0, 1), stage=0, tensor=place)
        return _seed(SimpleNamespace(place=where, part=SimpleNamespace(member=Member(degree=2, rank=place % 2))), 4)

    assert seed(0) == seed(1) != seed(2) == seed(3)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_position_is_dealt_once_and_mirrored_ones_make_equal_work(ranks, mirrored):
    length = 4
    deals = [Deal(group=SimpleNamespace(nranks=ranks, rank=rank), mirrored=mirrored) for rank in range(ranks)]
    whole = paddle.arange(ranks * length).reshape([1, -1, 1])
    own = [[int(i) for i in deal.own(whole, -2).flatten()] for deal in deals]
    assert own == [[i for run in deal.positions(length, rank) for i in run] for rank, deal in enumerate(deals)]
    assert sorted(i for share in own for i in share) == list(range(ranks * length))
    if mirrored:
        assert len({sum(share) for share in own}) == 1


def second_half(*inputs):
    """What the second of two ranks has of the inputs of a batch of 3 rows of 8 positions."""
    deal = Deal(group=SimpleNamespace(nranks=2, rank=1))
    return Positions(plan=None, runs=(), tensor=None, context=deal).of_batch(inputs)


IDS = paddle.arange(24).reshape([3, 8])


def test_of_a_batch_what_belongs_to_tokens_is_cut_and_masks_and_facts_of_rows_are_whole():
    weights, mask = paddle.rand([3, 8]), paddle.rand([3, 1, 8, 8])
    features, lengths = paddle.rand([3, 8, 5]), paddle.to_tensor([8, 7, 6])
    ids, cut, seen, hidden, rows, facts = second_half(IDS, weights, mask > 0.5, features, lengths, paddle.ones([3, 2]))
    assert (ids == IDS[:, 4:]).all()
    assert (cut == weights[:, 4:]).all()
    assert seen.shape == [3, 1, 8, 8]
    assert second_half(IDS, mask)[1] is mask
    assert (hidden == features[:, 4:]).all()
    assert rows is lengths
    assert facts.shape == [3, 2]


def test_the_first_input_may_be_several_sequences_or_numbers_and_others_go_with_it():
    pairs = paddle.arange(48).reshape([3, 2, 8])
    ids, positions = second_half(pairs, pairs + 1)
    assert (ids == pairs[..., 4:]).all()
    assert (positions == pairs[..., 4:] + 1).all()
    features = paddle.rand([3, 8, 8])
    assert (second_half(features)[0] == features[:, 4:]).all()
    assert second_half(features, IDS)[1].shape == [3, 4]


@pytest.mark.parametrize(
    "odd", [paddle.zeros([3, 1, 8], "int64"), paddle.ones([3, 1, 1, 8]) > 0, paddle.ones([3, 2, 8])]
)
def test_an_input_that_may_be_a_mask_is_refused(odd):
    with pytest.raises(BadInput, match=r"shape \[3, .*8\]: it cannot be told .* a mask as \[rows, 1, 8, 8\], or make"):
        second_half(IDS, odd)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (paddle.zeros([3]), r"\[3\] without positions"),
        (paddle.zeros([3, 1, 8, 8]), r"\[3, 1, 8, 8\] like a mask"),
        (paddle.zeros([3, 8]) > 0, r"\[3, 8\] like a mask"),
    ],
)
def test_a_batch_begins_with_what_has_positions(odd, words):
    with pytest.raises(BadInput, match=f"first input of the batch, {words}, .* begin with the ids"):
        second_half(odd, IDS)


def test_a_sequence_that_does_not_divide_is_refused_with_its_numbers():
    deal = Deal(group=SimpleNamespace(nranks=2, rank=0), mirrored=True)
    with pytest.raises(
        BadInput, match=r"into 4 equal parts: 6 positions % 4 = 2, not 0, two runs for each rank of a ring"
    ):
        deal.own(paddle.zeros([1, 6, 8]), -2)
    with pytest.raises(BadInput, match=r"shape \[8\] cannot be cut along its sequence \(dim -2\)"):
        deal.own(paddle.zeros([8]), -2)
