"""Expert parallelism of a chain element: experts are dealt to a group of ranks, and copies of tokens travel to them.

What is dealt says the kind `experts` of a table of splits: a layer whose parameters all have the experts as their first
dim, and which lets its `exchange` (nebula.models.experts.Exchange) bring the rows to their ranks and back. Each rank
computes for the tokens of the whole group, whose gradients come back weighted as their losses were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from nebula.errors import BadInput
from nebula.graph.splits import kind_of
from nebula.models.routing import Trip
from nebula.plan.values import Plan
from nebula.runtime.tensor import Cut, Member, check_divides, cut_first_dim


def check(elements: Sequence[nn.Layer], split: Mapping[str, str] | None, plan: Plan) -> None:
    """Refuses a model whose experts a plan cannot deal; every rank comes to the same answer.

    Raises:
        BadInput: no layer has experts that can be dealt, or their number does not divide by a stage's degree.
    """
    dealt = {index: stage.expert for index, stage in enumerate(plan.stages) if stage.expert > 1}
    if not dealt:
        return
    if not any(True for element in elements for _ in expert_layers(element, split)):
        raise BadInput(
            f"expert {max(dealt.values())}: the model says nowhere which layers are experts; give it `tensor_split`, a "
            "table in which a pattern of sublayers has the kind experts, or plan with expert=1"
        )
    for index, degree in dealt.items():
        for element in elements[slice(*plan.stages[index].layers)]:
            for name, layer in expert_layers(element, split):
                if not hasattr(layer, "exchange"):
                    raise BadInput(f"{name}: {type(layer).__name__} has no `exchange`; its experts cannot be dealt")
                for own, parameter in layer.named_parameters():
                    check_divides(f"{name}.{own}", "experts", parameter.shape[0], degree)


def expert_layers(element: nn.Layer, split: Mapping[str, str] | None) -> Iterator[tuple[str, Any]]:
    """The sublayers of an element that a table calls experts, by name."""
    for name, layer in element.named_sublayers():
        if kind_of(name, (split or {}).items()) == "experts":
            yield name, layer


def cut_element(
    element: nn.Layer, split: Mapping[str, str] | None, member: Member, cut: Cut, *, own_tokens: bool = True
) -> None:
    """Keeps this rank's experts of an element, in place.

    Args:
        cut: receives what was replaced.
        own_tokens: whether no other rank has the tokens that the element gets here.

    Raises:
        BadInput: it has experts, and ranks of a tensor group would send them the same tokens.
    """
    for name, layer in expert_layers(element, split):
        if not own_tokens:
            raise BadInput(
                f"{name} with expert {member.degree}: the ranks of a tensor group run its element on the same tokens; "
                "make the element `token_wise`, with heads that the tensor degree divides, or take tensor 1"
            )
        before = set(cut.dims)
        for own, part in layer.named_sublayers(include_self=True):
            cut_first_dim(part, f"{name}.{own}", "experts", member, cut)
        cut.experts |= cut.dims.keys() - before
        layer.exchange = OverGroup(member)


class OverGroup:
    """Rows travel between the ranks of a group, each of which holds as many experts.

    Args:
        member: this rank's place in it.
    """

    def __init__(self, member: Member) -> None:
        self._member = member

    def trip(self, counts: Tensor) -> Trip:
        """The ranks tell each other how many rows to expect, on the device; one copy to the host."""
        arriving = paddle.empty_like(counts)
        dist.alltoall_single(arriving, counts, group=self._member.group)
        here, there = paddle.stack([counts, arriving]).numpy()
        return Trip(counts=here, arriving=there.reshape(self._member.degree, -1))

    def there(self, x: Tensor, trip: Trip) -> Tensor:
        """Rows to their experts."""
        return _Exchanged.apply(x, trip.sent, trip.came, self._member.group)

    def back(self, x: Tensor, trip: Trip) -> Tensor:
        """Rows to where they came from."""
        return _Exchanged.apply(x, trip.came, trip.sent, self._member.group)


class _Exchanged(PyLayer):
    """An uneven all-to-all, whose gradient takes the reverse way; ranks without rows take part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], came: list[int], group: Any) -> Tensor:
        """[sum(sent), width] -> [sum(came), width]."""
        ctx.sent, ctx.came, ctx.group = sent, came, group
        return _exchanged(x, sent, came, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradients of the rows that were sent."""
        return _exchanged(gradient, ctx.came, ctx.sent, ctx.group)


def _exchanged(x: Tensor, sent: list[int], came: list[int], group: Any) -> Tensor:
    out = paddle.empty([sum(came), x.shape[1]], dtype=x.dtype)
    dist.alltoall_single(out, x.contiguous(), sent, came, group=group)
    return out
