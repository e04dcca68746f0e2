"""Experts that are dealt to ranks, as far as one process can show: what is cut, what is refused, how balances move."""

import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from nebula.errors import BadInput
from nebula.models.decoder import DecoderModel
from nebula.models.experts import Router
from nebula.runtime import experts, tensor, weights
from nebula.runtime.balance import Balance
from nebula.runtime.parts import Part
from nebula.runtime.shares import runs

sys.path.insert(0, str(Path(__file__).parent.parent / "emulated"))
import toy_experts as toy
import toy_plans


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")


@pytest.fixture
def model():
    return toy.build()[0]


def expert_plan(degree):
    return toy_plans.dealt(toy_plans.unlike(((0, 6), [((rank,), 1) for rank in range(degree)])), degree)


def test_each_rank_keeps_its_experts_and_together_they_are_all(model):
    layer = model.chain[2]
    whole = {name: parameter.numpy() for name, parameter in layer.named_parameters()}
    pieces = []
    for rank in range(4):
        element, cut = toy.build()[0].chain[2], tensor.Cut()
        experts.cut_element(element, model.tensor_split, tensor.Member(degree=4, rank=rank), cut)
        assert set(cut.dims.values()) == {0}
        assert len(cut.members) == len(cut.replaced) == 3
        pieces.append({name: parameter.numpy() for name, parameter in element.named_parameters()})
    for name, array in whole.items():
        if ".experts." in name:
            np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), array)
        else:
            assert all((piece[name] == array).all() for piece in pieces)


def test_experts_that_do_not_divide_print_the_equation(model):
    experts.check(model.chain, model.tensor_split, expert_plan(4))
    with pytest.raises(BadInput, match=r"ffn\.experts\.gate\.weight: 8 experts % expert 3 = 2, not 0; choose another"):
        experts.check(model.chain, model.tensor_split, expert_plan(3))


def test_a_model_without_experts_is_refused(model):
    dense = [model.chain[0], model.chain[1]]
    for elements, split in ((dense, model.tensor_split), (model.chain, {"*.query": "column"}), (model.chain, None)):
        with pytest.raises(BadInput, match="expert 2: the model says nowhere which layers are experts"):
            experts.check(elements, split, expert_plan(2))


def test_a_stage_without_experts_may_stand_beside_others(model):
    plan = toy_plans.dealt(toy_plans.unlike(((0, 2), [((0,), 1), ((1,), 1)]), ((2, 6), [((2,), 1), ((3,), 1)])), 2, 2)
    experts.check(model.chain, model.tensor_split, plan)


def test_experts_that_cannot_exchange_are_refused():
    with pytest.raises(BadInput, match="0: Linear has no `exchange`"):
        experts.check([nn.Sequential(nn.Linear(4, 4))], {"0": "experts"}, expert_plan(2))


@pytest.mark.parametrize(("rank", "shares", "told"), [(0, False, True), (1, False, False), (1, True, True)])
def test_a_balance_forgets_the_routers_of_others_and_moves_its_own(model, rank, shares, told):
    """Of ranks that route the same tokens one tells; those that route shares of them all do."""
    routers = [layer for layer in model.sublayers() if isinstance(layer, Router)]
    balance = Balance(list(model.chain))
    member = tensor.Member(degree=2, rank=rank)
    addends = {id(routers[0].weight)} if shares else set()
    balance.keep(
        Part(
            stages={0: [model.chain[2]]},
            prefixes=[""],
            member=member,
            names={},
            cut=tensor.Cut(),
            runs=(),
            addends=addends,
        )
    )
    for router in routers:
        router.load = np.array([8, 0, 2, 2, 2, 2, 0, 0])
    balance.move()
    assert routers[0].balance.numpy().tolist() == ([-1, 1, 0, 0, 0, 0, 1, 1] if told else [0] * 8)
    assert routers[0].load.sum() == 0
    assert all((router.balance == 0).all() for router in routers[1:])


def test_experts_that_would_see_tokens_twice_are_refused(model):
    member = tensor.Member(degree=2, rank=0)
    experts.cut_element(model.chain[1], model.tensor_split, member, tensor.Cut(), own_tokens=False)  # has none
    with pytest.raises(
        BadInput, match=r"ffn\.experts with expert 2: the ranks of a tensor group run its element on the same"
    ):
        experts.cut_element(model.chain[2], model.tensor_split, member, tensor.Cut(), own_tokens=False)


def test_gathered_weights_bring_the_balance(model, tmp_path):
    from nebula.runtime.parallelize import parallelize
    from nebula.runtime.serial import serial_plan

    step = parallelize(*toy.build(), toy.loss, serial_plan(global_batch=16))
    step(toy.batch(0))
    weights.save(weights.gather(step), tmp_path / "w")
    fresh = DecoderModel(toy.CONFIG, toy.ROUTING)
    weights.fill(fresh, weights.load(tmp_path / "w"))
    assert float(np.abs(fresh.chain[2].ffn.router.balance.numpy()).max()) == 1
    for name, value in fresh.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights.gather(step)[name])


@pytest.mark.parametrize("pattern", ["ffn.experts", "ffn.experts*"])
def test_experts_run_on_shares_of_the_sequence_however_a_table_names_them(model, pattern):
    split = {name: kind for name, kind in model.tensor_split.items() if kind != "experts"} | {pattern: "experts"}
    assert [run.takes for run in runs(list(model.chain), split, 2)] == [True] * 6
