"""A software stack described by what it does: kernels, what it hides behind compute, dtypes, what it computes again.

The value has no name of a stack in it, so that a new one needs no new code. What a source leaves open takes the
defaults of DEFAULTS, each with its reason, and counts as assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nebula.errors import BadInput

FUSED_GENERATIONS = (1, 2, 3)
"""FlashAttention (arXiv 2205.14135), FlashAttention-2 (2307.08691) and FlashAttention-3 (2407.08608), or the like."""

GRANULARITIES = ("none", "core", "products", "layer")
"""What the backward computes again: nothing; the attention core (Korthikanti et al., arXiv 2205.05198); all but every
second matrix product and attention (torchtitan's per-operator policy); whole layers."""


LOSSES = ("composed", "steps", "kernel", "in place", "plug-in")
"""A log-softmax and a negative log-likelihood that each write their own gradient; a maximum, a difference, an
exponential, a sum and a quotient, each a kernel; one kernel, whose softmax becomes the gradient; one that writes the
gradient over the logits; one kernel, but over a cut vocabulary what PaddlePaddle composes on devices of a plug-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """Which collectives run while the device computes.

    Attributes:
        tensor: those of the tensor group, in parts beside the products that make or need them.
        data: those of data parallelism and sharding.
        pipeline: messages between stages.
        expert: those of experts.
        gradients: the tensor group's reductions of a backward, beside the products that give gradients of weights.
    """

    tensor: bool = False
    data: bool = False
    pipeline: bool = False
    expert: bool = False
    gradients: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """What the backward computes again.

    Attributes:
        what: one of GRANULARITIES.
        every: of so many layers in a row one is computed again.
    """

    what: str = "none"
    every: int = 1

    def __post_init__(self) -> None:
        if self.what not in GRANULARITIES or self.every < 1:
            raise BadInput(
                f"recompute {self.what!r} of every {self.every}: say {', '.join(GRANULARITIES)} of 1 or more"
            )

    @property
    def policy(self) -> str:
        """The nearest policy of a plan: `none`, `selective` or `full`."""
        return {"none": "none", "core": "selective", "products": "selective", "layer": "full"}[self.what]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a training step is carried out.

    Attributes:
        attention: 0 when scores are written to memory, else the generation of the fused kernel (FUSED_GENERATIONS).
        hidden: collectives behind compute.
        host_kernel_s: what the host takes to launch one kernel of a forward; the device waits where kernels are
            shorter.
        blocking: whether the host waits for each kernel before it launches the next (CUDA_LAUNCH_BLOCKING=1).
        compiled: whether a compiler or captured graphs launch whole regions, so that the host's cost vanishes.
        by_tensor: whether weights are handled one tensor after the other, as in PaddlePaddle's eager mode: a kernel
            adds each gradient to the sum before it and three clip and update each weight, gradients are copied into
            what replicas reduce and back, owners hold whole tensors under sharding stage 1, tensor ranks copy what
            they reduce, and all operators are the kernels that the block has.
        fused_pointwise: whether neighbouring pointwise operators (bias and activation, scale and mask and softmax,
            dropout and addition, the passes of a norm) are one kernel each.
        compute_dtype: of activations and of products that are not quantised.
        product_dtype: of the products of linear layers.
        gather_dtype: of parameters that sharding gathers.
        accumulation_dtype: in which gradients of micro-batches are added.
        separate_sums: whether the sums lie beside the gradients of all parameters; otherwise each gradient is added as
            soon as it is there.
        reduction_dtype: in which gradients are reduced between replicas.
        master_dtype: of the copy of the weights that the optimizer updates; empty: it updates the weights themselves.
        moments_dtype: of the optimizer's states.
        moments: numbers it keeps for each weight beside the master copy: 2 for Adam, 1 for momentum, 0 for SGD.
        float_logits: whether the loss works on float32 logits.
        loss: how it is computed, one of LOSSES.
        fused_norm: whether a norm is one kernel; in pieces it keeps float32 copies.
        dropout: probability.
        recompute: what the backward computes again.
        border_parts: whether tensor ranks that hold the same send a part of it each to the next stage, where the parts
            are gathered; otherwise each sends all of it.
        timed: whether the host waits for the device to time each section of a step.
        assumed: fields that no text says, in the order above.
    """

    attention: int = 0
    hidden: Hidden = Hidden()
    host_kernel_s: float = 24e-6
    blocking: bool = False
    compiled: bool = False
    by_tensor: bool = False
    fused_pointwise: bool = True
    compute_dtype: str = "bfloat16"
    product_dtype: str = "bfloat16"
    gather_dtype: str = "bfloat16"
    accumulation_dtype: str = "float32"
    separate_sums: bool = False
    reduction_dtype: str = "float32"
    master_dtype: str = "float32"
    moments_dtype: str = "float32"
    moments: int = 2
    float_logits: bool = True
    loss: str = "kernel"
    fused_norm: bool = True
    dropout: float = 0.0
    recompute: Recompute = Recompute()
    border_parts: bool = True
    timed: bool = False
    assumed: tuple[str, ...] = ()

    @property
    def job_precision(self) -> str:
        """The precision as a plan's job names it."""
        return {"float32": "fp32", "float16": "fp16"}.get(self.compute_dtype, "bf16")

    def same_tokens(self, *, tensor: int, sequence: bool, expert: int) -> bool:
        """Whether ranks of a tensor group give all experts the same tokens, so that their gradients are the same.

        Stacks that do not handle weights tensor by tensor deal the tokens to those ranks.

        Args:
            tensor: ranks of the group.
            sequence: whether the group cuts the sequence.
            expert: ranks over which experts are dealt.
        """
        return self.by_tensor and tensor > 1 and not sequence and expert == 1

    @property
    def provenance(self) -> tuple[tuple[str, str], ...]:
        """Pairs of field and `printed` or `assumed`."""
        fields = [f for f in self.__slots__ if f != "assumed"]
        return tuple((f, "assumed" if f in self.assumed else "printed") for f in fields)


DEFAULTS: dict[str, tuple[Any, str]] = {
    "attention": (0, "scores are written where no fused kernel is named"),
    "hidden": (Hidden(), "nothing overlaps where no overlap is named"),
    "host_kernel_s": (24e-6, "an operator called from Python took 20 to 28 us on the host of an H100"),
    "host_kernel_s before 2022": (41e-6, "and 41 us on hosts of devices that came before"),
    "blocking": (False, "hosts launch ahead of their device"),
    "blocking over omni-path": (
        True,
        "on hundreds of devices NCCL hung over Omni-Path until each launch was waited for (BigScience, "
        "train/tr11-176B-ml/chronicles-prequel.md, 'dealing with JZ hanging on the large model')",
    ),
    "compiled": (False, "kernels are launched one by one"),
    "fused_pointwise": (True, "stacks for training fuse bias, activation, mask and norm"),
    "float_logits": (True, "losses are taken in float32"),
    "loss": ("kernel", "stacks for training have a kernel for the loss over a vocabulary"),
    "loss on an npu": ("steps", "kernels of a loss over a vocabulary are written for GPUs first"),
    "fused_norm": (True, "stacks for training have a kernel for norms"),
    "master_dtype": ("float32", "mixed precision keeps a float32 copy (Micikevicius et al., arXiv 1710.03740)"),
    "moments_dtype": ("float32", "Adam's states are float32"),
    "moments": (2, "language models are trained with Adam"),
    "accumulation fp16": ("float16", "loss scaling adds gradients in fp16"),
    "accumulation bf16": ("float32", "bf16 has too few digits to add many micro-batches"),
    "dropout with scores": (0.1, "stacks without fused attention train GPT with the dropout of its paper"),
    "dropout fused": (0.0, "later models are trained without"),
}
"""What holds where a source says nothing, by feature, with the reason."""


def default(feature: str) -> Any:
    """The value of DEFAULTS."""
    return DEFAULTS[feature][0]


def without_assumptions(execution: Execution) -> Execution:
    """The same execution as if every field had been printed, to compare two by what they do."""
    return replace(execution, assumed=())
