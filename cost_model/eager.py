"""What PaddlePaddle's eager mode does for a job where nobody says otherwise, as the cost model takes it."""

from __future__ import annotations

from collections.abc import Iterable

from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.border import PLUG_INS
from nebula.cost_model.execution import Execution, Hidden, Recompute, default
from nebula.plan.values import PRECISION_DTYPE, Job

COMPUTED_AGAIN = {"none": "none", "selective": "core", "full": "layer"}
"""What an execution computes again under each recompute policy of a plan."""


def paddle_execution(job: Job, cluster: Cluster, recompute: str = "none") -> Execution:
    """What it does on the devices of a cluster; arguments as of eager_execution."""
    return eager_execution(PRECISION_DTYPE[job.precision], job.optimizer, [g.device for g in cluster.groups], recompute)


def eager_execution(dtype: str, optimizer: str, devices: Iterable[DeviceType], recompute: str = "none") -> Execution:
    """What it does on such devices.

    Gradients are added and reduced in the dtype of the weights, tensor by tensor. Of communication messages between
    stages alone run beside compute, each rank's whole. Fused attention is FlashAttention-2, and pointwise operators are
    kernels of their own. An emulated device waits for no host.

    Args:
        dtype: of weights, activations and products.
        optimizer: of the job.
        devices: that run it.
        recompute: policy of the plan.
    """
    types = list(devices)
    return Execution(
        hidden=Hidden(pipeline=True),
        by_tensor=True,
        border_parts=False,
        loss="plug-in" if any(device.kind in PLUG_INS for device in types) else "kernel",
        host_kernel_s=0.0 if any(device.emulated for device in types) else default("host_kernel_s"),
        attention=2,
        fused_pointwise=False,
        compute_dtype=dtype,
        product_dtype=dtype,
        gather_dtype=dtype,
        accumulation_dtype=dtype,
        reduction_dtype=dtype,
        master_dtype="" if dtype == "float32" else "float32",
        moments=2 if optimizer == "adamw" else 0,
        float_logits=False,
        recompute=Recompute(what=COMPUTED_AGAIN[recompute]),
    )
