"""What one rank holds of a model: the chain elements of its stages, cut as its tensor group asks, on its device."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.graph.splits import kind_of, sublayer_of
from nebula.plan.values import Plan, Stage
from nebula.runtime import chain, experts, nats, tensor
from nebula.runtime.attention import share_attention
from nebula.runtime.forward_backward import Loss
from nebula.runtime.recompute import apply_policy
from nebula.runtime.sequence import Deal
from nebula.runtime.shares import WHOLE, Run, runs

ALONE = tensor.Member(degree=1, rank=0)


@dataclass(slots=True, kw_only=True)
class Part:
    """What one rank holds of the model.

    Attributes:
        stages: index of a stage that it holds -> the elements of that stage, cut.
        prefixes: name in the whole model of each of its elements.
        keepers: id of a layer that keeps buffers -> its name in the whole model.
        member: its place in the tensor group.
        names: id of a local parameter -> its name in the whole model.
        cut: what tensor and expert parallelism replaced.
        runs: for each element of the whole chain whether this rank runs it on its share of the sequence.
        addends: ids of the local parameters, whole ones and slices of experts, whose gradients are of that share alone.
    """

    stages: dict[int, list[nn.Layer]]
    prefixes: list[str]
    member: tensor.Member
    names: dict[int, str]
    cut: tensor.Cut
    runs: tuple[Run, ...]
    keepers: dict[int, str] = field(default_factory=dict)
    addends: set[int] = field(default_factory=set)

    @property
    def elements(self) -> list[nn.Layer]:
        """The elements of all its stages."""
        return [element for elements in self.stages.values() for element in elements]

    @property
    def weights(self) -> dict[str, paddle.Tensor]:
        """The local parameters by their names in the whole model."""
        by_id = {id(p): p for element in self.elements for p in element.parameters()}
        return {name: by_id[key] for key, name in self.names.items()}

    @property
    def sliced(self) -> list[str]:
        """Names of the weights of which it holds a slice."""
        return [name for key, name in self.names.items() if key in self.cut.dims]

    @property
    def buffers(self) -> dict[str, paddle.Tensor]:
        """What its elements keep beside parameters (running statistics, the balance of experts), named likewise."""
        found: dict[str, paddle.Tensor] = {}
        for prefix, element in zip(self.prefixes, self.elements, strict=True):
            parameters = {id(p) for p in element.parameters()}
            for own, layer in element.named_sublayers(include_self=True):
                path = self.keepers.get(id(layer), ".".join(filter(None, (prefix, own))))
                named = layer.state_dict(include_sublayers=False).items()
                found |= {f"{path}.{name}" if path else name: t for name, t in named if id(t) not in parameters}
        return found


def part_of(
    model: nn.Layer,
    loss: Loss,
    split: Mapping[str, str] | None,
    plan: Plan,
    stages: Sequence[int],
    member: tensor.Member,
    context: tensor.Member = ALONE,
    dealt: Mapping[int, tensor.Member] = MappingProxyType({}),
) -> tuple[Part, Loss]:
    """A rank's elements with its slices of the weights, and the loss that fits them.

    Args:
        split: the model's table of what a tensor group cuts.
        stages: that the rank holds.
        member: its place in the tensor group that holds them.
        context: its place in the group that shares the sequence.
        dealt: stage -> its place in the expert group there, where there is one.

    Raises:
        BadInput: the model is not the plan's, or cannot be cut so.
    """
    elements = chain.elements(model)
    chain.check_length(len(elements), plan.stages[-1].layers[1])
    names, cut = chain.parameter_names(model), tensor.Cut()
    spans = [plan.stages[stage].layers for stage in stages] if len(plan.stages) > 1 else [(0, len(elements))]
    held = {stage: elements[first:last] for stage, (first, last) in zip(stages, spans, strict=True)}
    called = chain.element_names(model, elements)
    prefixes = [name for first, last in spans for name in called[first:last]]
    degree = max(stage.tensor // stage.context for stage in plan.stages)
    if degree > 1:
        split = _checked_split(split, elements, degree)
    found = runs(elements, split or {}, member.degree if plan.sequence_parallel else 1)
    keepers = {id(layer): name for name, layer in model.named_sublayers(include_self=True) if layer._buffers}
    part = Part(stages=held, prefixes=prefixes, member=member, names={}, cut=cut, runs=found, keepers=keepers)
    sharing = {id(element) for element, run in zip(elements, found, strict=True) if run is not WHOLE}
    tables = member
    if context.degree > 1:
        _check_token_wise(part, context.degree)
        tables = _tables(part, split or {}, plan.stages[stages[0]], member, context)
    if tables.degree > 1:
        assert split is not None
        shared_logits = "cross_entropy" in parameters_of(loss) and tensor.cuts_vocabulary(elements[-1], split)
        for element in part.elements:
            gather = not (shared_logits and element is elements[-1])
            by_share = id(element) in sharing
            tensor.cut_element(element, split, member, gather=gather, cut=cut, on_shares=by_share, tables=tables)
        _check_untied(part.elements, names, cut)
        if shared_logits and member.degree > 1:
            nats.check(parameters_of(loss)["cross_entropy"].default)
            loss = functools.partial(loss, cross_entropy=functools.partial(nats.cross_entropy, group=member.group))
    experts.check(elements, split, plan)
    for stage, group in dealt.items():
        for element in held[stage]:
            experts.cut_element(element, split, group, cut, own_tokens=member.degree == 1 or id(element) in sharing)
    shared = [p for element in part.elements if id(element) in sharing for p in element.parameters()]
    part.addends |= {id(p) for p in shared if id(p) not in cut.dims} | cut.experts
    part.names = {id(cut.replaced[old]): name for old, name in names.items() if old in cut.replaced}
    here = {id(p) for element in part.elements for p in element.parameters()}
    part.names |= {old: name for old, name in names.items() if old in here}
    return part, loss


def settle(part: Part, plan: Plan, device: str, deal: Deal | None = None) -> None:
    """Moves a rank's part to its device, where it recomputes what the plan says.

    Args:
        deal: of the sequence to the ranks that share it; None where none does.
    """
    for stage, elements in part.stages.items():
        held = plan.stages[stage]
        again = held.recompute_layers or len(elements)
        for index, element in enumerate(elements):
            if deal and held.exchange == "gather":  # what it gathers is gathered again where scores are computed again
                share_attention(element, held.exchange, deal)
            apply_policy(element, held.recompute if index < again else "none")
            if deal and held.exchange != "gather":
                share_attention(element, held.exchange, deal)
            element.to(device=device)
            element.train()


def _check_token_wise(part: Part, degree: int) -> None:
    """Refuses to share the sequence of an element that does not say that its tokens meet in attention alone."""
    for prefix, element in zip(part.prefixes, part.elements, strict=True):
        if not getattr(element, "token_wise", False):
            raise BadInput(
                f"context {degree}: {prefix or 'the model'} ({type(element).__name__}) does not say that it works on "
                "each token by itself outside of the methods that `mixes_tokens` names (`token_wise = True`); a layer "
                "that remembers earlier segments cannot: use context 1"
            )


def _tables(
    part: Part, split: Mapping[str, str], stage: Stage, member: tensor.Member, context: tensor.Member
) -> tensor.Member:
    """This rank's place among those that share the heads: under Ulysses the context group does too."""
    if stage.exchange != "ulysses":
        return member
    degree = member.degree * context.degree
    for prefix, element in zip(part.prefixes, part.elements, strict=True):
        for name, what, heads in _heads(element, split):
            if heads % degree:
                equation = f"tensor {member.degree} × context {context.degree}"
                raise BadInput(
                    f"{prefix}.{name}: {heads} {what} % ({equation}) = {heads % degree}, not 0: ulysses exchanges "
                    "positions for heads; choose ring, gather or other degrees"
                )
    if "heads" not in split.values():
        return member
    return tensor.Member(degree=degree, rank=member.rank * context.degree + context.rank)


