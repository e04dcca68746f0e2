"""Turns a model, an optimizer and a loss into a step that trains them as a plan says.

The model is built alike by every rank in host memory; this module cuts it, moves a rank's part to its device and hands
it to fleet, or to nebula.runtime.executor where stages differ. Refuses models that cannot be cut as the plan asks; a
plan of one rank needs no fleet.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.graph.found_splits import splits_of
from nebula.graph.splits import halves_whole
from nebula.plan.values import Plan
from nebula.runtime import chain as chains
from nebula.runtime import circles, finite, paddle_faults, runnable, sharding, start, tensor
from nebula.runtime.balance import Balance
from nebula.runtime.batch import check_alike, micro_batches, picked, row_count, row_digests
from nebula.runtime.circles import from_all
from nebula.runtime.forward_backward import Driver, InARow, Loss, Through1F1B
from nebula.runtime.optimizers import (
    check_slices,
    clear_gradients,
    group_clips,
    keep_parameters,
    optimizer_of,
    trained_by,
)
from nebula.runtime.parts import Part, part_of, settle
from nebula.runtime.pause import pause
from nebula.runtime.place import Degrees, Place, degrees, place
from nebula.runtime.precision import Precision, decorate, precision_of, tell_ranks
from nebula.runtime.progress import Progress, progress_of
from nebula.runtime.quiet import quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One optimizer step: the mean loss over the global batch, and the rows of that batch."""

    loss: float
    rows: int


class Step:
    """Trains on one global batch per call.

    Attributes:
        place: this rank's coordinates, its rows of the global batch among them.
        driver: runs the micro-batches; its observers see each begin and end.
        balance: of the experts, moved once a step.
        mean: of what drivers return, over the replicas.
        progress: tells an agent how far this rank is.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        place: Place,
        part: Part,
        driver: Driver,
        optimizer: Any,
        wrapped: Any,
        balance: Balance,
        mean: Callable[[Any], float] = float,
    ) -> None:
        self.plan, self.place, self.part, self.mean, self._balance = plan, place, part, mean, balance
        self.driver, self.precision, self.optimizer, self.wrapped = driver, driver.precision, optimizer, wrapped
        self.progress = progress_of(os.environ)
        watched = isinstance(self.progress, Progress) and self.precision.scaler is None
        self._look: finite.Look = finite.Finite(part.weights) if watched else finite.NoLook()
        driver.observers.append(self.progress.observe)
        self._compared = False

    def __call__(self, batch: Any) -> StepResult:
        """Trains on a global batch, the same on every rank, of which each replica takes its rows.

        Args:
            batch: (inputs, labels), each an array or a tuple or dict of arrays with the rows leading.

        Raises:
            BadInput: the batch has other rows than the plan's global batch; or of the first one, ranks that work on
                the same rows have others.
        """
        total = row_count(batch)
        if self.plan.world_size > 1:
            expected = self.plan.job.global_batch
            if total != expected:
                raise BadInput(f"the batch has {total} rows, the plan's global batch is {expected}")
            if not self._compared:
                check_alike(from_all(row_digests(batch, self.place.rows), self.plan.world_size))
                self._compared = True
            batch = picked(batch, self.place.rows)
        return self.local(batch, total)

    def local(self, batch: Any, global_rows: int) -> StepResult:
        """Trains on this replica's rows of a global batch of `global_rows`."""
        loss = self.driver.run(micro_batches(batch, self.plan.micro_batches))
        self._look.before()
        self._tell("begin")
        self._balance.move()
        self.precision.update(self.optimizer)
        clear_gradients(self.optimizer)
        self._tell("end")
        result = StepResult(loss=self.mean(loss), rows=global_rows)
        self._look.after(self.progress.step + 1, result.loss)
        self.progress.step_done()
        return result

    def pause(self, at_most_s: float = 3600.0) -> AbstractContextManager[None]:
        """A block of work between two steps that is none of them, an evaluation, say; other ranks may wait for it.

        An elastic job takes a rank that says nothing for longer than a few of its steps take for one that hangs.

        Args:
            at_most_s: seconds after which the block hangs, too.

        Raises:
            BadInput: `at_most_s` is no time.

        Example::

            with step.pause(at_most_s=600):
                evaluate(model)
        """
        return pause(self.progress, at_most_s)

    def _tell(self, moment: str) -> None:
        for observer in self.driver.observers:
            observer("update", -1, moment)


