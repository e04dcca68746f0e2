"""Random annotations and values, and the comparison of a partitioned block with the whole one."""

from __future__ import annotations

import random

import numpy as np

from nebula.graph.completion import complete
from nebula.graph.distribution import Distribution, Mesh, distribution
from nebula.graph.interpret import gather, run, run_partitioned
from nebula.graph.interpret_gradient import gradients
from nebula.graph.interpret_ranks import SimulatedRanks
from nebula.graph.interpret_steps import assemble, shard
from nebula.graph.partition import partition
from nebula.graph.values import Block, Operator, Role, Tensor

MESHES = (
    Mesh(shape=(2,), axes=("tensor",)),
    Mesh(shape=(4,), axes=("expert",)),
    Mesh(shape=(3,), axes=("context",)),
    Mesh(shape=(2, 2), axes=("data", "tensor")),
    Mesh(shape=(2, 3), axes=("data", "sequence")),
    Mesh(shape=(2, 2, 2), axes=("data", "context", "tensor")),
)
FLOATS = ("float32", "bfloat16", "float64")


def operator_block(kind, inputs, outputs, ids=(), integers=(), parameters=(), leaving=None, **attributes) -> Block:
    """A block of one operator: `ids` are inputs, `integers` outputs that hold integers; `leaving` leave the block."""
    tensors = []
    for i, shape in enumerate(inputs):
        role = Role.PARAMETER if i in parameters else Role.INPUT
        whole_numbers = i in ids
        tensors.append(
            Tensor(
                name=f"in{i}",
                shape=shape,
                dtype="int64" if whole_numbers else "float32",
                role=role,
                needs_gradient=not whole_numbers,
            )
        )
    for i, shape in enumerate(outputs):
        integer = i in integers
        tensors.append(
            Tensor(name=f"out{i}", shape=shape, dtype="int64" if integer else "float32", needs_gradient=not integer)
        )
    operator = Operator(
        name="op",
        kind=kind,
        inputs=tuple(t.name for t in tensors[: len(inputs)]),
        outputs=tuple(t.name for t in tensors[len(inputs) :]),
        attributes=tuple(sorted(attributes.items())),
    )
    names = tuple(t.name for t in tensors if t.role is Role.INPUT)
    outputs = operator.outputs if leaving is None else tuple(f"out{i}" for i in leaving)
    return Block(name=kind, rows=1, tensors=tuple(tensors), operators=(operator,), inputs=names, outputs=outputs)


def random_values(block: Block, rng: np.random.Generator, below: int = 2) -> dict[str, np.ndarray]:
    """Values of everything that no operator makes; integers lie below `below`."""
    out = {}
    for t in block.tensors:
        if t.role is not Role.ACTIVATION:
            ids = not t.dtype.startswith(("float", "bfloat"))
            out[t.name] = rng.integers(0, below, t.shape) if ids else rng.standard_normal(t.shape)
    return out


def random_distribution(rng: random.Random, mesh: Mesh, tensor: Tensor) -> Distribution:
    """Cuts and partial sums that fit the tensor."""
    cuts = [-1] * len(tensor.shape)
    partial = set()
    for axis in rng.sample(range(len(mesh.shape)), len(mesh.shape)):
        free = [d for d, n in enumerate(tensor.shape) if cuts[d] < 0 and n % mesh.shape[axis] == 0]
        drawn = rng.random()
        if free and drawn < 0.6:
            cuts[rng.choice(free)] = axis
        elif drawn < 0.75 and tensor.dtype in FLOATS:
            partial.add(axis)
    return Distribution(mesh=mesh, dims_mapping=tuple(cuts), partial=frozenset(partial))


def random_annotations(rng: random.Random, block: Block) -> dict[str, Distribution]:
    """Distributions of one to six tensors on one mesh."""
    mesh = rng.choice(MESHES)
    chosen = rng.sample(block.tensors, rng.randint(1, min(6, len(block.tensors))))
    return {t.name: random_distribution(rng, mesh, t) for t in chosen}


def assert_forward_equals(block: Block, annotations, values, serial=None) -> Block:
    """Every tensor of the partitioned block, put together, equals the whole block's; returns the local block."""
    serial = run(block, values) if serial is None else serial
    local = partition(complete(block, annotations))
    mesh = next(iter(annotations.values())).mesh
    state = run_partitioned(local, values, SimulatedRanks(mesh))
    for t in block.tensors:
        if t.name in state:
            np.testing.assert_allclose(gather(local, t.name, state[t.name]), serial[t.name], 1e-6, 1e-6, err_msg=t.name)
    return local


def assert_backward_equals(block: Block, annotations, values) -> None:
    """Every gradient of the partitioned block, reported sums done, equals the whole block's."""
    mesh = next(iter(annotations.values())).mesh
    rng = np.random.default_rng(1)
    wanted = [o for o in block.outputs if block.tensor(o).needs_gradient]
    seeds = {o: rng.standard_normal(block.tensor(o).shape) for o in wanted}
    alone = SimulatedRanks(Mesh(shape=(1,), axes=("alone",)))
    serial = {name: {0: value} for name, value in run(block, values).items()}
    right = gradients(block, serial, {o: {0: seed} for o, seed in seeds.items()}, alone)

    local, ranks = partition(complete(block, annotations)), SimulatedRanks(mesh)
    state = run_partitioned(local, values, ranks)
    cut = {o: distribution(mesh, local.tensor(o).distribution.cuts) for o in wanted}
    shards = {o: {r: shard(seed, cut[o], r) for r in ranks.here} for o, seed in seeds.items()}
    found = gradients(local, state, shards, ranks)
    later = dict(local.gradient_sums)
    for name in right.keys() & {t.name for t in block.tensors}:
        sums = frozenset(mesh.axis(axis) for axis in later.get(name, ()))
        lies = distribution(mesh, local.tensor(name).distribution.cuts, sums)
        whole = assemble(found[name], lies, block.tensor(name).shape)
        # gradients of pointwise operators are differences, whose rounding grows with the largest of them
        noise = 1e-8 * np.abs(right[name][0]).max(initial=100.0)
        np.testing.assert_allclose(whole, right[name][0], 1e-6, noise, err_msg=f"gradient of {name}")
