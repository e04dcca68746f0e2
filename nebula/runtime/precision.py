"""Reduced precision through paddle.amp: products and activations in bf16 or fp16, the optimizer's weights in fp32.

Level O2 of Paddle: parameters are cast but for those of norms, the optimizer keeps fp32 copies, and what needs fp32
(softmax, losses) gets it. fp16 scales the loss so that small gradients do not vanish. Refuses a device on which Paddle
would say nothing and train in fp32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime import circles

DTYPES = {"fp32": "", "bf16": "bfloat16", "fp16": "float16"}
"""Precision of a job -> dtype that paddle.amp casts to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What a step computes in.

    Attributes:
        dtype: `bfloat16`, `float16`, or empty for fp32.
        scaler: of the loss; None where gradients need none.
    """

    dtype: str = ""
    scaler: Any = None

    def casting(self) -> AbstractContextManager[None]:
        """Within it a forward pass and its loss compute in this precision."""
        if not self.dtype:
            return nullcontext()
        cast: AbstractContextManager[None] = paddle.amp.auto_cast(level="O2", dtype=self.dtype)
        return cast

    def scaled(self, loss: paddle.Tensor) -> paddle.Tensor:
        """What to start a backward pass from."""
        return self.scaler.scale(loss) if self.scaler else loss

    def update(self, optimizer: Any) -> None:
        """One optimizer step; with a scaler it is left out on all ranks when a gradient of any is not finite."""
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.step(optimizer)
        self.scaler.update()


def precision_of(name: str) -> Precision:
    """The precision that a job names, its loss scaler not yet told about other ranks."""
    return Precision(dtype=DTYPES[name], scaler=paddle.amp.GradScaler() if name == "fp16" else None)


def decorate(elements: list[nn.Layer], optimizer: Any, precision: Precision) -> None:
    """Casts a rank's parameters in place and makes the optimizer keep fp32 copies of them.

    Raises:
        BadInput: Paddle knows no such precision on this device and left the parameters as they were.
    """
    if not precision.dtype:
        return
    from paddle.amp.auto_cast import need_keep_fp32

    layers = [layer for element in elements for layer in element.sublayers(include_self=True)]
    cast = [layer for layer in layers if not need_keep_fp32(layer, precision.dtype)]
    paddle.amp.decorate(elements, optimizer, level="O2", dtype=precision.dtype, master_weight=True)
    dtypes = {str(p.dtype) for layer in cast for p in layer.parameters(include_sublayers=False)}
    if dtypes - {f"paddle.{precision.dtype}"}:
        raise BadInput(
            f"precision {precision.dtype}: Paddle does not train in it on {paddle.get_device()} and would silently "
            "use fp32; set job.precision=fp32 and plan again"
        )


def tell_ranks(scaler: Any) -> None:
    """Makes a loss scaler ask all ranks of fleet whether a gradient is not finite (sharding 2 and 3 wrap their own)."""
    if scaler is not None:
        from paddle.distributed import fleet

        fleet.distributed_scaler(scaler)


def ask_every_rank(scaler: Any) -> None:
    """Makes a loss scaler ask all ranks whether a gradient is not finite, where fleet knows of data parallelism alone.

    fleet leaves the scaler of a data-parallel mesh as it is, since replicas have equal gradients.
    """
    if scaler is None:
        return
    own = scaler._unscale

    def unscale(optimizer: Any) -> None:
        own(optimizer)
        found = scaler._found_inf.astype("int32")
        circles.everyone(paddle.distributed.get_world_size()).all_reduce(found, most=True)
        scaler._found_inf = found.astype("bool")

    scaler._unscale = unscale
