"""What one layer of the chain costs one rank: kernels and collectives of a block, its parameters, what it keeps.

A block here is local already (a rank's share under tensor parallelism); where its collectives run, and how often a
layer is repeated, is known by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nebula.cluster.values import DeviceType
from nebula.cost_model.border import PLUG_INS
from nebula.cost_model.communication import Levels, collective
from nebula.cost_model.compute import compute_seconds, moving_seconds
from nebula.cost_model.exchange_kernels import copies_bytes, exchanging
from nebula.cost_model.execution import default
from nebula.cost_model.mixture_kernels import dispatched
from nebula.graph.kept import again_of, block_bytes
from nebula.graph.ring import KIND as RING
from nebula.graph.values import Block, Collective, Kernel, Operator, Work
from nebula.plan.job import RECOMPUTE

BACKWARD_HOST = 1.9
"""What a launch costs the host in a backward, over one in a forward: measured on layers of PyTorch on an H100's host,
20 us forward and 38 us backward."""

LEAST_CUT = 1024
"""Elements of a tensor up to which fleet's sharding stage 3 leaves it whole on every rank: biases and norms."""

EXPERT_KERNELS = ("grouped_matmul", "grouped_matmul_grad")

LOOKUPS = ("embedding", "index_select", "gather")
"""Kinds that read rows of a table of weights."""

ATTENDING = ("matmul", "grouped_matmul", "attention")
"""Kinds that are no part of what is done to queries, keys and scores beside cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer on one rank, for one micro-batch.

    Attributes:
        forward_s: kernels of the forward.
        backward_s: kernels of the backward, recomputation not counted.
        recompute_s: by policy, kernels that the backward runs again.
        forward_collectives: communication of the forward inside the layer.
        backward_collectives: that of the backward.
        recompute_collectives: by policy, communication that the backward runs again.
        parameter_elements: trainable elements that the rank holds.
        parameter_tensors: how many tensors they are.
        cut_tensors: of these, those that sharding stage 3 cuts.
        parameters_bytes: their bytes, which are also the bytes of their gradients.
        kept_bytes: by policy, what lies in memory from the forward to the backward.
        passing_bytes: by policy, what only this layer's backward needs while it runs, gradients of weights apart.
        gradient_bytes: of the weight that has most, which is on its way beside that.
        loss_bytes: by policy, what lies there at the loss, before any gradient of a weight; 0 in other layers.
        module_outputs: outputs of the sublayers that hold parameters of their own: how many.
        module_output_bytes: their bytes.
        output_bytes: what goes to the next layer, and comes back as a gradient.
    """

    forward_s: float
    backward_s: float
    recompute_s: Mapping[str, float]
    forward_collectives: tuple[Collective, ...]
    backward_collectives: tuple[Collective, ...]
    recompute_collectives: Mapping[str, tuple[Collective, ...]]
    parameter_elements: int
    parameter_tensors: int
    cut_tensors: int
    parameters_bytes: int
    kept_bytes: Mapping[str, int]
    passing_bytes: Mapping[str, int]
    gradient_bytes: int
    loss_bytes: Mapping[str, int]
    module_outputs: int
    module_output_bytes: int
    output_bytes: int


def layer_cost(block: Block, device: DeviceType) -> LayerCost:
    """The cost of a local block on a device type."""
    block = exchanging(dispatched(block))
    again = {policy: recomputed(block, policy) for policy in RECOMPUTE}
    saved = block.saved_bytes + copies_bytes(block, block.operators)
    tensors, outputs = block.by_name, module_outputs(block)
    kept = {policy: block_bytes(block, again_of(ops)) + _copies_kept(block, ops) for policy, ops in again.items()}
    restored = {policy: max(0, saved - kept[policy]) for policy in RECOMPUTE}
    widest = max([_written_bytes(block, op) for op in block.operators], default=0)
    beside = {policy: _beside_bytes(block, device, widest, again=bool(ops)) for policy, ops in again.items()}
    backward = [w for op in block.operators for w in op.backward]
    forward = _forward(block.operators)
    forward_s = _on_rank_seconds(forward, device)

    def again_s(operators: tuple[Operator, ...]) -> float:
        whole = len(operators) == len(block.operators)
        return forward_s if whole else _on_rank_seconds(_forward(operators), device)

    split_loss_s = [_split_loss_seconds(block, op, device) for op in block.operators]
    return LayerCost(
        forward_s=forward_s + sum(s for s, _ in split_loss_s),
        backward_s=_on_rank_seconds(backward, device, BACKWARD_HOST) + sum(s for _, s in split_loss_s),
        recompute_s={policy: again_s(ops) for policy, ops in again.items()},
        forward_collectives=_collectives(forward),
        backward_collectives=_collectives(backward),
        recompute_collectives={p: _collectives(_forward(ops)) for p, ops in again.items()},
        parameter_elements=block.parameter_count,
        parameter_tensors=len(block.parameters),
        cut_tensors=sum(t.size > LEAST_CUT for t in block.parameters),
        parameters_bytes=sum(t.bytes for t in block.parameters),
        kept_bytes=kept,
        passing_bytes={p: restored[p] + beside[p][0] for p in RECOMPUTE},
        gradient_bytes=max((t.bytes for t in block.parameters), default=0),
        loss_bytes={p: restored[p] + beside[p][1] if beside[p][1] else 0 for p in RECOMPUTE},
        module_outputs=len(outputs),
        module_output_bytes=sum(tensors[name].bytes for name in outputs),
        output_bytes=block.output_bytes,
    )


