"""The parts of the executor that one process can show: borders, split backwards, groups of an optimizer."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn

from nebula.errors import BadInput
from nebula.models.decoders_parts import Experts
from nebula.models.experts import Mixture
from nebula.models.routing import UNBALANCED
from nebula.runtime.executor.driver import _distinct
from nebula.runtime.executor.gradients import Gradients, _Part, check_clips
from nebula.runtime.executor.holdings import Holding, slices
from nebula.runtime.executor.mail import Mail, _read, _written, specs_of
from nebula.runtime.executor.weight_gradients import Later, split_backward
from nebula.runtime.optimizers import groups_by_name, keep_parameters, largest_first


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")
    paddle.seed(3)


def with_gradient(*shape):
    tensor = paddle.randn(shape)
    tensor.stop_gradient = False
    return tensor


def told(value, rows=4):
    """What the other side of a border reads of a value."""
    parts = [value] if isinstance(value, paddle.Tensor) else list(value)
    return _read(_written(parts, specs_of(value, rows, nn.Identity())))


def test_a_tuple_of_one_arrives_as_a_tuple():
    assert told(with_gradient(4, 2))[0].alone
    assert not told((with_gradient(4, 2),))[0].alone


@pytest.mark.parametrize("rows", [1, 4])
def test_a_scalar_beside_the_activations_keeps_its_shape(rows):
    scalar = told((with_gradient(rows, 2), with_gradient().sum()), rows)[1]
    assert (scalar.shape, scalar.per_row, scalar.gradient) == ((), 0, True)


@pytest.mark.parametrize(
    ("value", "words"),
    [((1.0, None), "value 0, a float"), ((None,), "value 0, a NoneType"), ({"x": 1}, "value 0, a dict")],
)
def test_what_is_no_tensor_crosses_no_border(value, words):
    with pytest.raises(BadInput, match=f"Identity hands on, as {words}: tensors"):
        specs_of(value, 4, nn.Identity())


def test_activations_of_another_shape_than_at_first_are_refused():
    mail = Mail.__new__(Mail)
    mail._told = {0: specs_of(with_gradient(4, 8), 4, nn.Identity())}
    mail._check_same(0, specs_of(with_gradient(4, 8), 4, nn.Identity()))
    with pytest.raises(BadInput, match=r"float32 \[4, 6\], and as float32 \[4, 8\] at first"):
        mail._check_same(0, specs_of(with_gradient(4, 6), 4, nn.Identity()))
    with pytest.raises(BadInput, match="hands on 2 tensors, and 1 at first"):
        mail._check_same(0, [mail._told[0][0]] * 2)


def test_a_tensor_handed_on_twice_gets_both_gradients():
    x = with_gradient(2, 2)
    twice = _distinct((x, x))
    paddle.autograd.backward(twice, [paddle.ones([2, 2]), paddle.ones([2, 2])])
    assert float(x.grad.sum()) == 8.0


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def halves(layer, x):
    """Output, and the gradients by name after both halves of a split backward."""
    later = Later()
    split_backward([layer], later, "float64")
    out = layer(x)
    later.keeps = True
    out.sum().backward()
    for work in later.collected():
        work()
    return out, {name: parameter.grad for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize(
    "make", [nn.Linear, Doubled, lambda *dims: nn.utils.weight_norm(nn.Linear(*dims))], ids=["plain", "own", "normed"]
)
def test_a_split_backward_computes_what_the_whole_one_does(make):
    layer, x = make(3, 5), with_gradient(4, 3)
    expected = layer(x)
    expected.sum().backward()
    wanted = {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}
    layer.clear_gradients()
    out, found = halves(layer, x)
    assert np.allclose(out.numpy(), expected.numpy())
    for name, gradient in wanted.items():
        assert np.allclose(found[name].numpy(), gradient, atol=1e-5), name


def test_a_split_backward_leaves_the_weights_of_experts_to_its_second_half():
    layer, x = Mixture(3, Experts(count=4, top_k=2, ffn=5), UNBALANCED), with_gradient(6, 3)
    layer(x).sum().backward()
    wanted = {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}
    layer.clear_gradients()
    later = Later()
    split_backward([layer], later)
    out = layer(x)
    later.keeps = True
    out.sum().backward()
    assert layer.router.weight.grad is not None
    assert all((parameter.grad == 0).all() for parameter in layer.experts.parameters())
    for work in later.collected():
        work()
    for name, parameter in layer.named_parameters():
        assert np.allclose(parameter.grad.numpy(), wanted[name], atol=1e-6), name


def test_a_split_backward_takes_an_input_that_amp_would_cast():
    layer, x = nn.Linear(3, 5).to(dtype="float64"), with_gradient(4, 3)
    _, found = halves(layer, x)
    assert str(found["weight"].dtype) == "paddle.float64"
    assert str(x.grad.dtype) == "paddle.float32"


def test_an_optimizer_tells_the_group_of_each_weight_and_keeps_groups_of_which_a_rank_holds_nothing():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    names = {id(p): f"{i}.{j}" for i, layer in enumerate((first, second)) for j, p in enumerate(layer.parameters())}
    parted = paddle.optimizer.AdamW(parameters=[{"params": first.parameters()}, {"params": [second.weight]}])
    assert groups_by_name(parted, names) == {"0.0": 0, "0.1": 0, "1.0": 1}
    whole = paddle.optimizer.AdamW(parameters=first.parameters())
    assert groups_by_name(whole, names) == {"0.0": 0, "0.1": 0}
    keep_parameters(parted, {}, [id(second.weight)])
    stand_in, kept = (group["params"][0] for group in parted._param_groups)
    assert kept is second.weight
    assert id(stand_in) not in names
    idle = float(stand_in)
    before = second.weight.numpy()
    second(paddle.ones([1, 2])).sum().backward()
    parted.step()
    assert np.all(second.weight.numpy() != before)
    assert float(stand_in) == idle


def test_frozen_weights_are_summed_with_no_one_and_get_no_gradient():
    layer = nn.Linear(2, 3)
    layer.weight.stop_gradient = True
    held = [Holding(name, -1, 0, 1) for name, _ in layer.named_parameters()]
    pieces = slices({0: held, 1: held}, {0: (0, 0), 1: (0, 1)})[0]
    weights = dict(layer.named_parameters())
    gradients = Gradients.__new__(Gradients)
    gradients._shards = SimpleNamespace(ranks=lambda _: (0,))
    gradients._parts = [_Part(weights[piece.name], Holding(piece.name, -1, 0, 1), piece) for piece in pieces]
    summed = [part.slice.name for bucket in gradients._buckets() for part in bucket]
    assert summed == ["bias"]
    assert layer.weight.grad is None
    layer.weight.stop_gradient = False  # a script may thaw it later, on all ranks
    summed = [part.slice.name for bucket in gradients._buckets() for part in bucket]
    assert sorted(summed) == ["bias", "weight"]


@pytest.mark.parametrize("grouped", [False, True])
def test_an_optimizer_can_have_its_largest_parameters_first(grouped):
    parameters = [p for layer in (nn.Linear(2, 2), nn.Linear(4, 9), nn.Linear(3, 3)) for p in layer.parameters()]
    optimizer = paddle.optimizer.AdamW(parameters=[{"params": parameters}] if grouped else parameters)
    keep_parameters(optimizer, {}, [id(p) for p in parameters])
    largest_first(optimizer)
    ordered = optimizer._parameter_list[0]["params"] if grouped else optimizer._parameter_list
    assert [p.size for p in ordered] == [36, 9, 9, 4, 3, 2]
    assert ordered == (optimizer._param_groups[0]["params"] if grouped else optimizer._param_groups)


@pytest.mark.parametrize(
    ("clips", "words"),
    [((nn.ClipGradByNorm(1.0),) * 2, "not by ClipGradByNorm"), ((nn.ClipGradByGlobalNorm(1.0), None), "or none")],
)
def test_clips_that_ranks_cannot_carry_out_together_are_refused(clips, words):
    groups = [{"params": nn.Linear(2, 2).parameters(), "grad_clip": clip} for clip in clips]
    with pytest.raises(BadInput, match=words):
        check_clips(paddle.optimizer.AdamW(parameters=groups))
