"""The unified distributed graph: operators and tensors of one training step, repeated blocks folded.

A graph is a chain of layers, the units that a pipeline can cut between; layers that are alike share one block.
Values here are pure: who makes them (capture, descriptions) and who splits them (partition) lives beside.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from nebula.graph.distribution import Distribution

DTYPE_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "float8_e4m3fn": 1,
    "float4_e2m1fn": 1,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of an element; one of 4 bits, in which products alone compute, counts as a whole byte."""


class Role(str, enum.Enum):
    """What a tensor is to its block."""

    INPUT = "input"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    ACTIVATION = "activation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a block.

    Attributes:
        name: unique within its block; parameters carry their path in the layer (`attention.query.weight`).
        shape: dims for the rows of the block that holds the tensor.
        per_row: by how much each dim grows with one more row; empty when no dim depends on the rows.
        alias_of: the tensor whose memory this one shows (a view), or empty.
        distribution: how the tensor lies on a mesh; None before annotation or completion.
        needs_gradient: whether the backward computes a gradient of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = Role.ACTIVATION
    per_row: tuple[int, ...] = ()
    alias_of: str = ""
    distribution: Distribution | None = None
    needs_gradient: bool = False

    def __post_init__(self) -> None:
        assert self.dtype in DTYPE_BYTES, f"{self.name}: unknown dtype {self.dtype}"
        assert not self.per_row or len(self.per_row) == len(self.shape), f"{self.name}: per_row {self.per_row}"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def with_rows(self, old: int, new: int) -> Tensor:
        """The tensor of the same block fed with `new` rows instead of `old`."""
        if not self.per_row or old == new:
            return self
        shape = tuple(d + g * (new - old) for d, g in zip(self.shape, self.per_row, strict=True))
        return replace(self, shape=shape)

    def shaped(self, shape: tuple[int, ...]) -> Tensor:
        """The tensor with other dims; sooner than by `replace`, for searches ask for thousands of them."""
        return Tensor(
            name=self.name,
            shape=shape,
            dtype=self.dtype,
            role=self.role,
            per_row=self.per_row,
            alias_of=self.alias_of,
            distribution=self.distribution,
            needs_gradient=self.needs_gradient,
        )

    def lying(self, distribution: Distribution) -> Tensor:
        """The tensor distributed so; likewise."""
        return Tensor(
            name=self.name,
            shape=self.shape,
            dtype=self.dtype,
            role=self.role,
            per_row=self.per_row,
            alias_of=self.alias_of,
            distribution=distribution,
            needs_gradient=self.needs_gradient,
        )


class Product(NamedTuple):
    """A matrix product [m, k] x [k, n], `batch` times."""

    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> float:
        """A multiplication and an addition for each of batch*m*n*k."""
        return 2.0 * self.batch * self.m * self.n * self.k


class Scores(NamedTuple):
    """The scores of fused attention, which stay on the chip.

    Attributes:
        batch: rows times query heads.
        queries: tokens that ask, of each.
        seen: keys that a query sees on average.
        most: keys that the query that sees most sees; more than `seen` under a causal mask.
        width: of a key; the mean of keys and values where they differ.
        shared: query heads for one key head.
    """

    batch: int
    queries: int
    seen: int
    most: int
    width: int
    shared: int = 1

    @property
    def product(self) -> Product:
        """Queries times keys, as many as are seen; a forward has two such products, a backward five."""
        return Product(self.batch, self.queries, self.seen, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One launch on a device.

    Attributes:
        kind: the operator kind that launches it, with the suffix `_grad` in a backward.
        dtype: dtype of the arithmetic.
        flops: floating-point operations (a multiply-add is two).
        read_bytes: bytes read from device memory.
        written_bytes: bytes written to device memory.
        product: the shape of the matrix product, when it is one.
        scores: those of fused attention, when it is that.
    """

    kind: str
    dtype: str
    flops: float
    read_bytes: float
    written_bytes: float
    product: Product | None = None
    scores: Scores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One communication among the ranks along a mesh axis.

    Attributes:
        kind: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, ring_exchange or ring_return.
        axis: name of the mesh axis (`tensor`, `expert`, `context`, ...).
        bytes: size of the larger buffer on one rank: the tensor of an all_reduce or broadcast, the output of an
            all_gather, the input of a reduce_scatter, the local buffer of an all_to_all. Of a ring_exchange it is what
            a rank sends to the next one at a time; among p ranks it does so p - 1 times, beside the kernels, and p
            times in a ring_return, which is waited for.
    """

    kind: str
    axis: str
    bytes: float


Work = Kernel | Collective


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of a block with its work in both directions.

    Attributes:
        name: unique within its block.
        kind: canonical kind (`matmul`, `softmax`, `layer_norm`, ...; see nebula.graph.rules).
        inputs: names of the tensors read, in the order of the kind's arguments.
        outputs: names of the tensors written.
        attributes: sorted pairs of attribute name and hashable value.
        forward: launches and collectives of the forward pass.
        backward: launches and collectives of the backward pass; empty when nothing upstream needs a gradient.
        saved: tensors kept from the forward for the backward.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, object], ...] = ()
    forward: tuple[Work, ...] = ()
    backward: tuple[Work, ...] = ()
    saved: tuple[str, ...] = ()

    def attribute(self, name: str, default: object = None) -> object:
        """The attribute's value, or `default`."""
        return dict(self.attributes).get(name, default)

    def working(self, forward: tuple[Work, ...], backward: tuple[Work, ...]) -> Operator:
        """The operator with that work; sooner than by `replace`."""
        return Operator(
            name=self.name,
            kind=self.kind,
            inputs=self.inputs,
            outputs=self.outputs,
            attributes=self.attributes,
            forward=forward,
            backward=backward,
            saved=self.saved,
        )


