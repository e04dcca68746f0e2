"""What a forward and a backward of one layer take on one rank under an execution: kernels, host and collectives.

Kernels are those of the layer's local block, fused as the stack does; collectives stay by axis, so that the caller
says where their groups lie. Recomputation is a pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.compute import kernels_seconds
from nebula.cost_model.exchange_kernels import exchanging
from nebula.cost_model.execution import Execution
from nebula.cost_model.fusion import fused, separate
from nebula.cost_model.layer import BACKWARD_HOST, attention_cores, recomputed
from nebula.cost_model.mixture_kernels import dispatched
from nebula.cost_model.siblings import operand_gradients
from nebula.graph.ring import KIND as RING
from nebula.graph.values import DTYPE_BYTES, Block, Collective, Kernel, Operator, Role, Work

Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_]

WEIGHTED = ("matmul", "grouped_matmul")
"""Kinds whose second input may be a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One direction of a layer.

    Attributes:
        kernels_s: device time of all kernels, or the host's for launching them where that is more; both, where a host
            waits for each kernel.
        idle_s: of these, what the device waits for its host while collectives may run.
        products_s: of these, matrix products with weights, behind which collectives of the tensor group may hide.
        weight_products_s: of these, products that give gradients of weights.
        later_s: all that a split backward leaves for its second half: those products and sums of biases.
        attention_s: fused attention, behind which a ring may pass keys and values.
        wires: collectives in order.
        beside: of these, what goes on beside the products that read what is gathered: that gather, and the sum of the
            gradient of their input.
    """

    kernels_s: float
    idle_s: float
    products_s: float
    weight_products_s: float
    later_s: float
    attention_s: float
    wires: tuple[Collective, ...]
    beside: tuple[Collective, ...] = ()


NOTHING = Pass(kernels_s=0.0, idle_s=0.0, products_s=0.0, weight_products_s=0.0, later_s=0.0, attention_s=0.0, wires=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """A layer's forward, backward and what the backward computes again."""

    forward: Pass
    backward: Pass
    again: Pass


def layer_passes(block: Block, device: DeviceType, execution: Execution) -> Passes:
    """The passes of a local block.

    Args:
        block: as one rank computes it.
        device: what runs it.
        execution: how.
    """
    return passes_under(block, (device,), (execution,))[0][0]


def passes_under(
    block: Block, devices: Sequence[DeviceType], executions: Sequence[Execution]
) -> tuple[tuple[Passes, ...], ...]:
    """The passes of a local block on each device under each execution; these differ in what is computed again alone."""
    execution = executions[0]
    done = _launched(block, execution)
    launches = _Launches(done, execution)
    forward = launches.of(done.operators, lambda op: op.forward)
    again_gathered = _gathered_again(done) if execution.by_tensor else frozenset()
    backward = launches.of(
        tuple(reversed(done.operators)),
        lambda op: (*op.forward, *op.backward) if op.name in again_gathered else op.backward,
        again_gathered,
        BACKWARD_HOST,
    )
    repeated = [computed_again(done, e) for e in executions]
    again = [
        forward if operators is done.operators else launches.of(operators, lambda op: op.forward)
        for operators in repeated
    ]
    found = []
    for device in devices:
        # one call prices the kernels of all directions
        listed = (forward, backward, *(more for more in again if more is not forward))
        ahead, back, *others = _on(listed, device, execution)
        rest = iter(others)
        found.append(
            tuple(
                Passes(
                    forward=ahead,
                    backward=back,
                    again=ahead if more is forward else _again(next(rest), operators),
                )
                for more, operators in zip(again, repeated, strict=True)
            )
        )
    return tuple(found)


def _again(own: Pass, operators: tuple[Operator, ...]) -> Pass:
    return own if operators else NOTHING


def _launched(block: Block, execution: Execution) -> Block:
    """The block with the kernels that the stack launches."""
    if execution.fused_pointwise:
        return fused(block, execution.compiled)
    return exchanging(dispatched(block)) if execution.by_tensor else separate(block)