def _copies_kept(block: Block, again: Sequence[Operator]) -> int:
    """Of the copies of inputs, those that lie there until a backward that runs some operators again."""
    repeated = {op.name for op in again}
    return copies_bytes(block, (op for op in block.operators if op.name not in repeated))


def _beside_bytes(block: Block, device: DeviceType, widest: int, *, again: bool) -> tuple[int, int]:
    """What lies beside what a layer keeps while it runs backward, gradients of weights apart, and before it at a loss.

    Of a loss, whose softmax is kept and becomes the gradient of the logits, these logits lie beside it, and behind it
    nothing; where the layer is run again a copy of the gradient comes to both. One composed of operators has four
    tensors as large as its logits beside its softmax.
    """
    losses = [op for op in block.operators if op.kind == "cross_entropy"]
    if not losses:
        return 2 * widest, 0
    logits = block.tensor(losses[0].inputs[0]).bytes
    if _is_composed(losses[0], device):
        return 2 * logits if again else 0, 2 * widest + 2 * logits
    return (2 * logits, 2 * logits) if again else (0, logits)


def _on_rank_seconds(work: Sequence[Work], device: DeviceType, host: float = 1.0) -> float:
    """Seconds of the kernels, and of the copy that fleet makes of every tensor that it all-reduces.

    Paddle starts a kernel for each expert, and one that joins what they made. They are many and short, so that in a
    layer with experts the device may wait for its host, which takes `host` times as long for a launch as in a forward;
    an emulated device waits for none.
    """
    copied = [w.bytes for w in work if isinstance(w, Collective) and w.kind == "all_reduce"]
    kernels_s = compute_seconds(work, device) + moving_seconds(2.0 * sum(copied), float(len(copied)), device)
    kernels = [w for w in work if isinstance(w, Kernel)]
    by_expert = [k for k in kernels if k.kind in EXPERT_KERNELS and k.product is not None]
    if not by_expert:
        return kernels_s
    more = sum(k.product.batch - 1 for k in by_expert if k.product is not None)
    kernels_s += moving_seconds(sum(2.0 * k.written_bytes for k in by_expert), float(len(by_expert)), device)
    launches = len(work) + len(copied) + more + len(by_expert) - sum(k.kind == "contiguous" for k in kernels)
    host_s = 0.0 if device.emulated else host * float(default("host_kernel_s"))
    return max(kernels_s + more * device.kernel_s, launches * host_s)


def _split_loss_seconds(block: Block, op: Operator, device: DeviceType) -> tuple[float, float]:
    """What a loss over a cut vocabulary takes beyond one kernel, forward and backward.

    On devices of a plug-in, Paddle 3.3.1 composes it of 15 kernels that pass 17 times over a rank's logits and, in the
    backward, of 6 that pass 10 times; elsewhere it is one kernel each way that passes twice.
    """
    if not _is_composed(op, device):
        return 0.0, 0.0
    logits_bytes = float(block.tensor(op.inputs[0]).bytes)
    forward_s = moving_seconds((17 - 2) * logits_bytes, 14.0, device)
    return forward_s, moving_seconds((10 - 2) * logits_bytes, 5.0, device)


def _is_composed(op: Operator, device: DeviceType) -> bool:
    cut = any(isinstance(w, Collective) for w in op.forward)
    # Paddle has no kernel of its own for the loss over a cut vocabulary there
    return op.kind == "cross_entropy" and cut and device.kind in PLUG_INS


def communication_seconds(collectives: Iterable[Collective], levels: Levels) -> float:
    """Seconds of the collectives, one after the other, among the ranks of one tensor group."""
    return sum(collective(c.kind, levels).seconds(c.bytes) for c in collectives)