def parallelize(
    model: nn.Layer,
    optimizer: Any,
    loss: Loss,
    plan: Plan,
    *,
    tensor_split: Mapping[str, str] | None = None,
    chain: Callable[[nn.Layer], Sequence[nn.Layer]] | None = None,
) -> Step:
    """Makes `model` train as `plan` says.

    Args:
        model: a chain (`.chain`, nn.Sequential, a causal language model), or any Layer when the plan has one stage. It
            is cut in place.
        optimizer: a Paddle optimizer over the model's parameters, or a function that makes one from a list of them.
        loss: (outputs, labels) -> scalar, the mean over rows: equal parts of a batch must average to the whole. One
            that takes `cross_entropy=` gets a vocabulary-parallel one when the last Linear is cut by vocabulary.
        plan: from nebula.init().
        tensor_split: which sublayers tensor parallelism cuts and how; default: `model.tensor_split`, or what the names
            of its layers tell (nebula.graph.found_splits).
        chain: makes the list of elements of a model that offers none; they must be its own layers, or hold them.

    Raises:
        BadInput: the plan is for another model, the model cannot be cut that way or does more than the chain that was
            found of it, or the ranks built it differently.
    """
    if chain is not None:
        model.chain = [*chain(model)]  # no LayerList: the model keeps its own names
    chains.check_found(model)
    split = tensor_split if tensor_split is not None else splits_of(model)
    optimizer = optimizer_of(optimizer, model)
    chains.check_trained(model, chains.elements(model), trained_by(optimizer))
    if runnable.engine(plan, start.device(), circles.kinds()) == "executor":
        from nebula.runtime.executor.engine import on_executor

        return on_executor(model, optimizer, loss, plan, in_runs(split, model, plan))
    mesh, here = degrees(plan), place(plan, paddle.distributed.get_rank() if plan.world_size > 1 else 0)
    drawn = int(paddle.randint(0, 2**30, [1]))
    paddle.set_device(start.device())
    _seed_dropout(drawn, mesh, here)
    if plan.world_size > 1:
        chains.check_alike(model)
    if mesh.pipeline > 1:
        _check_shared(chains.elements(model), plan)
    balance = Balance(chains.elements(model))
    member = tensor.Member(degree=mesh.tensor, rank=here.tensor)
    part, loss = part_of(model, loss, split, plan, [here.stage], member)
    in_ranges = mesh.sharding > 1 and plan.stages[here.stage].sharding.stage == 3
    check_slices(optimizer, part.names.values() if in_ranges else part.sliced)
    settle(part, plan, start.device())
    balance.keep(part)
    keep_parameters(optimizer, part.cut.replaced, list(part.names))
    part.cut.serial.clear()
    precision = precision_of(plan.job.precision)
    decorate(part.elements, optimizer, precision)
    if plan.world_size == 1:
        whole = chains.ChainModel(part.elements)
        driver = InARow(whole, loss, precision)
        return Step(
            plan=plan, place=here, part=part, driver=driver, optimizer=optimizer, wrapped=whole, balance=balance
        )
    with quiet():
        return _on_fleet(part, optimizer, loss, precision, plan, mesh, here, balance)


def in_runs(split: Mapping[str, str], model: nn.Layer, plan: Plan) -> Mapping[str, str]:
    """What the executor's tensor groups cut: it sums slices that are one run of a dim, so halves stay whole.

    Raises:
        BadInput: there are such groups, and others go with the halves.
    """
    if all(len(replica.ranks) == stage.context for stage in plan.stages for replica in stage.replicas):
        return split
    paths = {name for element in chains.elements(model) for name, _ in element.named_sublayers()}
    return halves_whole(split, sorted(paths))


def _seed_dropout(drawn: int, mesh: Degrees, here: Place) -> None:
    """Gives every replica and stage random numbers of its own, on the device and the host.

    The ranks of a tensor group share theirs: they drop the same elements of what they hold in common.

    Args:
        drawn: from what the script seeded on all ranks alike. Paddle seeds a plug-in's devices only while one is
            current.
    """
    paddle.seed(drawn + (here.data * mesh.sharding + here.shard) * mesh.pipeline + here.stage)


