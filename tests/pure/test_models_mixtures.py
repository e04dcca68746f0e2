"""Decoders with experts by name: published sizes, what a token meets, tied weights, norms of heads, gates."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from nebula.errors import BadInput
from nebula.graph.account import active_parameter_count, parameter_account
from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import with_rows
from nebula.graph.values import DistributedGraph
from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import Experts
from nebula.models.decoders_presets import DECODERS
from nebula.models.describe import decoder_graph, graph, names
from nebula.models.hugging_face import FAMILIES
from nebula.report.graph_table import graph_document, graph_table, headline
from tests.pure.decoder_samples import GROUPED, MIXED

MIXTURES = [name for name, config in DECODERS.items() if config.experts.count]


def described(config: DecoderConfig) -> DistributedGraph:
    return decoder_graph("m", config, "bfloat16")


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [("deepseek-v3", 671, 37), ("qwen3-235b-a22b", 235, 22), ("ernie-4.5-300b-a47b", 300, 47)],
)
def test_total_and_active_parameters_are_the_published_ones(name: str, total: float, active: float) -> None:
    model = graph(name)
    assert model.parameter_count / 1e9 == pytest.approx(total, rel=0.02)
    assert active_parameter_count(model) / 1e9 == pytest.approx(active, rel=0.02)


def test_the_smaller_ernie_has_its_published_digits() -> None:
    """Its name cuts 21.8 and 3.4 billion off; the weights that Baidu released hold 21.8."""
    model = graph("ernie-4.5-21b-a3b")
    assert int(model.parameter_count / 1e9) == 21
    assert model.parameter_count / 1e9 == pytest.approx(21.83, abs=0.02)
    assert int(active_parameter_count(model) / 1e9) == 3


def test_the_made_up_ernie_has_a_trillion_parameters_of_which_few_are_met() -> None:
    model = graph("ernie-5.0-like-1t")
    assert model.parameter_count == pytest.approx(1e12, rel=0.001)
    assert active_parameter_count(model) / model.parameter_count < 0.05


@pytest.mark.parametrize("name", names())
def test_a_graph_is_made_within_a_second_of_processor_time(name: str) -> None:
    began = time.process_time()
    graph(name)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_accounted_apart(name: str) -> None:
    config, model = DECODERS[name], graph(name)
    mixed = sum(config.has_experts(i) for i in range(config.layers))
    account = parameter_account(model)
    assert account["experts"] == mixed * config.experts.count * 3 * config.hidden * config.experts.ffn
    assert sum(account.values()) == model.parameter_count


def test_active_parameters_are_the_same_for_any_rows_and_all_of_a_dense_model() -> None:
    mixed = described(MIXED)
    idle = (8 - 2) * 3 * MIXED.hidden * MIXED.experts.ffn
    assert mixed.parameter_count - active_parameter_count(mixed) == idle
    assert active_parameter_count(with_rows(mixed, 5)) == active_parameter_count(mixed)
    assert active_parameter_count(described(GROUPED)) == described(GROUPED).parameter_count


def test_what_people_read_says_what_a_token_meets_where_that_is_less() -> None:
    mixed, dense = described(MIXED), described(GROUPED)
    assert f"({active_parameter_count(mixed):,} active per token)" in headline(mixed)
    assert graph_document(mixed)["active_parameters"] == active_parameter_count(mixed)
    assert "active" not in headline(dense)


def test_dense_layers_may_stand_anywhere() -> None:
    experts = Experts(count=4, top_k=1, ffn=8, dense_layers=1, dense_also=(2, 4))
    model = described(replace(GROUPED, layers=5, experts=experts))
    kinds = ["".join(op.kind for op in model.block_of(1 + i).operators) for i in range(5)]
    assert ["grouped_matmul" in kind for kind in kinds] == [False, True, False, True, False]


def test_tied_weights_count_once_and_are_multiplied_all_the_same() -> None:
    apart, tied = described(GROUPED), described(replace(GROUPED, tied=True))
    shared = GROUPED.vocabulary * GROUPED.hidden
    assert apart.parameter_count - tied.parameter_count == tied.tied_elements == shared
    assert "head matrices" not in parameter_account(tied)
    assert sum(parameter_account(tied).values()) == tied.parameter_count
    assert (tied.forward_flops, tied.blocks) == (apart.forward_flops, apart.blocks)
    assert f"count once: {shared:,}" in shown(tied)
    assert "count once" not in shown(apart)


def shown(model: DistributedGraph) -> str:
    """The graph as a terminal shows it."""
    console = Console(file=StringIO(), width=200)
    console.print(graph_table(model))
    return console.file.getvalue()


def test_norms_of_heads_are_summed_over_the_ranks_that_share_the_heads() -> None:
    config = replace(GROUPED, query_key_norm=True)
    model = described(config)
    assert model.parameter_count - described(GROUPED).parameter_count == 2 * config.head_dim
    local = tensor_parallel(model.block_of(1), 2, model.splits)
    summed = {name for name, axes in local.gradient_sums if axes == ("tensor",)}
    assert summed == {"attention.query_norm.weight", "attention.key_norm.weight"}


def test_a_gate_with_gelu_has_the_shapes_of_swiglu_and_another_kernel() -> None:
    swish, gelu = (described(replace(GROUPED, style=style)).block_of(1) for style in ("llama", "gemma"))
    assert swish.parameter_count == gelu.parameter_count
    kinds = [{op.kind for op in block.operators} for block in (swish, gelu)]
    assert "swiglu" in kinds[0]
    assert {"gelu", "multiply"} <= kinds[1]
    assert "swiglu" not in kinds[1]


def test_biases_are_added_where_they_are_asked_for() -> None:
    plain = described(GROUPED).parameter_count
    added = {
        part: described(replace(GROUPED, biased=(part,))).parameter_count - plain
        for part in ("query key value", "out", "ffn")
    }
    width, hidden, ffn = GROUPED.head_dim, GROUPED.hidden, GROUPED.ffn
    assert added == {"query key value": (4 + 2 * 2) * width, "out": hidden, "ffn": 2 * ffn + hidden}


def test_a_row_longer_than_the_table_of_positions_is_refused() -> None:
    table = replace(GROUPED, style="gpt", positions=64)
    count = described(table).parameter_count - described(replace(table, positions=0)).parameter_count
    assert count == (64 - GROUPED.seq_len) * GROUPED.hidden
    with pytest.raises(BadInput, match="seq_len 65 > 64 learned positions"):
        replace(table, seq_len=65)


def test_the_page_on_models_tells_of_every_preset_what_its_graph_has() -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d.]+) \| ([\d.]+) \| (\d+) \|", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(names())
    for name, parameters, active, tokens in rows:
        model = graph(name)
        assert model.parameter_count / 1e9 == pytest.approx(float(parameters), rel=1e-3, abs=1e-4), name
        assert active_parameter_count(model) / 1e9 == pytest.approx(float(active), rel=1e-3, abs=1e-4), name
        assert model.tokens_per_row == int(tokens), name


def test_the_page_on_models_lists_every_family() -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    table = page[page.index("| `model_type` |") :].split("\n\n")[0]
    named = {kind for row in table.splitlines()[2:] for kind in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(FAMILIES)