def recomputed(block: Block, policy: str) -> tuple[Operator, ...]:
    """The operators that a backward runs again; the loss, which follows the last element of a chain, is none of them.

    `full` is the whole layer and `selective` the attention cores, fused or not; a layer without attention is run again
    whole under both. A ring over written-out scores scores them again in its backward anyway: `selective` adds nothing.
    A layer whose inputs need no gradient (token ids) is never run again.
    """
    tensors = block.by_name
    if policy == "none" or not any(tensors[n].needs_gradient for n in block.inputs):
        return ()
    fused = tuple(op for op in block.operators if op.kind == "attention")
    core = (attention_methods(block) or fused) if policy == "selective" else ()
    if policy == "selective" and not core and any(op.kind == RING for op in block.operators):
        return ()
    losses = [index for index, op in enumerate(block.operators) if op.kind == "cross_entropy"]
    return core or block.operators[: losses[0] if losses else None]


def attention_cores(block: Block) -> tuple[Operator, ...]:
    """The operators from the product of queries and keys to the product with the values.

    Found from each softmax: backwards to the products that feed it, forwards to the products that read it, both
    included. A fused attention keeps no scores and is no such core.
    """
    if all(op.kind != "softmax" for op in block.operators):
        return ()
    maker = {name: op for op in block.operators for name in op.outputs}
    readers: dict[str, list[Operator]] = {}
    for op in block.operators:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    core: set[str] = set()
    for op in block.operators:
        if op.kind != "softmax":
            continue
        before = _reach(op, lambda o: [maker[n] for n in o.inputs if n in maker])
        behind = _reach(op, lambda o: [r for n in o.outputs for r in readers.get(n, ())])
        if any(o.kind == "matmul" for o in before) and any(o.kind == "matmul" for o in behind):
            core |= {o.name for o in (*before, op, *behind)}
    return tuple(op for op in block.operators if op.name in core)


def attention_methods(block: Block) -> tuple[Operator, ...]:
    """The cores, and what is done to queries, keys and scores for them alone: rotations, scales, biases of positions.

    Nebula's models do that in methods that `selective` runs again. Projections are none of it, nor what values pass.
    """
    cores = attention_cores(block)
    if not cores:
        return ()
    core, valued = {op.name for op in cores}, _before_values(block, cores)
    readers: dict[str, list[str]] = {}
    for op in block.operators:
        for name in op.inputs:
            readers.setdefault(name, []).append(op.name)
    outputs, weights = set(block.outputs), {t.name for t in block.parameters}
    for op in reversed(block.operators):
        read = [reader for name in op.outputs for reader in readers.get(name, ())]
        alone = bool(read) and core.issuperset(read) and outputs.isdisjoint(op.outputs)
        if not alone or (op.name in valued and op.kind != "contiguous"):
            continue
        weighs = not weights.isdisjoint(op.inputs) and op.kind not in LOOKUPS
        if not (weighs or op.kind in ATTENDING or any(isinstance(work, Collective) for work in op.forward)):
            core.add(op.name)
    return tuple(op for op in block.operators if op.name in core)


def _before_values(block: Block, cores: Sequence[Operator]) -> frozenset[str]:
    """Names of the operators from which the values come that cores weigh: what enters them behind a softmax."""
    weighed = {name for op in cores if op.kind == "softmax" for name in op.outputs}
    wanted: set[str] = set()
    for op in cores:
        if op.kind != "softmax" and not weighed.isdisjoint(op.inputs):
            wanted.update(name for name in op.inputs if name not in weighed)
            weighed.update(op.outputs)
    found, core = set[str](), {op.name for op in cores}
    for op in reversed(block.operators):
        if not wanted.isdisjoint(op.outputs) and op.name not in core:
            found.add(op.name)
            wanted.update(op.inputs)
    return frozenset(found)


def module_outputs(block: Block) -> tuple[str, ...]:
    """What the sublayers return that hold parameters of their own: the first output of each one's last operator."""
    holders = {tensor.name.rpartition(".")[0] for tensor in block.parameters}
    last = {op.name.rpartition("/")[0]: op.outputs[0] for op in block.operators}
    return tuple(name for path, name in last.items() if path in holders)


def _reach(start: Operator, near: Callable[[Operator], list[Operator]]) -> list[Operator]:
    """The operators reached from one, not passing through a product; products at the end are included."""
    found: dict[str, Operator] = {}
    border = near(start)
    while border:
        op = border.pop()
        if op.name in found:
            continue
        found[op.name] = op
        if op.kind != "matmul":
            border += near(op)
    return list(found.values())


def _forward(operators: Iterable[Operator]) -> list[Work]:
    return [w for op in operators for w in op.forward]


def _collectives(work: Iterable[Work]) -> tuple[Collective, ...]:
    return tuple(w for w in work if isinstance(w, Collective))


def _written_bytes(block: Block, op: Operator) -> int:
    """Bytes of an operator's largest own output: what its gradient needs while the backward passes."""
    tensors = block.by_name
    return max([tensors[n].bytes for n in op.outputs if not tensors[n].alias_of], default=0)
