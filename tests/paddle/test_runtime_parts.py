"""The parts of the runtime that one process can show: places, batches, chains, recomputation, optimizers, refusals."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

import nebula
from nebula.errors import BadInput
from nebula.plan.layout import ORDERS, uniform_stages
from nebula.plan.values import Sharding
from nebula.runtime import batch, chain, parts, precision, sharding, start, tensor, weights
from nebula.runtime import parallelize as parallelizing
from nebula.runtime.optimizers import check_slices, keep_parameters
from nebula.runtime.parallelize import parallelize
from nebula.runtime.parts import _check_untied, _checked_split
from nebula.runtime.place import degrees, place
from nebula.runtime.recompute import apply_policy
from nebula.runtime.runnable import check
from nebula.runtime.serial import serial_plan

sys.path.insert(0, str(Path(__file__).parent.parent / "emulated"))
import toy_chain as toy
import toy_plans


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")


@st.composite
def splits(draw):
    degree = draw(st.sampled_from([1, 2, 3]))
    stages = draw(st.integers(1, 4))
    return {
        "data": degree * draw(st.integers(1, 3)),
        "tensor": draw(st.integers(1, 3)),
        "stages": (*range(stages), 6),
        "sharding": draw(st.integers(1, 3)) if degree > 1 else 0,
        "degree": degree,
        "micro_batches": draw(st.integers(1, 3)),
        "rows": 108,
        "order": draw(st.sampled_from(ORDERS)),
    }


@given(splits())
@settings(max_examples=60, deadline=None)
def test_replicas_tile_the_batch_and_ranks_find_themselves_in_the_plan(split):
    plan = toy_plans.plan(**split)
    places = [place(plan, rank) for rank in range(plan.world_size)]
    assert degrees(plan).ranks == plan.world_size
    for here in places:
        replica = here.data * degrees(plan).sharding + here.shard
        assert plan.stages[here.stage].replicas[replica].ranks[here.tensor] == here.rank
    for stage in range(len(plan.stages)):
        rows = [row for p in places if p.stage == stage and p.tensor == 0 for row in p.rows]
        assert sorted(rows) == list(range(len(rows)))


@given(rows=st.integers(1, 24), count=st.integers(1, 6))
def test_micro_batches_are_the_batch_in_order(rows, count):
    tree = (np.arange(rows), {"a": (np.arange(rows) * 2,)})
    if rows % count:
        with pytest.raises(BadInput, match=f"{rows} rows"):
            batch.micro_batches(tree, count)
        return
    parts = batch.micro_batches(tree, count)
    assert np.array_equal(np.concatenate([part[0] for part in parts]), tree[0])
    assert np.array_equal(np.concatenate([part[1]["a"][0] for part in parts]), tree[1]["a"][0])


def test_arrays_of_a_batch_have_equal_rows():
    with pytest.raises(BadInput, match=r"\[2, 3\]"):
        batch.row_count((np.zeros(2), np.zeros(3)))


def test_ranks_that_work_on_the_same_rows_must_have_the_same_batch():
    ids, labels = np.arange(12).reshape(4, 3), np.arange(4)
    shuffled = ids.copy()
    shuffled[[1, 2]] = shuffled[[2, 1]]
    mine = batch.row_digests((ids, {"y": labels}), range(4))
    batch.check_alike([mine, batch.row_digests((paddle.to_tensor(ids), {"y": labels}), [3, 1])])
    batch.check_alike([batch.row_digests((ids, labels), [0, 1]), batch.row_digests((shuffled, labels), [2, 3])])
    with pytest.raises(BadInput, match="row 1 of the batch is another on rank 2 than on rank 0, which work on it"):
        batch.check_alike([mine, mine, batch.row_digests((shuffled, {"y": labels}), [1, 3])])
    with pytest.raises(BadInput, match="row 3 of the batch is another on rank 1 than on rank 0"):
        batch.check_alike([mine, batch.row_digests((ids, {"y": labels + (labels == 3)}), range(4))])


def test_slices_of_a_weight_make_it_whole():
    array = np.arange(24.0).reshape(4, 6)
    for dim in (0, 1):
        assert np.array_equal(np.concatenate([tensor.slice_of(array, dim, 2, r) for r in range(2)], axis=dim), array)


class Heads(nn.Layer):
    """Attention's parts: a table with a row per head, and the Linear layers around it."""

    def __init__(self, heads):
        super().__init__()
        self.bias = nn.Embedding(heads, 4)
        self.qkv = nn.Linear(8, 8)


