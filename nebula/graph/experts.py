"""Expert parallelism: the block of one rank that holds a share of the experts, and of each expert's width.

Each rank keeps its tokens; their copies travel to their experts and back in two all-to-alls along the axis `expert`
(GShard, arXiv 2006.16668, section 3.2). Ranks along `expert_tensor` each hold a part of the width of the same experts
and gather the tokens of one another (MoE Parallel Folding, arXiv 2504.14960). What is no expert stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from nebula.errors import BadInput
from nebula.graph.rules import apply
from nebula.graph.values import Block, Collective, Operator, Role, Tensor


def expert_parameters(block: Block) -> frozenset[str]:
    """Names of the parameters that belong to one expert each: the weights of grouped products.

    Their gradients are summed over the ranks that hold the same share of the same experts, which are
    data * context * tensor / (expert * expert_tensor); those of the router and of shared experts as all others are.
    """
    roles = {t.name: t.role for t in block.tensors}
    made = {name: op.inputs[:1] for op in block.operators for name in op.outputs}
    found = set()
    for operator in block.operators:
        if operator.kind == "grouped_matmul":
            name = operator.inputs[1]
            while roles[name] is not Role.PARAMETER and made.get(name):
                name = made[name][0]
            if roles[name] is Role.PARAMETER:
                found.add(name)
    return frozenset(found)


def expert_parallel(block: Block, degree: int, *, expert_tensor: int = 1, same_tokens: bool = False) -> Block:
    """The block of one of `degree` * `expert_tensor` ranks that share the experts.

    The rank is the one that the step waits for: its experts get `imbalance` times the mean of the tokens, which the
    buffers between the exchanges hold and the grouped products work on.

    Args:
        block: a block with the tokens of one rank and all experts.
        degree: ranks over which the experts are dealt.
        expert_tensor: ranks over which the width of each expert is cut.
        same_tokens: whether the ranks along `expert_tensor` hold the same tokens (a tensor group without sequence
            parallelism), so that results are summed; otherwise tokens are gathered before and results scattered.

    Returns:
        The local block; what is replicated are, with `expert_tensor`, the rows that enter and leave the experts.

    Raises:
        BadInput: a degree does not divide the experts or their width.
    """
    products = [op for op in block.operators if op.kind == "grouped_matmul"]
    if degree * expert_tensor == 1 or not products:
        return block
    writer = _Writer(
        tensors=dict(block.by_name),
        degree=degree,
        expert_tensor=expert_tensor,
        same_tokens=same_tokens,
        imbalance=max(_imbalance(op) for op in products) if degree > 1 else 1.0,
        experts=block.tensor(products[0].inputs[1]).shape[0] // degree,
    )
    for operator in block.operators:
        writer.write(operator)
    experts = expert_parameters(block)
    local = replace(
        block,
        tensors=tuple(writer.tensors.values()),
        operators=tuple(writer.operators),
        gradient_sums=tuple(pair for pair in block.gradient_sums if pair[0] not in experts),
    )
    return apply(local, block)


def _imbalance(product: Operator) -> float:
    value = product.attribute("imbalance", 1.0)
    assert isinstance(value, int | float)
    return float(value)


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Writes the operators of one rank in order; operators between the exchanges work on the rows that arrived.

    Attributes:
        imbalance: rows that arrive over those that are sent.
        experts: how many the rank holds.
        moved: for rows that were sent those that arrived.
        rows: of each tensor between the exchanges.
        inner: those of them that have the width of an expert, not of the model.
    """

    tensors: dict[str, Tensor]
    degree: int
    expert_tensor: int
    same_tokens: bool
    imbalance: float
    experts: int
    operators: list[Operator] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)

    def write(self, operator: Operator) -> None:
        """Writes the operator with what it reads, and the exchanges where tokens go to the experts and come back."""
        inputs = tuple(self.moved.get(name, name) for name in operator.inputs)
        if operator.kind == "moe_unpermute":
            inputs = (self._back(inputs[0], self.tensors[operator.inputs[1]].shape[0]), *inputs[1:])
        if inputs != operator.inputs:
            operator = replace(operator, inputs=inputs)
        if operator.kind == "grouped_matmul":
            operator = self._product(operator)
        elif operator.kind != "moe_unpermute":
            self._follow(operator)
        self.operators.append(operator)
        if operator.kind == "moe_permute":
            self.moved[operator.outputs[0]] = self._there(operator.outputs[0])

    def _there(self, name: str) -> str:
        """The rows that arrive at the rank's experts, those of one expert together."""
        if self.degree > 1:
            name = self._exchange(name, "sent", ceil(self.tensors[name].shape[0] * self.imbalance), "all_to_all")
        if self.expert_tensor > 1 and self.same_tokens:
            name = self._exchange(name, "shared", self.tensors[name].shape[0], "identity", "all_reduce")
        elif self.expert_tensor > 1:
            rows = self.tensors[name].shape[0] * self.expert_tensor
            name = self._exchange(name, "gathered", rows, "all_gather", "reduce_scatter")
        name = self._sort(name)
        self.rows[name] = self.tensors[name].shape[0]
        return name

    def _back(self, name: str, rows: int) -> str:
        """The rows that return from the experts, as many as were sent."""
        name = self._sort(name)
        if self.expert_tensor > 1 and self.same_tokens:
            name = self._exchange(name, "summed", self.tensors[name].shape[0], "all_reduce", "identity")
        elif self.expert_tensor > 1:
            mine = self.tensors[name].shape[0] // self.expert_tensor
            name = self._exchange(name, "scattered", mine, "reduce_scatter", "all_gather")
        return self._exchange(name, "returned", rows, "all_to_all") if self.degree > 1 else name

    def _sort(self, name: str) -> str:
        """Rows come from each rank sorted by expert; with several experts they have to be brought together."""
        if self.degree == 1 or self.experts == 1:
            return name
        made = self._new(name, "sorted", self.tensors[name].shape[0])
        self.operators.append(Operator(name=f"{made}/moe_sort", kind="moe_sort", inputs=(name,), outputs=(made,)))
        return made

    def _exchange(self, name: str, suffix: str, rows: int, kind: str, back: str = "") -> str:
        """What arrives when rows are exchanged; `back` is the kind by which its gradient returns, if another."""
        made = self._new(name, suffix, rows)
        size = float(max(self.tensors[name].bytes, self.tensors[made].bytes))
        axis = "expert" if kind == "all_to_all" else "expert_tensor"
        forward, backward = (
            () if k == "identity" else (Collective(kind=k, axis=axis, bytes=size),) for k in (kind, back or kind)
        )
        self.operators.append(
            Operator(
                name=f"{made}/{kind}",
                kind=kind,
                inputs=(name,),
                outputs=(made,),
                forward=forward,
                backward=backward if self.tensors[name].needs_gradient else (),
            )
        )
        return made

    def _new(self, name: str, suffix: str, rows: int) -> str:
        like = self.tensors[name]
        made = f"{name}~{suffix}"
        shape = (rows, *like.shape[1:])
        shown = name if suffix == "shared" else ""
        self.tensors[made] = replace(
            like, name=made, shape=shape, role=Role.ACTIVATION, per_row=(), alias_of=shown, distribution=None
        )
        return made

    def _product(self, operator: Operator) -> Operator:
        """The grouped product of the rank's share; a width that is not cut yet is, one that is cut is summed over."""
        x, weight = operator.inputs
        inner = x in self.inner
        self._share(weight, 1 if inner else 2)
        self._resize(operator.outputs[0], self.rows[x], inner=not inner)
        attributes = dict(operator.attributes)
        if self.degree > 1:  # the rows that arrive are those of the busiest rank already
            attributes["imbalance"] = 1.0
        return replace(operator, attributes=tuple(sorted(attributes.items())))

    def _share(self, name: str, dim: int) -> None:
        """Cuts the weights [experts, in, out] by experts, and along the dim."""
        weight = self.tensors[name]
        shape = list(weight.shape)
        for at, degree, what in ((0, self.degree, "experts"), (dim, self.expert_tensor, "columns of an expert")):
            if shape[at] % degree:
                option = "expert_tensor" if at else "expert"
                raise BadInput(
                    f"{option} {degree}: {shape[at]} {what} % {degree} = {shape[at] % degree}; "
                    "choose a degree that divides them"
                )
            shape[at] //= degree
        self.tensors[name] = replace(weight, shape=tuple(shape), distribution=None)

    def _follow(self, operator: Operator) -> None:
        """Gives what an operator between the exchanges makes as many rows as arrived, and the width of its inputs."""
        read = [name for name in operator.inputs if name in self.rows]
        for name in operator.outputs if read else ():
            self._resize(name, self.rows[read[0]], inner=read[0] in self.inner)

    def _resize(self, name: str, rows: int, *, inner: bool) -> None:
        tensor = self.tensors[name]
        shape: Sequence[int] = (rows, *tensor.shape[1:])
        if inner:
            self.inner.add(name)
            shape = (*shape[:-1], shape[-1] // self.expert_tensor)
        self.rows[name] = rows
        self.tensors[name] = replace(tensor, shape=tuple(shape), per_row=(), distribution=None)
