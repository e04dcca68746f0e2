"""Tables of splits found from names: what is known is cut, what could be cut wrongly is left whole."""

from nebula.graph.found_splits import found_splits

ERNIE = "paddleformers.transformers.ernie4_5.modeling."


def classes(holder: str, of: str, parts: str) -> dict[str, str]:
    return {holder: of} | {f"{holder}.{part}": "Linear" for part in parts.split()}


def test_a_decoder_layer_is_cut_wherever_it_lies():
    paths = classes("model.layers.0.self_attn", "LlamaAttention", "q_proj k_proj v_proj o_proj")
    paths |= classes("model.layers.0.mlp", "LlamaMLP", "gate_proj up_proj down_proj")
    assert found_splits(paths | {"model.embed_tokens": "Embedding", "lm_head": "Linear"}) == {
        "*self_attn.q_proj": "column",
        "*self_attn.k_proj": "column",
        "*self_attn.v_proj": "column",
        "*self_attn.o_proj": "row",
        "*self_attn": "counts",
        "*mlp.gate_proj": "column",
        "*mlp.up_proj": "column",
        "*mlp.down_proj": "row",
        "*embed_tokens": "vocabulary",
        "*lm_head": "vocabulary",
    }


def test_an_encoder_layer_of_paddle_is_cut_in_a_numbered_list():
    paths = classes("encoder.layers.0", "paddle.nn.layer.transformer.TransformerEncoderLayer", "linear1 linear2")
    paths |= classes("encoder.layers.0.self_attn", "MultiHeadAttention", "q_proj k_proj v_proj out_proj")
    table = found_splits(paths)
    assert table["*linear1"] == "column"
    assert table["*linear2"] == table["*self_attn.out_proj"] == "row"


def test_a_fused_matrix_is_cut_only_where_the_order_of_heads_is_known():
    assert (
        found_splits(classes("attention", ERNIE + "Ernie4_5Attention", "qkv_proj o_proj"))["*attention.qkv_proj"]
        == "column"
    )
    assert found_splits(classes("attention", "my.Ernie4_5Attention", "qkv_proj o_proj")) == {}


def test_two_matrices_in_one_are_cut_by_halves_where_they_lie_side_by_side():
    assert found_splits(classes("mlp", "paddleformers.nn.mlp.MLP", "up_gate_proj down_proj")) == {
        "*mlp.up_gate_proj": "halves",
        "*mlp.down_proj": "row",
    }
    assert found_splits(classes("mlp", "my.MLP", "up_gate_proj down_proj")) == {}


def test_linears_called_like_those_of_a_transformer_stay_whole_elsewhere():
    assert found_splits(classes("block", "ResidualBlock", "linear1 linear2")) == {}


def test_half_a_group_is_none():
    assert found_splits(classes("mlp", "MLP", "gate_proj up_proj")) == {}
    assert found_splits(classes("attention", "Attention", "q_proj k_proj v_proj")) == {}


def test_ends_that_share_their_table_or_stand_alone_stay_whole():
    ends = {"embed_tokens": "Embedding", "lm_head": "Linear"}
    assert found_splits(ends) == {}
    paths = classes("mlp", "MLP", "gate_proj up_proj down_proj") | ends
    assert "*lm_head" in found_splits(paths)
    assert "*lm_head" not in found_splits(paths, tied=True)