def test_a_table_of_heads_is_cut():
    element, cut = nn.Sequential(Heads(4)), tensor.Cut()
    tensor.cut_element(element, {"*bias": "heads"}, tensor.Member(degree=2, rank=1), gather=True, cut=cut)
    assert element[0].bias.weight.shape == [2, 4]
    assert len(cut.replaced) == 1


def test_heads_that_do_not_divide_leave_their_group_whole():
    element, cut = nn.Sequential(Heads(3)), tensor.Cut()
    tensor.cut_element(
        element, {"*bias": "heads", "*qkv": "column"}, tensor.Member(degree=2, rank=0), gather=True, cut=cut
    )
    assert [element[0].bias.weight.shape[0], element[0].qkv.weight.shape[1]] == [3, 8]
    assert cut.replaced == {}


def test_odd_dims_print_the_equation():
    element = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(BadInput, match="6 outputs % tensor 4 = 2"):
        tensor.cut_element(element, {"0": "column"}, tensor.Member(degree=4, rank=0), gather=True, cut=tensor.Cut())


def train(policy="none", micro_batches=1, steps=4, recompute_layers=0):
    paddle.seed(1)
    model, optimizer = toy.build()
    plan = serial_plan(global_batch=toy.ROWS, micro_batches=micro_batches, recompute=policy)
    (stage,) = plan.stages
    held = dataclasses.replace(stage, recompute_layers=recompute_layers)
    plan = dataclasses.replace(plan, stages=(held,))
    step = parallelize(model, optimizer, toy.loss, plan)
    return [step(toy.batch(index)).loss for index in range(steps)], step


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_recomputation_changes_no_loss(policy):
    assert train(policy)[0] == train()[0]


def test_the_first_layers_alone_may_recompute():
    kept, losses = {}, {}
    for count in (1, 3, 0):
        losses[count], step = train("full", recompute_layers=count)
        inputs, _ = toy.batch(0)
        kept[count] = kept_elements(lambda step=step, inputs=inputs: step.wrapped(paddle.to_tensor(inputs)))
    assert losses[1] == losses[3] == losses[0] == train()[0]
    assert kept[1] > kept[3] > kept[0]


def test_accumulated_micro_batches_equal_one_batch():
    assert np.allclose(train(micro_batches=4)[0], train()[0], rtol=1e-6)


def kept_elements(forward):
    """Elements of the tensors that a forward pass keeps for the backward pass."""
    saved = []
    with paddle.autograd.saved_tensors_hooks(lambda t: saved.append(int(t.size)) or t, lambda t: t):
        forward()
    return sum(saved)


def test_full_recomputation_keeps_less():
    kept = {}
    for policy in ("none", "full"):
        block = toy.Block()
        apply_policy(block, policy)
        x = paddle.randn([2, toy.LENGTH, toy.WIDTH])
        x.stop_gradient = False
        kept[policy] = kept_elements(lambda block=block, x=x: block((x, paddle.zeros([toy.LENGTH, toy.LENGTH]))))
    assert kept["full"] < kept["none"] / 4


def test_unknown_policy_is_refused():
    with pytest.raises(BadInput, match="recompute 'some'"):
        apply_policy(toy.Block(), "some")


def test_gathered_weights_fill_a_fresh_model_and_only_its_own_kind(tmp_path):
    _, step = train()
    weights.save(weights.gather(step), tmp_path / "w")
    fresh = toy.Toy()
    weights.fill(fresh, weights.load(tmp_path / "w"))
    for name, parameter in fresh.named_parameters():
        assert np.array_equal(parameter.numpy(), weights.gather(step)[name])
    with pytest.raises(BadInput, match="another model"):
        weights.fill(nn.Linear(2, 2), weights.load(tmp_path / "w"))


def test_optimizer_follows_the_cut_parameters_in_list_and_groups():
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first, second = layers[0].weight, layers[1].weight
    taken = paddle.create_parameter([2, 1], "float32")
    plain = paddle.optimizer.AdamW(parameters=[first, second])
    keep_parameters(plain, {id(first): taken}, [id(taken)])
    assert [id(p) for p in plain._parameter_list] == [id(taken)]
    grouped = paddle.optimizer.AdamW(
        parameters=[{"params": [first], "learning_rate": 0.5}, {"params": [second], "weight_decay": 0.0}]
    )
    keep_parameters(grouped, {}, [id(second)])
    (stand_in,), kept = (group["params"] for group in grouped._param_groups)
    assert [id(p) for p in kept] == [id(second)]
    assert id(stand_in) not in (id(first), id(second))  # a group that trains nothing here keeps its place


