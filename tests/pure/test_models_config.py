"""Configs, presets and parameter counts of the ERNIE family, without Paddle."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.models.config import ErnieConfig, ModuleConfig, masked_count
from nebula.models.counts import parameter_counts, parameter_total
from nebula.models.presets import PRESETS, preset, trained


def test_titans_universal_matrices_are_exact() -> None:
    counts = parameter_counts(preset("ernie-3.0-titan"))
    assert counts["universal matrices"] == 48 * (4 * 12288**2 + 2 * 12288 * 196608) == 260_919_263_232


def test_ten_billion_is_ten_billion() -> None:
    assert parameter_counts(preset("ernie-3.0-10b"))["universal matrices"] == 48 * 12 * 4096**2
    assert 9.9e9 < parameter_total(preset("ernie-3.0-10b")) < 10.2e9


def test_the_small_preset_meets_its_bounds() -> None:
    small = preset("ernie-3.0-small")
    assert (small.universal.layers, small.nlu.layers, small.nlg.layers) == (6, 2, 2)
    assert small.universal.hidden >= 256
    assert small.vocabulary >= 8000
    assert parameter_total(small) >= 8_000_000
    for module in (small.universal, small.nlu, small.nlg):
        assert module.heads % 4 == module.ffn % 4 == small.vocabulary % 4 == 0


def test_a_mistyped_preset_names_the_closest() -> None:
    with pytest.raises(BadInput, match=r"ernie-3\.0-tutan.*did you mean 'ernie-3\.0-titan'"):
        preset("ernie-3.0-tutan")


def test_heads_must_divide_hidden_and_the_message_shows_the_division() -> None:
    with pytest.raises(BadInput, match="hidden 100 % heads 8 = 4"):
        ModuleConfig(layers=1, hidden=100, heads=8, ffn=400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_length": 65}, "memory_length 65"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"nlu": ModuleConfig(layers=1, hidden=128, heads=4, ffn=64)}, "share one border tensor"),
        ({"vocabulary": 0}, "vocabulary 0"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(preset("ernie-3.0-small"), **change)  # type: ignore[arg-type]


@given(name=st.sampled_from(sorted(PRESETS)), more=st.integers(1, 5))
def test_a_universal_layer_adds_the_same_parameters_each_time(name: str, more: int) -> None:
    def deeper(layers: int) -> ErnieConfig:
        config = preset(name)
        universal = dataclasses.replace(config.universal, layers=config.universal.layers + layers)
        return dataclasses.replace(config, universal=universal)

    one = parameter_total(deeper(1)) - parameter_total(deeper(0))
    assert parameter_total(deeper(more)) - parameter_total(deeper(0)) == more * one


@given(length=st.integers(2, 4096))
def test_masked_share_is_fifteen_percent(length: int) -> None:
    assert masked_count(length) >= 1
    assert abs(masked_count(length) - 0.15 * length) <= 1


def test_what_can_be_trained_is_told_from_what_can_be_planned_alone() -> None:
    assert trained("ernie-3.0-small") == preset("ernie-3.0-small")
    assert trained("ernie-4.5-small").experts.count == 8
    with pytest.raises(BadInput, match=r"'deepseek-v3' is for dry runs; layers to train have .*, ernie-4.5-small"):
        trained("deepseek-v3")
    with pytest.raises(BadInput, match=r"'ernie-4\.5-small' is a decoder"):
        preset("ernie-4.5-small")
    with pytest.raises(BadInput, match="is unknown"):
        trained("ernie-4.5-smal")
