"""Graphs from a Hugging Face config.json: published sizes of each family, rows, and what is said of a wrong file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.errors import BadInput, Suspicious
from nebula.graph.account import active_parameter_count
from nebula.graph.identity import graph_hash
from nebula.models.describe import decoder_graph, graph
from nebula.models.hugging_face import FAMILIES, USUAL_LENGTH, decoder_of, hugging_face_graph

ROOT = Path(__file__).parents[2]


def keys(kind: str, layers: int, hidden: int, heads: tuple[int, int], ffn: int, vocabulary: int, **more: Any) -> dict:
    """What most families have; `heads` are those of queries and of keys."""
    return {
        "architectures": ["SomethingForCausalLM"],
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        **more,
    }


DEEPSEEK_KEYS = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts_per_tok": 8,
}
DEEPSEEK_V3 = keys(
    "deepseek_v3",
    *(61, 7168, (128, 128), 18_432, 129_280),
    n_routed_experts=256,
    n_shared_experts=1,
    moe_intermediate_size=2048,
    first_k_dense_replace=3,
    num_nextn_predict_layers=1,
    quantization_config={"quant_method": "fp8"},
    **DEEPSEEK_KEYS,
)
DEEPSEEK_V2_LITE = keys(
    "deepseek_v2",
    *(27, 2048, (16, 16), 10_944, 102_400),
    n_routed_experts=64,
    n_shared_experts=2,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
    **(DEEPSEEK_KEYS | {"q_lora_rank": None, "num_experts_per_tok": 6}),
)
QWEN3_235B = keys(
    "qwen3_moe",
    *(94, 4096, (64, 4), 12_288, 151_936),
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=1536,
    mlp_only_layers=[],
    use_sliding_window=False,
    sliding_window=None,
)
ERNIE_21B = keys(
    "ernie4_5_moe",
    *(28, 2560, (20, 4), 12_288, 103_424),
    moe_num_experts=64,
    moe_k=6,
    moe_intermediate_size=1536,
    moe_num_shared_experts=2,
    moe_layer_start_index=1,
    moe_layer_end_index=27,
    tie_word_embeddings=True,
)
MIXTRAL = keys("mixtral", 32, 4096, (32, 8), 14_336, 32_000, num_local_experts=8, num_experts_per_tok=2)
LLAMA = keys("llama", 32, 4096, (32, 8), 14_336, 128_256)
QWEN2 = keys("qwen2", 24, 896, (14, 2), 4864, 151_936, tie_word_embeddings=True)
ERNIE_DENSE = keys("ernie4_5", 18, 1024, (16, 2), 3072, 103_424, head_dim=128)
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_embd": 768,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50_257,
    "resid_pdrop": 0.1,
}

PUBLISHED = {
    "llama, Llama 3 8B": (LLAMA, 8_030_261_248),
    "mistral, 7B v0.1": (keys("mistral", 32, 4096, (32, 8), 14_336, 32_000), 7_241_732_096),
    "mixtral, 8x7B": (MIXTRAL, 46_702_792_704),
    "qwen2, Qwen2.5 0.5B": (QWEN2, 494_032_768),
    "qwen3, 8B": (keys("qwen3", 36, 4096, (32, 8), 12_288, 151_936, head_dim=128), 8_190_735_360),
    "gemma, 2B": (
        keys("gemma", 18, 2048, (8, 1), 16_384, 256_000, head_dim=256, hidden_act="gelu_pytorch_tanh"),
        2_506_172_416,
    ),
    "ernie4_5, 0.3B": (ERNIE_DENSE, 360_748_032),
    "gpt2": (GPT2, 124_439_808),
    "deepseek_v2, Lite": (DEEPSEEK_V2_LITE, 15_706_484_224),
}
"""Configs and how many parameters the released weights have."""


def described(config: dict[str, Any], seq_len: int | None = None):
    return decoder_graph("m", decoder_of(config, "config.json", seq_len), "bfloat16")


@pytest.mark.parametrize("case", PUBLISHED)
def test_parameters_are_those_of_the_released_weights(case: str) -> None:
    config, parameters = PUBLISHED[case]
    assert described(config).parameter_count == parameters


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("deepseek-v3", DEEPSEEK_V3),
        ("qwen3-235b-a22b", QWEN3_235B),
        ("ernie-4.5-21b-a3b", ERNIE_21B),
        ("llama3-8b", LLAMA),
    ],
)
def test_a_config_and_the_preset_of_the_same_model_are_one_graph(name: str, config: dict[str, Any], tmp_path) -> None:
    path = tmp_path / name / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config, indent=2))
    assert graph_hash(hugging_face_graph(path, seq_len=4096)) == graph_hash(graph(name, seq_len=4096))


def test_mixtral_has_its_published_active_parameters() -> None:
    """12.9 B (arXiv 2401.04088, section 1)."""
    assert active_parameter_count(described(MIXTRAL)) / 1e9 == pytest.approx(12.9, abs=0.05)


def test_every_family_is_tried_here() -> None:
    tried = [config["model_type"] for config, _ in PUBLISHED.values()]
    tried += [config["model_type"] for config in (DEEPSEEK_V3, QWEN3_235B, ERNIE_21B)]
    assert set(tried) == set(FAMILIES)


def test_rows_have_the_context_up_to_a_usual_length_and_a_warning_tells_when_it_is_longer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert described(LLAMA).tokens_per_row == 4096
        assert described(LLAMA | {"max_position_embeddings": 131_072}, 32_768).tokens_per_row == 32_768
    with pytest.warns(Suspicious, match="131,072 tokens are the longest context.*set model.seq_len"):
        long = described(LLAMA | {"max_position_embeddings": 131_072})
    assert long.tokens_per_row == USUAL_LENGTH


def test_windows_follow_the_layers_that_have_them() -> None:
    config = QWEN2 | {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3}
    widths = [decoder_of(config, "c").window_of(i) for i in range(4)]
    assert widths == [0, 0, 0, 64]
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    assert [decoder_of(config | {"layer_types": kinds}, "c").window_of(i) for i in range(4)] == [64, 0, 64, 0]
    assert decoder_of(config | {"use_sliding_window": False}, "c").window == 0
    assert decoder_of(keys("mistral", 2, 64, (4, 2), 64, 96, sliding_window=None), "c").window == 0


@pytest.mark.parametrize(
    ("config", "changed", "mixed"),
    [
        (QWEN3_235B, {"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [False, True, False, False, False, True]),
        (DEEPSEEK_V3, {"first_k_dense_replace": 1, "moe_layer_freq": 2}, [False, False, True, False, True, False]),
        (DEEPSEEK_V3, {"n_routed_experts": None}, [False] * 6),
        (ERNIE_21B, {"moe_layer_interval": 2, "moe_layer_end_index": 4}, [False, True, False, True, False, False]),
        (ERNIE_21B, {"moe_layer_end_index": -1}, [False, True, True, True, True, True]),
        (MIXTRAL, {}, [True] * 6),
    ],
)
def test_layers_with_experts_are_those_that_the_keys_say(config: dict, changed: dict, mixed: list[bool]) -> None:
    made = decoder_of(config | {"num_hidden_layers": 6} | changed, "c")
    assert [made.has_experts(i) for i in range(6)] == mixed


def test_heads_biases_positions_and_dropout_are_read() -> None:
    assert decoder_of(QWEN3_235B, "c").query_key_norm
    assert decoder_of(QWEN2, "c").biased == ("query key value",)
    assert decoder_of(LLAMA | {"attention_bias": True, "mlp_bias": True}, "c").biased == (
        "query key value",
        "out",
        "ffn",
    )
    assert decoder_of(LLAMA | {"num_key_value_heads": None}, "c").kv_heads == 32
    short = decoder_of(GPT2 | {"resid_pdrop": 0.0, "n_inner": 99}, "c", 128)
    assert (short.positions, short.seq_len, short.dropout, short.ffn) == (1024, 128, 0.0, 99)


@pytest.mark.parametrize(
    ("config", "changed", "said"),
    [
        (LLAMA, {"hidden_size": ...}, "c.json: the key 'hidden_size' is missing; add `hidden_size:"),
        (GPT2, {"n_embd": ...}, "c.json: the key 'n_embd' is missing"),
        (QWEN3_235B, {"num_experts": ...}, "c.json: the key 'num_experts' is missing"),
        (QWEN2, {"num_key_value_heads": ...}, "c.json: the key 'num_key_value_heads' is missing"),
        (DEEPSEEK_V3, {"moe_intermediate_size": ...}, "n_routed_experts is 256 and the key 'moe_intermediate_size'"),
        (LLAMA, {"hidden_size": "wide"}, "c.json: hidden_size must be a whole number, not 'wide'"),
        (LLAMA, {"num_hidden_layers": 0}, "c.json: num_hidden_layers must be at least 1, not 0"),
        (LLAMA, {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        (LLAMA, {"hidden_size": 4097}, "c.json: hidden_size 4097 % num_attention_heads 32 = 1"),
        (GPT2, {"n_embd": 770}, "c.json: n_embd 770 % n_head 12 = 2"),
        (LLAMA, {"num_key_value_heads": 5}, "num_attention_heads 32 % num_key_value_heads 5 = 2"),
        (LLAMA, {"hidden_act": "relu2"}, "c.json: hidden_act 'relu2' is not described.*model.layer"),
        (MIXTRAL, {"hidden_act": "gelu"}, "hidden_act 'gelu' is not described"),
        (GPT2, {"activation_function": "relu"}, "activation_function 'relu' is not described"),
        (MIXTRAL, {"num_experts_per_tok": 9}, "num_experts_per_tok 9 > num_local_experts 8"),
        (DEEPSEEK_V3, {"first_k_dense_replace": 61}, "n_routed_experts is 256, but no layer of 61 has experts"),
        (DEEPSEEK_V3, {"attention_bias": True}, "attention_bias is true"),
        (ERNIE_21B, {"use_bias": True}, "use_bias is true"),
        (QWEN2, {"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types lists 1 layers"),
        (LLAMA, {"model_type": ...}, "the key 'model_type' is missing; known are deepseek_v2, .*model.layer"),
        (LLAMA, {"model_type": "mamba"}, "c.json: model_type 'mamba' is not known; known are .*llama.*model.layer"),
        (LLAMA, {"model_type": ["llama"]}, "model_type a list is not known"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_file_and_key(config: dict, changed: dict, said: str) -> None:
    wrong = {key: value for key, value in (config | changed).items() if value is not ...}
    with pytest.raises(BadInput, match=said):
        decoder_of(wrong, "c.json")


def test_a_row_beyond_the_table_of_positions_is_refused() -> None:
    with pytest.raises(BadInput, match=r"c\.json: seq_len 2048 > 1024 learned positions"):
        decoder_of(GPT2, "c.json", 2048)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{\n "model_type": ,\n}', r"config\.json:2:16: not JSON"),
        (b"[1, 2]", "a config.json is a mapping of keys, not a list"),
        (b"\xff\xfe", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (2**20 + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_json_says_where(content: bytes, said: str, tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        hugging_face_graph(path)


@given(
    kind=st.sampled_from(sorted(FAMILIES)),
    changed=st.dictionaries(
        st.sampled_from(sorted({key for config, _ in PUBLISHED.values() for key in config} | set(QWEN3_235B))),
        st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.text(max_size=3), st.lists(st.integers(0, 3))),
        max_size=4,
    ),
)
def test_whatever_stands_in_a_file_it_is_a_decoder_or_a_sentence(kind: str, changed: dict[str, Any]) -> None:
    known = [DEEPSEEK_V3, QWEN3_235B, ERNIE_21B, *(config for config, _ in PUBLISHED.values())]
    config = next(c for c in known if c["model_type"] == kind)
    try:
        made = decoder_of(config | changed | {"model_type": kind}, "c.json", 64)
    except BadInput as error:
        sentence = str(error)
    else:
        sentence = f"c.json: {made.layers} layers"
    assert sentence.startswith("c.json: ")


def test_a_run_file_names_a_config_beside_it(tmp_path) -> None:
    (tmp_path / "tiny").mkdir()
    config = keys("qwen3_moe", 2, 64, (4, 2), 128, 96, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32)
    (tmp_path / "tiny/config.json").write_text(json.dumps(config))
    cluster = ROOT / "examples/clusters/emulated-4.yaml"
    run = tmp_path / "run.yaml"
    run.write_text(f"model: {{hf: tiny/config.json, seq_len: 32}}\ncluster: {cluster}\njob: {{global_batch: 8}}\n")
    done = CliRunner().invoke(app, ["graph", str(run), "--json"], catch_exceptions=False)
    document = json.loads(done.stdout)
    assert (document["model"], document["tokens_per_row"]) == ("tiny", 32)
    assert document["active_parameters"] < document["parameters"]
    assert "active per token" in CliRunner().invoke(app, ["graph", str(run)]).stdout
    wrong = CliRunner().invoke(app, ["graph", str(run), "model.hf=run.yaml"])
    assert wrong.exit_code == 2
