"""The encoded novel: tokenizer, knowledge units, batches, evaluation. Built once into the cache, about 10 s."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nebula.errors import BadInput
from nebula.models import config, counts, evaluation
from nebula.models.config import masked_count
from nebula.models.data import corpus, encoded, spans
from nebula.models.data.batches import Batches, batches
from nebula.models.data.encoded import EncodedCorpus, encoded_corpus
from nebula.models.data.masking import IGNORED, hidden_units
from nebula.models.data.spans import Kind
from nebula.models.data.tokenizer import MASK, PARAGRAPH, UNKNOWN, train
from nebula.models.evaluation import evaluate
from nebula.models.presets import preset

SMALL = preset("ernie-3.0-small")


@pytest.fixture(scope="module")
def text() -> EncodedCorpus:
    return encoded_corpus(SMALL.vocabulary)


def test_documents_alone_are_those_of_whole_rows(text: EncodedCorpus) -> None:
    some = Batches(corpus=text, seq_len=16, global_batch=4)
    for found, whole in zip(some.documents(3, [1, 2]), some.batch(3, [1, 2]), strict=True):
        assert np.array_equal(found, whole[:, 1])
    assert some.documents(0, [])[0].shape == (0, 16)
    with pytest.raises(BadInput, match=r"rows \[4\] are not within 0..3"):
        some.documents(0, [4])


def test_the_tokenizer_gives_the_text_back(text: EncodedCorpus) -> None:
    assert text.tokenizer.vocabulary == SMALL.vocabulary >= 8000
    for line in itertools.chain.from_iterable(itertools.islice(corpus.training_chapters().values(), 5)):
        ids, ends = text.tokenizer.boundaries(line)
        assert text.tokenizer.decode(ids) == line
        assert len(ids) == len(ends)
        assert ends[-1] == len(line)


def test_held_out_text_is_nearly_free_of_unknown_characters(text: EncodedCorpus) -> None:
    for ids in text.held_out.values():
        assert np.mean(ids == UNKNOWN) < 0.02


def test_training_the_tokenizer_again_gives_the_same_model() -> None:
    lines = [line for line in corpus.chapters()[1] for _ in range(2)]
    assert train(lines, 1200) == train(lines, 1200)


def test_no_training_token_comes_from_a_held_out_chapter(text: EncodedCorpus) -> None:
    """The training ids decode to the training chapters and to nothing else."""
    lines = [line for chapter in corpus.training_chapters().values() for line in chapter]
    assert text.tokenizer.decode(text.tokens).split("\n")[:-1] == lines


def test_units_never_cut_an_entity(text: EncodedCorpus) -> None:
    line = "玄德曰：“关羽何在？”"
    ids, ends = text.tokenizer.boundaries(line)
    found = spans.units(ends, spans.words(line))
    assert sum(length for length, _ in found) == len(ids)
    assert found[0][1] == Kind.ENTITY
    unit_ends = {ends[last - 1] for last in itertools.accumulate(length for length, _ in found)}
    assert line.index("关羽") + 1 not in unit_ends


def test_knowledge_is_hidden_more_often_than_chance(text: EncodedCorpus) -> None:
    rng, hidden = np.random.default_rng(0), []
    for first in rng.integers(0, len(text.tokens) - 64, 200):
        kind = text.kind[first : first + 64]
        positions = np.concatenate(hidden_units(text.unit[first : first + 64], kind, rng))
        hidden.append(np.mean(kind[positions] >= Kind.PHRASE))
    assert np.mean(hidden) > 3 * np.mean(text.kind >= Kind.PHRASE)


def test_rows_do_not_depend_on_how_a_step_is_shared(text: EncodedCorpus) -> None:
    some = Batches(corpus=text, seq_len=64, global_batch=6, seed=3)
    whole = some.batch(5, range(6))
    parts = [some.batch(5, range(first, first + 2)) for first in (0, 2, 4)]
    for side in (0, 1):
        np.testing.assert_array_equal(whole[side], np.concatenate([part[side] for part in parts]))


def test_a_row_of_a_batch_is_a_masked_sequence_and_a_document(text: EncodedCorpus) -> None:
    ids, labels = Batches(corpus=text, seq_len=64, global_batch=4).batch(2, range(4))
    assert ids.shape == labels.shape == (4, 2, 64)
    assert ((labels[:, 0] != IGNORED).sum(axis=1) == masked_count(64)).all()
    unhidden = labels[:, 0] == IGNORED
    assert (ids[:, 0][unhidden] != MASK).all()
    np.testing.assert_array_equal(ids[:, 1, 1:], labels[:, 1, :-1])


def test_documents_walk_the_text_in_order(text: EncodedCorpus) -> None:
    some = Batches(corpus=text, seq_len=64, global_batch=4)
    walked = np.concatenate([some.batch(step, range(4))[0][:, 1] for step in range(3)], axis=1)
    for row in range(4):
        start = row * some.stride
        np.testing.assert_array_equal(walked[row], text.tokens[start : start + 3 * 64])


def test_another_seed_hides_other_tokens(text: EncodedCorpus) -> None:
    one, two = (Batches(corpus=text, seq_len=64, global_batch=2, seed=seed).batch(0, range(2)) for seed in (0, 1))
    assert (one[0][:, 0] != two[0][:, 0]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"global_batch": 0}, "global_batch 0"), ({"global_batch": 10_000}, "not above seq_len 64")],
)
def test_impossible_batches_are_refused(text: EncodedCorpus, change: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(Batches(corpus=text, seq_len=64, global_batch=4), **change)


def test_rows_outside_the_batch_are_refused(text: EncodedCorpus) -> None:
    with pytest.raises(BadInput, match=r"range\(2, 5\)"):
        Batches(corpus=text, seq_len=64, global_batch=4).batch(0, range(2, 5))


def test_a_model_that_knows_the_unigram_reaches_the_unigram(text: EncodedCorpus) -> None:
    """Evaluation of a model that always answers with the training frequencies gives the figure it is compared to."""
    counts = np.bincount(text.tokens, minlength=SMALL.vocabulary) + 1

    def unigram(ids: np.ndarray, labels: np.ndarray) -> float:
        return float(np.log(counts.sum() / counts[labels[labels != IGNORED]]).sum())

    result = evaluate(unigram, text, seq_len=64)
    assert result.document_nats == pytest.approx(result.unigram_nats, rel=1e-9)
    assert not dataclasses.replace(result, document_nats=result.unigram_nats + 0.1).learned
    assert dataclasses.replace(result, document_nats=result.unigram_nats - 0.1).learned


def test_evaluation_on_a_training_chapter_is_refused(text: EncodedCorpus) -> None:
    with pytest.raises(BadInput, match="chapter 7 is not held out"):
        evaluate(lambda *_: 0.0, text, seq_len=64, chapter=7)


def test_paragraph_ends_are_tokens(text: EncodedCorpus) -> None:
    lines = sum(len(chapter) for chapter in corpus.training_chapters().values())
    assert int((text.tokens == PARAGRAPH).sum()) == lines


@pytest.mark.parametrize("module", [config, counts, evaluation, spans], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_batches_of_a_config_use_its_lengths() -> None:
    assert batches(SMALL, global_batch=2).batch(0, range(1))[0].shape == (1, 2, SMALL.seq_len)


@pytest.mark.slow
@pytest.mark.parametrize("left", [b"", b"junk", b"PK\x03\x04 cut off"])
def test_a_damaged_cache_is_built_again(text: EncodedCorpus, tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "corpus" / f"{encoded._digest(SMALL.vocabulary)}.npz"
    path.parent.mkdir()
    path.write_bytes(left)
    again = encoded._at(SMALL.vocabulary, tmp_path)
    assert (again.tokens == text.tokens).all()
    assert path.stat().st_size > 10_000