PER_TENSOR = {
    "Lamb": lambda p: paddle.optimizer.Lamb(0.1, parameters=p),
    "ClipGradByNorm": lambda p: paddle.optimizer.SGD(0.1, parameters=p, grad_clip=nn.ClipGradByNorm(0.1)),
}


def stepped(make, whole, gradient):
    """What an optimizer makes of one weight."""
    weight = paddle.create_parameter(whole.shape, "float32", default_initializer=nn.initializer.Assign(whole))
    optimizer = make([weight])
    (weight * paddle.to_tensor(gradient)).sum().backward()
    optimizer.step()
    return weight.numpy(), optimizer


@pytest.mark.parametrize("name", PER_TENSOR)
def test_what_takes_the_norm_of_each_tensor_is_refused_where_ranks_hold_slices(name):
    rng = np.random.RandomState(0)
    whole, gradient = (rng.randn(2, 4).astype("float32") * [[1], [5]] for _ in "wg")
    expected, optimizer = stepped(PER_TENSOR[name], whole.astype("float32"), gradient.astype("float32"))
    rows = [stepped(PER_TENSOR[name], *(a[r : r + 1].astype("float32") for a in (whole, gradient)))[0] for r in (0, 1)]
    assert not np.allclose(np.concatenate(rows), expected)  # it would learn something else
    check_slices(optimizer, [])
    with pytest.raises(
        BadInput, match=rf"{name} takes the norm of each tensor, and ranks hold slices of 1\.qkv\.weight"
    ):
        check_slices(optimizer, ["1.qkv.weight"])
    check_slices(paddle.optimizer.AdamW(parameters=nn.Linear(2, 2).parameters()), ["1.qkv.weight"])