def _heads(element: nn.Layer, split: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    """What an element has by heads: parameters that a table cuts so, and numbers that its attention counts."""
    for name, parameter in element.named_parameters():
        if kind_of(sublayer_of(name), split.items()) == "heads":
            yield name, "heads", parameter.shape[0]
    for name, layer in element.named_sublayers():
        if kind_of(name, split.items()) == "counts":
            yield from ((name, what, count) for what, count in tensor.head_counts(layer))


def _checked_split(split: Mapping[str, str] | None, elements: list[nn.Layer], degree: int) -> Mapping[str, str]:
    if not split:
        raise BadInput(
            f"tensor {degree}: the model says nowhere what to cut; give it `tensor_split`, a table of sublayer "
            "patterns to column, row, vocabulary or heads"
        )
    if not any(kind_of(name, split.items()) for element in elements for name, _ in element.named_sublayers()):
        raise BadInput(f"tensor_split ({', '.join(split)}) names no sublayer of the model's elements")
    return split


def _check_untied(elements: list[nn.Layer], names: dict[int, str], cut: tensor.Cut) -> None:
    """Refuses a weight that was cut in one layer while another still holds it whole."""
    for element in elements:
        for parameter in element.parameters():
            if id(parameter) in cut.replaced:
                raise BadInput(f"{names[id(parameter)]} is cut in one layer and shared with another; untie the two")


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or of a layer's forward."""
    target = function.forward if isinstance(function, nn.Layer) else function
    return inspect.signature(target).parameters
