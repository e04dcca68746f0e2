"""Turns a model into the step of one rank of a plan whose stages may differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from nebula.plan.laws import expert_groups
from nebula.plan.values import Plan
from nebula.runtime import chain, circles, start, tensor
from nebula.runtime.balance import Balance
from nebula.runtime.executor.driver import ByActions
from nebula.runtime.executor.gradients import Gradients, check_clips, clip_over_slices
from nebula.runtime.executor.holdings import Holding
from nebula.runtime.executor.mail import Mail
from nebula.runtime.executor.positions import Positions, mirrored, whole_loss
from nebula.runtime.executor.seats import Seat, orders, seat_of
from nebula.runtime.executor.sharding import ShardedOptimizer, Shards
from nebula.runtime.executor.weight_gradients import Later, split_backward
from nebula.runtime.forward_backward import Loss
from nebula.runtime.optimizers import check_slices, groups_by_name, keep_parameters
from nebula.runtime.parallelize import Step
from nebula.runtime.parts import Part, part_of, settle
from nebula.runtime.place import Place
from nebula.runtime.precision import ask_every_rank, decorate, precision_of
from nebula.runtime.quiet import quiet
from nebula.runtime.random_state import draw_apart
from nebula.runtime.sequence import Deal
from nebula.runtime.shares import WHOLE


def on_executor(model: nn.Layer, optimizer: Any, loss: Loss, plan: Plan, split: Mapping[str, str] | None) -> Step:
    """The step of this rank; nebula.runtime.parallelize tells what the arguments are.

    Raises:
        BadInput: the plan is for another model, the model cannot be cut that way, or the ranks built it differently;
            or the optimizer clips in a way that ranks cannot carry out together.
    """
    seat = seat_of(plan, dist.get_rank())
    drawn = int(paddle.randint(0, 2**30, [1]))
    paddle.set_device(start.device())
    _seed_dropout(drawn, plan, seat)
    chain.check_alike(model)
    balance = Balance(chain.elements(model))
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    check_clips(optimizer)
    groups = groups_by_name(optimizer, chain.parameter_names(model))
    with quiet():
        member, context = _members(plan, seat)
        part, loss = part_of(model, loss, split, plan, seat.stages, member, context, _dealt(plan, seat))
    check_slices(optimizer, part.sliced)
    precision, later = precision_of(plan.job.precision), Later()
    if any(kind == "W" for kind, _, _ in orders(plan)[seat.home]):
        split_backward(part.elements, later, precision.dtype)
    draw_apart(_on_shares(plan, part), drawn + plan.world_size + seat.rank)
    deal = _deal(context, mirrored=mirrored(plan.stages[seat.stages[0]]))
    if deal:
        loss = whole_loss(loss, deal)
    settle(part, plan, start.device(), deal)
    balance.keep(part)
    parameters = dict(held(part, shapes, context))
    weights = {name: parameter for name, (parameter, _) in parameters.items()}
    with quiet():
        shards = Shards(plan, seat, weights, _expert_degrees(part, weights), _cut_by_heads(part, weights))
    keep_parameters(optimizer, part.cut.replaced, [id(weights[name]) for name in weights if shards.owns(name)])
    part.cut.serial.clear()
    decorate(part.elements, optimizer, precision)
    with quiet():
        mail = Mail(plan, seat)
        gradients = Gradients(parameters, (seat.home, seat.replica), shards)
        ask_every_rank(precision.scaler)
    clip_over_slices(optimizer, gradients, groups)
    if shards.any:
        optimizer = ShardedOptimizer(optimizer, shards, weights)
    driver = ByActions(
        plan,
        seat,
        part.stages,
        loss,
        precision=precision,
        positions=Positions(plan=plan, runs=part.runs, tensor=_deal(member), context=deal),
        mail=mail,
        gradients=gradients,
        later=later,
    )
    return Step(
        plan=plan,
        place=_place(plan, seat),
        part=part,
        driver=driver,
        optimizer=optimizer,
        wrapped=None,
        mean=driver.mean,
        balance=balance,
    )


def _seed_dropout(drawn: int, plan: Plan, seat: Seat) -> None:
    """Gives every tensor group of every stage random numbers of its own, which its ranks share."""
    stage = plan.stages[seat.stages[0]]
    before = sum(plan.stages[held[0]].data * plan.stages[held[0]].context for held in plan.homes[: seat.home])
    width = len(stage.replicas[seat.replica].ranks) // stage.context
    paddle.seed(drawn + before + seat.replica * stage.context + seat.place // width)


def _members(plan: Plan, seat: Seat) -> tuple[tensor.Member, tensor.Member]:
    """This rank's place in its tensor group and in its context group; all ranks make all groups."""
    found: dict[tuple[int, ...], Any] = {}
    own = []
    for held in plan.homes:
        stage = plan.stages[held[0]]
        for replica in stage.replicas:
            width = len(replica.ranks) // stage.context
            rows = [replica.ranks[first : first + width] for first in range(0, len(replica.ranks), width)]
            for ranks in (*rows, *zip(*rows, strict=True)):
                if len(ranks) > 1 and ranks not in found:
                    found[ranks] = circles.group(ranks)
            if seat.rank in replica.ranks:
                own = [rows[seat.place // width], replica.ranks[seat.place % width :: width]]
    first, second = (
        tensor.Member(degree=len(ranks), rank=ranks.index(seat.rank), group=found.get(ranks)) for ranks in own
    )
    return first, second


def _on_shares(plan: Plan, part: Part) -> list[nn.Layer]:
    """The elements that this rank runs on its share of the sequence of its tensor group."""
    held = [(plan.stages[stage].layers[0], elements) for stage, elements in part.stages.items()]
    return [e for first, elements in held for i, e in enumerate(elements, first) if part.runs[i] is not WHOLE]


def _deal(member: tensor.Member, *, mirrored: bool = False) -> Deal | None:
    """How a group deals the sequence; None where a rank is alone."""
    return Deal(group=member.group, mirrored=mirrored) if member.degree > 1 else None


def _dealt(plan: Plan, seat: Seat) -> dict[int, tensor.Member]:
    """This rank's place in the expert group of each of its stages that has one; all ranks make all groups."""
    ranks = {group for stage in plan.stages if stage.expert > 1 for group in expert_groups(stage)}
    groups = {group: circles.group(group) for group in sorted(ranks)}
    found = {}
    for index in seat.stages:
        for own in expert_groups(plan.stages[index]):
            if seat.rank in own and own in groups:
                found[index] = tensor.Member(degree=len(own), rank=own.index(seat.rank), group=groups[own])
    return found


def _place(plan: Plan, seat: Seat) -> Place:
    stage = seat.stages[0]
    return Place(
        rank=seat.rank,
        data=seat.replica,
        stage=stage,
        shard=0,
        tensor=seat.place,
        layers=plan.stages[stage].layers,
        rows=seat.rows_of_batch(plan),
    )


def held(
    part: Part, shapes: Mapping[str, list[int]], context: tensor.Member
) -> Iterator[tuple[str, tuple[paddle.Tensor, Holding]]]:
    """What this rank holds of each weight, by its name in the whole model."""
    member = part.member
    for name, parameter in part.weights.items():
        key = id(parameter)
        dim, own = part.cut.dims.get(key, -1), part.cut.members.get(key, member)
        # a slice that no other rank of the context group holds has seen all positions
        addend = 0 if dim >= 0 and own.degree > member.degree else context.rank
        if key in part.addends:
            addend = context.rank * member.degree + member.rank
        if dim < 0:
            yield name, (parameter, Holding(name, -1, 0, 1, addend))
            continue
        size = shapes[name][dim] // own.degree
        yield name, (parameter, Holding(name, dim, own.rank * size, (own.rank + 1) * size, addend))


def gather(step: Step) -> dict[str, np.ndarray]:
    """The whole model's weights, in fp32, and buffers on every rank: name in the serial model -> array."""
    driver = step.driver
    assert isinstance(driver, ByActions)
    mine = [(holding, _array(parameter)) for parameter, holding in _told_by(step, driver)]
    if driver.seat.replica == 0:
        mine += [(Holding(name, -1, 0, 1), _array(buffer)) for name, buffer in step.part.buffers.items()]
    told = circles.from_all((driver.seat.home, mine), driver.plan.world_size)
    owner: dict[str, int] = {}
    pieces: dict[str, list[tuple[Holding, np.ndarray]]] = {}
    for home, holdings in told:
        for holding, array in holdings:
            if owner.setdefault(holding[0], home) == home:  # layers of two homes may share a weight
                pieces.setdefault(holding[0], []).append((Holding(*holding), array))
    return {name: _assembled(parts) for name, parts in pieces.items()}


def _cut_by_heads(part: Part, weights: Mapping[str, paddle.Tensor]) -> frozenset[str]:
    """Weights of which ranks that share a sequence hold different slices: those of heads, under Ulysses."""
    members = {name: part.cut.members.get(id(weight), part.member) for name, weight in weights.items()}
    experts = _expert_degrees(part, weights)
    return frozenset(name for name, own in members.items() if own.degree > part.member.degree and name not in experts)


def _expert_degrees(part: Part, weights: Mapping[str, paddle.Tensor]) -> dict[str, int]:
    """For the weights that are slices of experts, by name, the size of the expert group."""
    return {name: part.cut.members[id(p)].degree for name, p in weights.items() if id(p) in part.cut.experts}


def _told_by(step: Step, driver: ByActions) -> Iterator[tuple[paddle.Tensor, Holding]]:
    """What a rank tells of its weights, so that every slice is told once: the first replica or expert group does."""
    seat, held = driver.seat, driver.gradients.parameters
    degrees = _expert_degrees(step.part, {name: parameter for name, (parameter, _) in held.items()})
    place = driver.plan.stages[seat.stages[0]].ranks.index(seat.rank)
    for name, (parameter, holding) in held.items():
        if place < degrees[name] if name in degrees else seat.replica == 0:
            yield parameter, holding


def _assembled(parts: list[tuple[Holding, np.ndarray]]) -> np.ndarray:
    """A whole weight of the parts that the ranks of one replica hold."""
    if parts[0][0].dim < 0:
        return parts[0][1]
    by_place = {holding.first: array for holding, array in parts}  # ranks that share the sequence hold the same
    return np.concatenate([by_place[first] for first in sorted(by_place)], axis=parts[0][0].dim)


def _array(value: paddle.Tensor) -> np.ndarray:
    return np.asarray((value.detach().astype("float32") if value.is_floating_point() else value).numpy())
