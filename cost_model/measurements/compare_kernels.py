"""Compares the kernel model with what measure_cuda.py measured.

Usage: python3 compare_kernels.py FILE.json [FILTER]
Prints for products, attention, memory-bound kernels and layer shards, by kind and size, how many rows there are, and in
percent the bias, and the median and 90th percentile of the absolute error.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from nebula.cluster.catalogue import of_product
from nebula.cluster.values import DeviceType
from nebula.cost_model.compute import kernels_seconds, sequence_seconds
from nebula.cost_model.products import rested
from nebula.cost_model.runs.case import without_collectives
from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.values import DTYPE_BYTES, Block, Kernel, Product, Role, Scores
from nebula.models.decoders import DECODER_SPLITS, DecoderConfig
from nebula.models.describe_decoder import DecoderBlocks

HOST_S = {"product": 18e-6, "vector": 17e-6}
"""Measurements below were bound by the launching host."""

FORWARD_HOST_S, BACKWARD_HOST_S = 20e-6, 38e-6
"""What this host takes to launch a kernel of a forward and of a backward through PyTorch's modules and autograd."""

BUDGET_S, REPEATED = 0.03, 23
"""How long measure_cuda.py repeats at least, and how often what takes longer."""

GENERATION = {"flash": 2, "cudnn": 3}
LAYER_GENERATION = 3

BYTES_PER_ELEMENT = {"copy": 4, "add": 6, "gelu": 4, "silu": 4, "layer_norm": 4, "rms_norm": 4, "softmax": 4}
BYTES_PER_ELEMENT |= {"dropout": 5, "to_float32": 6}
FLOPS_PER_ELEMENT = {"gelu": 8.0, "silu": 6.0, "layer_norm": 8.0, "rms_norm": 8.0, "softmax": 8.0, "dropout": 2.0}


def product(row: dict) -> Kernel:
    """The kernel of a product row."""
    shape = Product(row.get("batch", 1), row["m"], row["n"], row["k"])
    size = DTYPE_BYTES[row["dtype"]]
    b, m, n, k = shape
    out = 2 if row["dtype"].startswith("float8") else size
    return Kernel(
        kind="matmul",
        dtype=row["dtype"],
        flops=shape.flops,
        read_bytes=float(size * b * k * (m + n)),
        written_bytes=float(out * b * m * n),
        product=shape,
    )