def computed_again(block: Block, execution: Execution) -> tuple[Operator, ...]:
    """The operators that the backward of a layer runs again; of several layers only one may do so.

    PaddlePaddle runs elements of a chain again, see `recomputed`. `products` keeps every second product with a weight,
    fused attention and what collectives returned (the per-operator policy of torchtitan); `core` is the attention
    between the projections.
    """
    what = execution.recompute.what
    if execution.by_tensor:
        return recomputed(block, execution.recompute.policy)
    tensors = block.by_name
    if what == "none" or not any(tensors[n].needs_gradient for n in block.inputs):
        return ()
    if what == "layer":
        # layers are what is checkpointed: the loss is done once
        return () if any(op.kind == "cross_entropy" for op in block.operators) else block.operators
    if what == "core":
        fused_cores = tuple(op for op in block.operators if op.kind == "attention")
        return attention_cores(block) or fused_cores
    products = [op for op in block.operators if op.kind in WEIGHTED and op.forward]
    kept = {op.name for op in products[::2]}
    return tuple(
        op
        for op in block.operators
        if op.name not in kept and op.kind != "attention" and not any(isinstance(w, Collective) for w in op.forward)
    )


PLUG_IN_LOSS = {False: (17.0, 15), True: (10.0, 6)}
"""By whether it is the backward, how often PaddlePaddle 3.3.1 passes a rank's logits on devices of a plug-in where the
vocabulary is cut, and in how many kernels."""


def later_weights(block: Block, execution: Execution) -> frozenset[str]:
    """The weights and biases whose gradients a split backward leaves for later.

    Those of products; of PaddlePaddle's layers those of nn.Linear, whose products transpose no weight.
    """
    tensors = block.by_name
    made: set[str] = set()
    found: set[str] = set()
    for op in block.operators:
        if op.kind in WEIGHTED and len(op.inputs) > 1 and tensors[op.inputs[1]].role is Role.PARAMETER:
            if not (execution.by_tensor and op.attribute("transpose_y", False)):
                made.update(op.outputs)
                found.add(op.inputs[1])
        elif op.kind == "add" and op.inputs[0] in made and tensors[op.inputs[1]].role is Role.PARAMETER:
            found.add(op.inputs[1])
    return frozenset(found)


def _gathered_again(block: Block) -> frozenset[str]:
    """Gathers of a tensor group whose outputs a product with a weight reads: its backward has them gathered once more.

    So do the executor's layers, as Megatron-LM's (arXiv 2205.05198, section 4.2.2); memory counts shares alone.
    """
    tensors = block.by_name
    read = {
        op.inputs[0]
        for op in block.operators
        if op.kind in WEIGHTED and len(op.inputs) > 1 and tensors[op.inputs[1]].role is Role.PARAMETER
    }
    return frozenset(
        op.name
        for op in block.operators
        if op.outputs[:1] and op.outputs[0] in read
        if op.forward
        and all(w.kind == "all_gather" for w in op.forward if isinstance(w, Collective))
        and any(isinstance(w, Collective) and w.axis == "tensor" for w in op.forward)
    )


def _moved(kernel: Kernel) -> Kernel:
    """A copy of what a kernel writes."""
    size = kernel.written_bytes
    return Kernel(kind="copy", dtype=kernel.dtype, flops=0.0, read_bytes=size, written_bytes=size)


def _copy(wire: Collective) -> Kernel:
    return Kernel(kind="copy", dtype="float32", flops=0.0, read_bytes=wire.bytes, written_bytes=wire.bytes)


NORMS = ("layer_norm", "rms_norm", "fused_layer_norm", "fused_rms_norm")