def test_optimizer_that_has_stepped_is_refused():
    layer = nn.Linear(2, 2)
    optimizer = paddle.optimizer.AdamW(parameters=layer.parameters())
    layer(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    with pytest.raises(BadInput, match="before the first one"):
        keep_parameters(optimizer, {}, [])


def test_plan_for_another_chain_is_refused():
    model, optimizer = toy.build()
    with pytest.raises(BadInput, match="splits 5 layers, the model's chain has 6"):
        parallelize(model, optimizer, toy.loss, serial_plan(layers=5))


def test_weights_shared_over_a_border_are_found():
    shared = nn.Linear(2, 2)
    other = nn.Linear(2, 2)
    assert chain.shared_across([[shared, other], [nn.Sequential(shared)]]) == "0.weight"
    assert chain.shared_across([[shared, shared], [other]]) == ""


def test_fleet_gets_no_weight_that_layers_of_two_stages_share():
    elements, plan = list(toy.Toy(tied=True).chain), toy_plans.plan(stages=toy_plans.EVEN)
    with pytest.raises(BadInput, match=r"table is shared .* set engine to executor"):
        parallelizing._check_shared(elements, plan)


def test_tensor_split_that_fits_nothing_or_tears_weights_apart_is_refused():
    elements = [nn.Sequential(nn.Linear(4, 4))]
    with pytest.raises(BadInput, match="says nowhere what to cut"):
        _checked_split(None, elements, 2)
    with pytest.raises(BadInput, match="names no sublayer"):
        _checked_split({"*qkv": "column"}, elements, 2)
    kept = elements[0][0].weight
    with pytest.raises(BadInput, match=r"head\.weight is cut in one layer and shared"):
        _check_untied(elements, {id(kept): "head.weight"}, tensor.Cut(replaced={id(kept): kept}))


def test_only_a_vocabulary_cut_of_a_linear_leaves_logits_shared():
    assert tensor.cuts_vocabulary(toy.Head(), toy.SPLIT)
    assert not tensor.cuts_vocabulary(toy.Head(), {"projection": "column"})
    assert not tensor.cuts_vocabulary(toy.Embed(), toy.SPLIT)


@pytest.mark.parametrize(("stage", "other"), [(1, "name the engine executor"), (3, "use stage 2, or the executor")])
def test_groups_of_an_optimizer_are_refused_where_fleet_would_clip_them_together(stage, other):
    part = part_of(toy.build("groups")[0])
    clips = (nn.ClipGradByGlobalNorm(0.1), nn.ClipGradByGlobalNorm(0.2))
    with pytest.raises(BadInput, match=f"stage {stage} takes no optimizer with groups of parameters; {other}"):
        sharding.check(stage, part, "none", clips)
    sharding.check(2, part, "none", clips)
    sharding.check(stage, part, "none", ())


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_a_shared_weight_that_is_recomputed_is_refused_under_sharding_stage_2(recompute):
    tied, untied = (part_of(toy.build(name)[0]) for name in ("tied", "adamw"))
    with pytest.raises(BadInput, match=rf"table is shared by two layers under recompute {recompute}"):
        sharding.check(2, tied, recompute, ())
    sharding.check(2, untied, recompute, ())
    sharding.check(2, tied, "none", ())
    sharding.check(1, tied, recompute, ())


def part_of(model):
    """All of a model, as one rank holds it."""
    whole = parts.Part(
        stages={0: list(model.chain)},
        prefixes=[],
        member=tensor.Member(degree=1, rank=0),
        names={},
        cut=tensor.Cut(),
        runs=(),
    )
    assert len(whole.elements) == len(model.chain)
    return whole


def test_processes_without_a_plan_and_plans_without_processes(tmp_path):
    assert start.plan_of({}).world_size == 1
    with pytest.raises(BadInput, match="2 processes were started without a plan"):
        start.plan_of({"PADDLE_TRAINERS_NUM": "2"})
    with pytest.raises(BadInput, match="there is no such plan file"):
        start.plan_of({"NEBULA_PLAN": str(tmp_path / "none.json")})
    with pytest.raises(BadInput, match=r"places 4 ranks, 3 processes were started"):
        start.check_started(toy_plans.plan(tensor=4), 3, "p.json")


def test_plans_that_no_engine_runs_say_why():
    with pytest.raises(BadInput, match=r"tensor 2: .* refuse the CPU"):
        check(toy_plans.plan(tensor=2), "cpu")
    stages = uniform_stages(boundaries=(0, 5), data=1, tensor=1, sharding=Sharding(), micro_batch_rows=3)
    with pytest.raises(BadInput, match="not legal"):
        check(dataclasses.replace(toy_plans.plan(), stages=stages), "cpu")


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_reduced_precision_is_refused_where_paddle_has_no_kernels(name, monkeypatch):
    """On the CPU, and on the emulated device, whose kernels are the CPU's; nowhere else."""
    job = dataclasses.replace(toy_plans.plan().job, precision=name)
    for split in ({"data": 2}, {}):
        plan = dataclasses.replace(toy_plans.plan(**split), job=job)
        with pytest.raises(BadInput, match=f"precision {name}: Paddle has no matrix product in {name} on the CPU"):
            check(plan, "cpu")
        check(plan, "gpu:0")
        check(plan, "npu:0")
        with monkeypatch.context() as environment:
            environment.setenv("NEBULA_EMULATED_DEVICES", "table")
            with pytest.raises(BadInput, match=f"precision {name}: .* on emulated devices"):
                check(plan, "sim_npu:0")


def test_the_cpu_has_no_such_product_indeed():
    for dtype in ("bfloat16", "float16"):
        one = paddle.ones([2, 2], dtype)
        with pytest.raises(RuntimeError, match="kernel"):
            _ = one @ one


def test_a_model_that_paddle_leaves_in_fp32_is_refused():
    """paddle.amp.decorate changes nothing and says nothing on a device without the dtype, such as this CPU."""
    model, optimizer = toy.build()
    with pytest.raises(BadInput, match="would silently use fp32"):
        precision.decorate([model], optimizer, precision.precision_of("bf16"))
    precision.decorate([model], optimizer, precision.precision_of("fp32"))
    precision.decorate([nn.LayerNorm(4)], optimizer, precision.precision_of("fp16"))


@pytest.mark.filterwarnings("ignore:amp_guard can only be enabled", "ignore:GradScaler can only be enabled")
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_casting_and_scaling_that_the_cpu_passes_through_change_no_loss(name, monkeypatch):
    """Only the wiring: on a CPU Paddle's auto_cast and GradScaler let fp32 through as it is."""
    expected = train(micro_batches=2)[0]
    monkeypatch.setattr(parallelizing, "precision_of", lambda _: precision.precision_of(name))
    monkeypatch.setattr(parallelizing, "decorate", lambda *_: None)
    losses, step = train(micro_batches=2)
    assert step.precision.dtype
    assert losses == expected


def test_weights_are_gathered_in_fp32():
    linear = nn.Linear(2, 2)
    linear.to(dtype="bfloat16")
    assert weights._array(linear.weight).dtype == np.float32


def test_importing_nebula_does_not_import_paddle():
    import subprocess

    code = "import nebula, sys; assert 'paddle' not in sys.modules; nebula.init; assert 'paddle' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = nebula.nothing
