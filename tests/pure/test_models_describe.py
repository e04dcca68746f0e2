"""The built-in models without Paddle: their parameters, FLOPs and what the user is told of a wrong name."""

from __future__ import annotations

import pytest

from nebula.errors import BadInput
from nebula.graph.account import active_parameter_count, parameter_account
from nebula.graph.values import Kernel
from nebula.models.counts import parameter_total
from nebula.models.describe import graph, names
from nebula.models.presets import PRESETS


def test_titan_has_exactly_the_published_matrices() -> None:
    account = parameter_account(graph("ernie-3.0-titan"))
    assert account["universal matrices"] == 260_919_263_232
    assert set(account) == {
        "universal matrices",
        "embeddings",
        "task matrices",
        "head matrices",
        "task entry matrices",
        "biases",
        "norms",
        "positions",
    }


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_described_parameters_are_those_counted_in_closed_form(name: str) -> None:
    described = graph(name)
    assert described.parameter_count == parameter_total(PRESETS[name])
    assert sum(parameter_account(described).values()) == described.parameter_count


@pytest.mark.parametrize(
    ("name", "billions"),
    [("gpt3-175b", 175.2), ("llama3-8b", 8.03), ("llama3-70b", 70.55), ("llama3-405b", 405.85)],
)
def test_published_sizes(name: str, billions: float) -> None:
    assert graph(name).parameter_count / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize("name", names())
def test_flops_follow_six_per_parameter_and_token(name: str) -> None:
    """2 forward and 4 backward FLOPs per matrix element and token (Kaplan et al. 2020, table 1), plus attention.

    Of experts those count that the token meets; a projection with the weights of the embedding is a product too.
    """
    model = graph(name, seq_len=64, dtype="float32")
    account = parameter_account(model)
    matrices = sum(size for group, size in account.items() if group.endswith((" matrices", "experts")))
    matrices -= model.parameter_count - active_parameter_count(model) - model.tied_elements
    if name in PRESETS:  # each half passes the universal module, the head and one task module
        matrices -= (account["task matrices"] + account["task entry matrices"]) / 2
    products = sum(
        k.product.flops
        for layer in model.layers
        for op in model.blocks[layer].operators
        for k in (*op.forward, *op.backward)
        if isinstance(k, Kernel) and k.product
    )
    low = 6 * matrices * model.tokens_per_row
    assert 0.99 * low <= products <= 1.6 * low


def test_dtype_sets_activations_and_parameters() -> None:
    half, whole = graph("ernie-3.0-small", dtype="bfloat16"), graph("ernie-3.0-small", dtype="float32")
    assert half.parameter_count == whole.parameter_count
    assert half.blocks[1].parameters[0].dtype == "bfloat16"
    assert 0.5 <= half.blocks[1].saved_bytes / whole.blocks[1].saved_bytes < 0.52  # statistics of norms stay float32


def test_length_can_be_set_and_cuts_the_memory() -> None:
    short = graph("ernie-3.0-titan", seq_len=64)
    assert short.tokens_per_row == 128
    assert short.blocks[1].tensor("x0").shape == (2, 64, 12_288)


def test_a_wrong_name_or_dtype_gets_one_clear_sentence() -> None:
    with pytest.raises(BadInput, match=r"did you mean 'ernie-3\.0-titan'"):
        graph("ernie-3.0-titn")
    with pytest.raises(BadInput, match="floating dtype"):
        graph("ernie-3.0-small", dtype="int8")