@dataclass(frozen=True, kw_only=True)
class Block:
    """The operators of one layer (or of all layers that are alike).

    Attributes:
        name: what the block is, by class or description (`ErnieLayer`).
        module: the part of the model that it belongs to (`universal`, `nlu`, ...), or empty.
        rows: the rows of the micro-batch that all shapes here hold for.
        inputs: tensors that come from the layer before (or from the data), in order.
        outputs: tensors that go to the layer behind, in order; all of them cross a stage border there.
        gradient_sums: on a block that one rank of a mesh runs, pairs of a parameter and the mesh axes along which its
            gradients are addends after the backward, to be summed once a step.
    """

    name: str
    rows: int
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str = ""
    gradient_sums: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self.by_name[name]

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """All tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """The trainable tensors."""
        return tuple(t for t in self.tensors if t.role is Role.PARAMETER)

    @property
    def parameter_count(self) -> int:
        """Number of trainable elements."""
        return sum(t.size for t in self.parameters)

    @property
    def forward_flops(self) -> float:
        """Floating-point operations of the forward pass."""
        return sum(k.flops for op in self.operators for k in op.forward if isinstance(k, Kernel))

    @property
    def backward_flops(self) -> float:
        """Floating-point operations of the backward pass, recomputation not counted."""
        return sum(k.flops for op in self.operators for k in op.backward if isinstance(k, Kernel))

    @property
    def output_bytes(self) -> int:
        """Bytes that cross a stage border behind this block."""
        tensors = self.by_name
        return sum(tensors[n].bytes for n in self.outputs)

    @property
    def input_bytes(self) -> int:
        """Bytes that come in from the layer before."""
        tensors = self.by_name
        return sum(tensors[n].bytes for n in self.inputs)

    @property
    def saved_bytes(self) -> int:
        """Bytes kept from forward to backward; each memory counted once, parameters and buffers not."""
        tensors = self.by_name

        def owner(name: str) -> Tensor:
            tensor = tensors[name]
            return owner(tensor.alias_of) if tensor.alias_of else tensor

        kept = {owner(n).name for op in self.operators for n in op.saved}
        return sum(tensors[n].bytes for n in kept if tensors[n].role in (Role.INPUT, Role.ACTIVATION))


class Run(NamedTuple):
    """`layers` equal layers in a row, from layer `first` on."""

    block: int
    first: int
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedGraph:
    """One training step of a model as a chain of layers.

    Attributes:
        name: the model.
        blocks: the distinct blocks, each once.
        layers: for each layer of the chain the index of its block.
        layer_names: for each layer its name (`universal.3`), for people.
        rows: rows of the micro-batch that the shapes hold for.
        tokens_per_row: tokens (or samples' elements that throughput is counted in) of one row of the global batch.
        splits: pairs of a pattern over paths of sublayers and how tensor parallelism cuts what it matches (see
            nebula.graph.splits); the rest is replicated.
        tied_elements: parameters of the last layer that are those of the first: a projection to the vocabulary with the
            weights of the embedding. The blocks of both hold them, as stages of a pipeline do.
    """

    name: str
    blocks: tuple[Block, ...]
    layers: tuple[int, ...]
    layer_names: tuple[str, ...]
    rows: int
    tokens_per_row: int
    splits: tuple[tuple[str, str], ...] = ()
    tied_elements: int = 0

    def __post_init__(self) -> None:
        assert len(self.layers) == len(self.layer_names)
        assert all(block.rows == self.rows for block in self.blocks)

    def block_of(self, layer: int) -> Block:
        """The block of a layer."""
        return self.blocks[self.layers[layer]]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The chain folded: runs of equal layers."""
        out: list[Run] = []
        first = 0
        for block, same in groupby(self.layers):
            layers = len(list(same))
            out.append(Run(block, first, layers))
            first += layers
        return tuple(out)

    @property
    def parameter_count(self) -> int:
        """Trainable elements of the whole model, tied ones once."""
        return sum(self.blocks[i].parameter_count for i in self.layers) - self.tied_elements

    @property
    def forward_flops(self) -> float:
        """Forward FLOPs of one micro-batch of `rows` rows."""
        return sum(self.blocks[i].forward_flops for i in self.layers)

    @property
    def backward_flops(self) -> float:
        """Backward FLOPs of one micro-batch of `rows` rows, recomputation not counted."""
        return sum(self.blocks[i].backward_flops for i in self.layers)