def _in_pieces(kernel: Kernel) -> Iterable[tuple[Kernel, str]]:
    """A norm of pointwise operators in float32: converted, squared, averaged, scaled, converted back, times its weight.

    Each piece reads and writes as many elements, in 4 bytes where the kernel has 2.
    """
    moved = kernel.read_bytes + kernel.written_bytes
    piece = replace(kernel, kind="scale", flops=0.0, read_bytes=moved, written_bytes=moved / 2)
    for _ in range(5):
        yield piece, "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """What one direction launches, on whatever device.

    Attributes:
        kernels: in order.
        products: which of them are matrix products with weights or give gradients of these.
        of_weights: which give gradients of weights.
        later: which a split backward leaves for later.
        attention: which are fused attention.
        more: of each, how many launches it takes beside the first.
        wires: collectives in order.
        beside: as of Pass.
        host: how often a launch takes what one of a forward takes.
    """

    kernels: tuple[Kernel, ...]
    products: Chosen
    of_weights: Chosen
    later: Chosen
    attention: Chosen
    more: NDArray[np.int64]
    wires: tuple[Collective, ...]
    beside: tuple[Collective, ...]
    host: float

    def taking(self, kernels_s: Floats, device: DeviceType, execution: Execution) -> Pass:
        """The direction on a device that so many seconds of each kernel occupy, further launches apart."""
        if not self.kernels:
            return replace(NOTHING, wires=self.wires)
        seconds = kernels_s + self.more * device.kernel_s
        host_s = 0.0 if execution.compiled else self.host * execution.host_kernel_s
        device_s, launches_s = float(seconds.sum()), (self._calls + len(self.wires)) * host_s
        return Pass(
            kernels_s=device_s + launches_s if execution.blocking else max(device_s, launches_s),
            idle_s=0.0 if execution.blocking else max(0.0, launches_s - device_s),
            products_s=float(seconds[self.products].sum()),
            weight_products_s=float(seconds[self.of_weights].sum()),
            later_s=float(seconds[self.later].sum()),
            attention_s=float(seconds[self.attention].sum()),
            wires=self.wires,
            beside=self.beside,
        )

    @property
    def _calls(self) -> int:
        """What the host launches one by one: copies of views are made inside the operators that need them."""
        return sum(kernel.kind != "contiguous" for kernel in self.kernels) + int(self.more.sum())


def _on(every: Sequence[_Listed], device: DeviceType, execution: Execution) -> list[Pass]:
    """Those directions on a device."""
    kernels = [kernel for each in every for kernel in each.kernels]
    seconds = kernels_seconds(kernels, device, max(1, execution.attention)) if kernels else np.zeros(0)
    ends = np.cumsum([len(each.kernels) for each in every])
    own = np.split(seconds, ends[:-1])
    return [each.taking(kernels_s, device, execution) for each, kernels_s in zip(every, own, strict=True)]


TAGS = {"product": 1, "weight": 2, "whole": 4, "bias": 8, "attention": 16, "other": 32}
"""What kernels are told apart by, see _Launches.of: a bit each."""


def _tagged(tags: NDArray[np.int64], *wanted: str) -> Chosen:
    found: Chosen = (tags & sum(TAGS[tag] for tag in wanted)) != 0
    return found


class _Launches:
    """Lists what the operators of one block launch."""

    def __init__(self, block: Block, execution: Execution) -> None:
        self.execution = execution
        self._weights = {t.name for t in block.tensors if t.role is Role.PARAMETER}
        self._later = later_weights(block, execution)
        self._tensors = block.by_name
        # libraries for narrow products leave the projection to the vocabulary in 16 bits
        self._narrow = not any(op.kind == "cross_entropy" for op in block.operators)

    def of(
        self,
        operators: Sequence[Operator],
        direction: Callable[[Operator], Iterable[Work]],
        beside: frozenset[str] = frozenset(),
        host: float = 1.0,
    ) -> _Listed:
        """One direction of those operators; the collectives of those named in `beside` run beside products.

        Kernels have tags: `product` with a weight, `weight` and `bias` the gradients of what a split backward leaves
        for later, `whole` that of any other weight, `attention` or `other`.
        """
        kernels: list[Kernel] = []
        tags: list[str] = []
        more: dict[int, int] = {}
        wires: list[Collective] = []
        hidden: list[Collective] = []
        for op in operators:
            weighted = self._is_weighted(op)
            of_weight = operand_gradients(op, self._tensors)[1] if weighted else None
            for work in direction(op):
                if isinstance(work, Collective):
                    wires.append(work)
                    if op.name in beside:
                        hidden.append(work)
                    if self.execution.by_tensor and work.kind == "all_reduce":
                        kernels.append(_copy(work))
                        tags.append("other")
                    continue
                for kernel, tag in self._as_run(op, work, weighted, work is of_weight):
                    if self._by_expert(op) and kernel.product is not None:
                        more[len(kernels)] = kernel.product.batch - 1
                    kernels.append(kernel)
                    tags.append(tag)
        bits = np.array([TAGS[tag] for tag in tags], dtype=np.int64)
        return _Listed(
            kernels=tuple(kernels),
            products=_tagged(bits, "product", "weight", "whole"),
            of_weights=_tagged(bits, "weight", "whole"),
            later=_tagged(bits, "weight", "bias"),
            attention=_tagged(bits, "attention"),
            more=np.array([more.get(i, 0) for i in range(len(kernels))], dtype=np.int64),
            wires=tuple(wires),
            beside=tuple(hidden),
            host=host,
        )

    def _by_expert(self, op: Operator) -> bool:
        """Whether a kernel is started for each expert, and one more joins what they made."""
        return self.execution.by_tensor and op.kind == "grouped_matmul"

    def _loss_passes(self, op: Operator, kernel: Kernel) -> float:
        """How often the logits are passed, over the once read and once written of a single kernel.

        In steps, and always over a cut vocabulary (Shoeybi et al., arXiv 1909.08053, section 3), maximum, difference,
        exponential, sum and quotient are kernels between two reductions: 8 passes, and 4 backward. A log-softmax with a
        negative log-likelihood writes the gradient twice.
        """
        backward = kernel.kind.endswith("_grad")
        if self.execution.compiled or self.execution.loss == "in place":
            return 1.0
        if self.execution.loss == "composed":
            return 2.0 if backward else 1.0
        cut = any(isinstance(w, Collective) for w in op.forward)
        if cut and self.execution.loss == "plug-in":
            passes, _ = PLUG_IN_LOSS[backward]
            return passes / 2.0
        return (2.0 if backward else 4.0) if cut or self.execution.loss == "steps" else 1.0

    def _loss_launches(self, op: Operator, kernel: Kernel) -> int:
        """Kernels of the loss beside the first."""
        cut = any(isinstance(w, Collective) for w in op.forward)
        if not cut or self.execution.loss != "plug-in":
            return 0
        _, launches = PLUG_IN_LOSS[kernel.kind.endswith("_grad")]
        return launches - 1

    def _is_weighted(self, op: Operator) -> bool:
        return op.kind in WEIGHTED and len(op.inputs) > 1 and op.inputs[1] in self._weights

    def _as_run(self, op: Operator, kernel: Kernel, weighted: bool, of_weight: bool) -> Iterable[tuple[Kernel, str]]:
        """The kernel in the dtype that the stack computes in, with what makes its operands narrow before it.

        Args:
            op: whose kernel it is.
            kernel: as the block has it.
            weighted: whether it is a product with a weight or one of its gradients.
            of_weight: whether it gives the gradient of the weight.
        """
        if kernel.kind.startswith("attention") or op.kind == RING:
            yield kernel, "attention"
            return
        if kernel.kind.startswith(NORMS) and not self.execution.fused_norm:
            yield from _in_pieces(kernel)
            return
        if kernel.kind.startswith("cross_entropy"):
            passes = self._loss_passes(op, kernel)
            yield (
                replace(kernel, read_bytes=kernel.read_bytes * passes, written_bytes=kernel.written_bytes * passes),
                "other",
            )
            for _ in range(self._loss_launches(op, kernel)):
                yield replace(kernel, kind="scale", flops=0.0, read_bytes=0.0, written_bytes=0.0), "other"
            return
        if not weighted or kernel.product is None:
            yield kernel, "bias" if kernel.kind == "add_grad" and self._later.intersection(op.inputs) else "other"
            return
        tag = ("weight" if op.inputs[1] in self._later else "whole") if of_weight else "product"
        dtype = self.execution.product_dtype
        if not self._narrow or dtype == kernel.dtype or dtype in ("bfloat16", "float16", "float32"):
            yield kernel, tag
            if self._by_expert(op):
                yield _moved(kernel), "weight" if tag == "weight" else "other"
            return
        share = DTYPE_BYTES.get(dtype, 0.5) / DTYPE_BYTES[kernel.dtype]
        if not of_weight:
            # the activation, or the gradient that comes in, is read and written narrow in both layouts
            size = float(kernel.product.batch * kernel.product.m * kernel.product.k * DTYPE_BYTES[kernel.dtype])
            yield (
                Kernel(kind="cast", dtype=kernel.dtype, flops=0.0, read_bytes=size, written_bytes=2 * size * share),
                "other",
            )
        yield replace(kernel, dtype=dtype, read_bytes=kernel.read_bytes * share), tag
