"""Which elements of a chain a rank runs on its share of the sequence."""

import pytest
from paddle import nn

from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.ernie import chain
from nebula.models.splits import ERNIE_SPLITS
from nebula.runtime.shares import GATHERING, SHARED, WHOLE, runs

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