def _check_shared(elements: list[nn.Layer], plan: Plan) -> None:
    name = chains.shared_across([elements[slice(*stage.layers)] for stage in plan.stages])
    if name:
        raise BadInput(
            f"{name} is shared by layers of two stages, which fleet clips wrongly: set engine to executor in the plan, "
            "move the border, or untie it"
        )


def _on_fleet(
    part: Part,
    optimizer: Any,
    loss: Loss,
    precision: Precision,
    plan: Plan,
    mesh: Degrees,
    here: Place,
    balance: Balance,
) -> Step:
    from paddle.distributed import fleet

    hybrid = fleet.get_hybrid_communicate_group()
    stage = plan.stages[here.stage].sharding.stage if mesh.sharding > 1 else 0
    piped, clips, inner = mesh.pipeline > 1, group_clips(optimizer), optimizer
    sharding.check(stage, part, plan.stages[here.stage].recompute, clips)
    model = _pipeline_layer(part, loss, plan, mesh, hybrid) if piped else chains.ChainModel(part.elements)
    if stage >= 2:
        # fleet's pipeline sends whole weights around when it is built, so it comes before the wrapper that cuts them
        distributed = fleet.distributed_model(model) if piped else None
        wrap = sharding.stage2 if stage == 2 else sharding.stage3
        wrapped, optimizer = wrap(model, optimizer, hybrid, precision.scaler)
        distributed = distributed or wrapped
    else:
        distributed = wrapped = fleet.distributed_model(model)
        optimizer = fleet.distributed_optimizer(optimizer)
        tell_ranks(precision.scaler)
    paddle_faults.keep_group_clips(inner, clips, hybrid)
    recomputes = any(one.recompute != "none" for one in plan.stages)
    reduce = _reduction(distributed, hybrid) if recomputes and isinstance(distributed, paddle.DataParallel) else None
    driver = Through1F1B(distributed, precision) if piped else InARow(distributed, loss, precision, reduce)
    if isinstance(driver, Through1F1B) and stage == 2:
        sharding.feed_stage2(driver, wrapped)
    mean = functools.partial(over_replicas, plan=plan)
    return Step(
        plan=plan,
        place=here,
        part=part,
        driver=driver,
        optimizer=optimizer,
        wrapped=wrapped,
        balance=balance,
        mean=mean,
    )


def _reduction(model: nn.Layer, hybrid: Any) -> Callable[[], None]:
    """Means of all gradients over the replicas, after the last backward."""
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

    return lambda: fused_allreduce_gradients([one for one in model.parameters() if not one.stop_gradient], hybrid)


def _pipeline_layer(part: Part, loss: Loss, plan: Plan, mesh: Degrees, hybrid: Any) -> nn.Layer:
    """fleet's PipelineLayer with this rank's elements at their places; other stages' elements are only counted."""
    from paddle.distributed.fleet.meta_parallel import PipelineLayer

    boundaries = [stage.layers[0] for stage in plan.stages] + [plan.stages[-1].layers[1]]
    first = plan.stages[hybrid.get_stage_id()].layers[0]
    layers = [_elsewhere] * boundaries[-1]
    layers[first : first + len(part.elements)] = part.elements
    return PipelineLayer(
        layers=layers, num_stages=mesh.pipeline, topology=hybrid.topology(), loss_fn=loss, seg_method=boundaries
    )


def _elsewhere(_: Any) -> Any:
    """Stands for an element that another stage holds; never called."""
    raise AssertionError("an element of another stage was called")


def over_replicas(value: paddle.Tensor, plan: Plan) -> float:
    """The mean of a scalar over the replicas; every rank of a replica has the same."""
    if plan.world_size == 1 or plan.stages[0].data == 1:
        return float(value)
    from paddle.distributed import fleet

    hybrid = fleet.get_hybrid_communicate_group()
    total = value.astype("float32")
    if hybrid.get_data_parallel_world_size() > 1:
        paddle.distributed.all_reduce(total, group=hybrid.get_data_parallel_group())
    if hybrid.get_sharding_parallel_world_size() > 1:
        paddle.distributed.all_reduce(total, group=hybrid.get_sharding_parallel_group())
    return float(total) / plan.stages[0].data