def attention(row: dict, backward: bool) -> Kernel:
    """The kernel of an attention row."""
    s, batch = row["seq"], row["batch"] * row["heads"]
    scores = Scores(batch, s, s // 2 if row["causal"] else s, s, row["head_dim"], row["heads"] // row["kv_heads"])
    size = 2.0 * batch * s * row["head_dim"]
    return Kernel(
        kind="attention_grad" if backward else "attention",
        dtype=row["dtype"],
        flops=(5 if backward else 2) * scores.product.flops,
        read_bytes=(5 if backward else 3) * size,
        written_bytes=(3 if backward else 1) * size,
        scores=scores,
    )


def vector(row: dict) -> Kernel:
    """The kernel of a memory-bound row."""
    elements = float(row["tokens"] * row["hidden"])
    return Kernel(
        kind={"to_float32": "cast"}.get(row["op"], row["op"]),
        dtype=row["dtype"],
        flops=FLOPS_PER_ELEMENT.get(row["op"], 1.0) * elements,
        read_bytes=BYTES_PER_ELEMENT[row["op"]] * elements / 2,
        written_bytes=BYTES_PER_ELEMENT[row["op"]] * elements / 2,
    )


@cache
def _block(
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    gated: bool,
    dtype: str,
    fused: bool,
    dropout: float,
    tensor: int,
    seq: int,
    batch: int,
) -> Block:
    config = DecoderConfig(
        style="llama" if gated else "gpt",
        layers=1,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        vocabulary=1024,
        seq_len=seq,
        fused_attention=fused,
        dropout=dropout,
    )
    block = block_with_rows(DecoderBlocks(config=config, dtype=dtype).layer(), batch)
    return without_collectives(tensor_parallel(block, tensor, DECODER_SPLITS))


def layer(row: dict) -> tuple[list[Kernel], list[Kernel]]:
    """Kernels that PyTorch launches for a layer shard, forward and backward, from the described block."""
    block = _block(
        row["hidden"],
        row["heads"],
        row["kv_heads"],
        row["ffn"],
        row["gated"],
        row.get("dtype", "bfloat16"),
        row.get("attention", "fused") == "fused",
        row.get("dropout", 0.0),
        row["tensor"],
        row["seq"],
        row["batch"],
    )
    tensors = block.by_name
    forward: list[Kernel] = []
    backward: list[Kernel] = []
    for op in block.operators:
        if op.kind in ("rope", "full"):
            continue
        bias = op.kind == "add" and tensors[op.inputs[1]].role is Role.PARAMETER
        f, b = ([w for w in work if isinstance(w, Kernel)] for work in (op.forward, op.backward))
        if op.kind == "add" and op.inputs[1].rpartition("/")[2].startswith("triu"):
            f = b = [*f, replace(f[0], kind="cast")]  # a copy, and a fill by a mask of another width
        if op.kind == "swiglu":
            f, b = _unfused_gate(f[0]), _unfused_gate(b[0])
        forward += [] if bias else f
        backward += b
    return forward, backward


def _unfused_gate(kernel: Kernel) -> list[Kernel]:
    third = replace(kernel, read_bytes=kernel.read_bytes / 2, written_bytes=kernel.read_bytes / 2)
    return [third, replace(kernel, kind="multiply", flops=0.0)]


def size_name(seconds: float) -> str:
    """The decade of a time."""
    for limit, name in ((2e-5, "< 20 us"), (1e-4, "< 100 us"), (1e-3, "< 1 ms"), (1e-2, "< 10 ms")):
        if seconds < limit:
            return name
    return ">= 10 ms"


def errors(rows: list[dict], device: DeviceType) -> dict[tuple[str, ...], list[float]]:
    """Relative errors by kind and size."""
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    products = [r for r in rows if r["op"] in ("product", "batched_product")]
    for row, s in zip(products, kernels_seconds([product(r) for r in products], device), strict=True):
        name = row["op"] if "batch" in row else f"{row['op']} {row['dtype']} {row['layout']}"
        if row["s"] > HOST_S["product"]:
            found[name, size_name(row["s"])].append(s / row["s"] - 1)
            found["product", "all"].append(s / row["s"] - 1)
    for row in rows:
        if row["op"] == "attention" and "backward_s" in row:
            for way in ("forward", "backward"):
                kernel = attention(row, way == "backward")
                s = kernels_seconds([kernel], device, GENERATION[row["kernel"]])[0]
                for key in (
                    (f"attention {row['kernel']} {way}", f"{row['head_dim']} {'causal' if row['causal'] else 'full'}"),
                    (f"attention {way}", "all"),
                ):
                    found[key].append(s / row[f"{way}_s"] - 1)
        lone = row["op"] == "add" and 4 * row["tokens"] * row["hidden"] > 256 << 20  # adds a tensor to itself
        if row["op"] in BYTES_PER_ELEMENT and row["s"] > HOST_S["vector"] and not lone:
            s = kernels_seconds([vector(row)], device)[0]
            found[row["op"], size_name(row["s"])].append(s / row["s"] - 1)
            found["vector", "all"].append(s / row["s"] - 1)
        if row["op"] == "layer_shard":
            f, b = layer(row)
            f_s, b_s = (kernels_seconds(k, device, LAYER_GENERATION).sum() for k in (f, b))
            once = rested(device, max(BUDGET_S, REPEATED * f_s))
            forward_s = sequence_seconds(kernels_seconds(f, once, LAYER_GENERATION), FORWARD_HOST_S)
            once = rested(device, max(BUDGET_S, REPEATED * (f_s + b_s)))
            host_s = len(f) * FORWARD_HOST_S + len(b) * BACKWARD_HOST_S
            both_s = max(float(kernels_seconds([*f, *b], once, LAYER_GENERATION).sum()), host_s)
            ef, eb = forward_s / row["forward_s"] - 1, both_s / row["both_s"] - 1
            kind = row.get("attention", "fused") + (" dropout" if row.get("dropout") else "")
            for way, e in (("forward", ef), ("both", eb)):
                found[f"layer {way} {kind}", f"{row['shape']} t{row['tensor']}"].append(e)
                found[f"layer {way} {kind}", "all"].append(e)
                found[f"layer {way} {kind}", "host" if both_s == host_s else "device"].append(e)
    return found


def main() -> None:
    """Print the table."""
    data = json.loads(Path(sys.argv[1]).read_text())
    device = of_product(data["device"])
    assert device is not None, data["device"]
    for key, values in errors(data["rows"], device).items():
        if len(sys.argv) > 2 and sys.argv[2] not in key[0]:
            continue
        e = 100 * np.array(values)
        p90 = np.percentile(abs(e), 90)
        counted = f"{key[0]:34s} {key[1]:20s} {len(e):5d}"
        print(f"{counted} bias {np.median(e):6.1f} median {np.median(abs(e)):5.1f} p90 {p90:5.1f}")


if __name__ == "__main__":
    main()
