"""Measures what a CUDA device's kernel libraries reach: products, attention, memory-bound kernels, whole layer shards.

Needs PyTorch with CUDA (Paddle's registry build does not run on Hopper; both call the same cuBLAS and cuDNN).
Usage: python3 measure_cuda.py OUT.json [products attention vector layers unfused optimizer]
Each row: what was run, its shape, seconds per run (median over rounds of back-to-back launches on random data; the
buffers rotate through more than the L2 cache).
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

DEVICE = "cuda"
ROTATE_BYTES = 256 << 20


def seconds(run, *, rounds: int = 5, budget_s: float = 0.03) -> float:
    """Median seconds of one call of run(i), launched back to back; i counts up so that buffers can rotate."""
    for i in range(3):
        run(i)
    torch.cuda.synchronize()
    start = time.perf_counter()
    run(0)
    torch.cuda.synchronize()
    once = max(time.perf_counter() - start, 1e-6)
    repeats = max(2, min(200, int(budget_s / rounds / once)))
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for i in range(repeats):
            run(i)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / repeats)
    return sorted(times)[rounds // 2]


def copies(bytes_each: int) -> int:
    """How many sets of buffers exceed the L2 cache."""
    return max(1, min(16, math.ceil(ROTATE_BYTES / max(1, bytes_each))))


def product(m: int, n: int, k: int, dtype: torch.dtype, layout: str) -> float:
    """[m, k] x [k, n]; layout as in training: `forward` x W^T, `dgrad` dy W, `wgrad` dy^T x."""
    count = copies((m * k + k * n + m * n) * dtype.itemsize)
    a_shape, b_shape = {"forward": ((m, k), (n, k)), "dgrad": ((m, k), (k, n)), "wgrad": ((k, m), (k, n))}[layout]
    a = [torch.randn(a_shape, device=DEVICE, dtype=dtype) for _ in range(count)]
    b = [torch.randn(b_shape, device=DEVICE, dtype=dtype) for _ in range(count)]
    left = [x.t() if layout == "wgrad" else x for x in a]
    right = [x.t() if layout == "forward" else x for x in b]
    out = [torch.empty((m, n), device=DEVICE, dtype=dtype) for _ in range(count)]
    return seconds(lambda i: torch.mm(left[i % count], right[i % count], out=out[i % count]))


def product_fp8(m: int, n: int, k: int) -> float:
    """[m, k] x [k, n] in float8_e4m3fn with per-tensor scales, output bfloat16."""
    count = copies(m * k + k * n + 2 * m * n)
    a = [torch.randn((m, k), device=DEVICE).to(torch.float8_e4m3fn) for _ in range(count)]
    b = [torch.randn((n, k), device=DEVICE).to(torch.float8_e4m3fn).t() for _ in range(count)]
    one = torch.ones((), device=DEVICE)

    def run(i: int) -> None:
        torch._scaled_mm(a[i % count], b[i % count], scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return seconds(run)


def products() -> list[dict]:
    """The products of Transformer layers over hidden size, tokens and tensor degree, in three layouts; and a cube."""
    shapes = set()
    for h, m, t in itertools.product(
        (1024, 1536, 2048, 3072, 4096, 5120, 6144, 8192, 12288), (1024, 2048, 4096, 8192, 16384), (1, 2, 4, 8)
    ):
        if h // t >= 256:
            for n, k in ((3 * h // t, h), (h, h // t), (4 * h // t, h), (h, 4 * h // t)):
                shapes |= {("forward", m, n, k), ("dgrad", m, k, n), ("wgrad", n, k, m)}
    for m, n, k in itertools.product((128, 256, 512, 1000, 1024, 2048, 3000, 4096), repeat=3):
        shapes.add(("forward", m, n, k))
    rows = []
    for layout, m, n, k in sorted(shapes):
        rows.append(
            {
                "op": "product",
                "dtype": "bfloat16",
                "layout": layout,
                "m": m,
                "n": n,
                "k": k,
                "s": product(m, n, k, torch.bfloat16, layout),
            }
        )
    for m, n, k in itertools.product((1024, 4096, 8192), (1024, 4096, 8192), (1024, 4096, 8192)):
        rows.append(
            {
                "op": "product",
                "dtype": "float16",
                "layout": "forward",
                "m": m,
                "n": n,
                "k": k,
                "s": product(m, n, k, torch.float16, "forward"),
            }
        )
        rows.append(
            {
                "op": "product",
                "dtype": "float32",
                "layout": "forward",
                "m": m,
                "n": n,
                "k": k,
                "s": product(m, n, k, torch.float32, "forward"),
            }
        )
        rows.append(
            {
                "op": "product",
                "dtype": "float8_e4m3fn",
                "layout": "forward",
                "m": m,
                "n": n,
                "k": k,
                "s": product_fp8(m, n, k),
            }
        )
    for batch, m, n, k in itertools.product((16, 64, 256), (512, 1024, 2048), (512, 1024, 2048), (64, 128)):
        x = torch.randn((batch, m, k), device=DEVICE, dtype=torch.bfloat16)
        y = torch.randn((batch, k, n), device=DEVICE, dtype=torch.bfloat16)
        rows.append(
            {
                "op": "batched_product",
                "dtype": "bfloat16",
                "batch": batch,
                "m": m,
                "n": n,
                "k": k,
                "s": seconds(lambda i, x=x, y=y: torch.bmm(x, y)),
            }
        )
    return rows


def attention() -> list[dict]:
    """Fused attention forward and forward+backward: causal and full, grouped-query, flash (FA2) and cuDNN kernels."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows = []
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for s, d, heads, kv in itertools.product((512, 1024, 2048, 4096, 8192, 32768), (64, 128), (4, 16, 32), (1, 4)):
        b = max(1, 16384 // s)
        q = torch.randn((b, heads, s, d), device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        k, v = (
            torch.randn((b, heads // kv, s, d), device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for _ in "kv"
        )
        for (name, backend), causal in itertools.product(backends.items(), (True, False)):

            def forward(i, q=q, k=k, v=v, causal=causal, kv=kv):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=kv > 1)

            row = {
                "op": "attention",
                "kernel": name,
                "dtype": "bfloat16",
                "batch": b,
                "heads": heads,
                "kv_heads": heads // kv,
                "seq": s,
                "head_dim": d,
                "causal": causal,
            }
            try:
                with sdpa_kernel(backend):
                    row["forward_s"] = seconds(forward)
                    out = forward(0)
                    grad = torch.randn_like(out)
                    row["backward_s"] = seconds(
                        lambda i, out=out, grad=grad, q=q, k=k, v=v: torch.autograd.grad(
                            out, (q, k, v), grad, retain_graph=True
                        )
                    )
            except RuntimeError as error:
                row["error"] = str(error).splitlines()[0][:120]
            rows.append(row)
    return rows


def vector() -> list[dict]:
    """Memory-bound kernels over sizes: bytes counted as ideal reads plus writes."""
    rows = []
    for tokens, h in itertools.product((64, 512, 2048, 8192, 32768), (1024, 4096, 12288)):
        count = copies(4 * tokens * h)
        xs = [torch.randn((tokens, h), device=DEVICE, dtype=torch.bfloat16) for _ in range(count)]
        w = torch.ones(h, device=DEVICE, dtype=torch.bfloat16)
        big = 2.0 * tokens * h
        runs = {
            "copy": (lambda i: xs[i % count].clone(), 2 * big),
            "add": (lambda i: xs[i % count] + xs[(i + 1) % count], 3 * big),
            "gelu": (lambda i: F.gelu(xs[i % count]), 2 * big),
            "silu": (lambda i: F.silu(xs[i % count]), 2 * big),
            "layer_norm": (lambda i: F.layer_norm(xs[i % count], (h,), w, w), 2 * big),
            "rms_norm": (lambda i: F.rms_norm(xs[i % count], (h,), w), 2 * big),
            "softmax": (lambda i: F.softmax(xs[i % count], -1), 2 * big),
            "dropout": (lambda i: F.dropout(xs[i % count], 0.1), 2.5 * big),
            "to_float32": (lambda i: xs[i % count].float(), 3 * big),
        }
        for name, (run, moved) in runs.items():
            rows.append(
                {"op": name, "dtype": "bfloat16", "tokens": tokens, "hidden": h, "bytes": moved, "s": seconds(run)}
            )
    return rows


class Shard(torch.nn.Module):
    """One tensor-parallel rank's share of a Transformer layer, without its collectives."""

    def __init__(self, h: int, heads: int, kv_heads: int, ffn: int, t: int, gated: bool, dropout: float = -1.0) -> None:
        """dropout below 0: fused attention and no dropout; else scores are written and dropped out."""
        super().__init__()
        self.dropout = dropout
        d = h // heads
        self.d, self.heads, self.kv = d, heads // t, max(1, kv_heads // t)
        linear = lambda i, o: torch.nn.Linear(i, o, bias=not gated)
        self.norm1, self.norm2 = (torch.nn.RMSNorm(h) if gated else torch.nn.LayerNorm(h) for _ in range(2))
        self.qkv, self.out = linear(h, (self.heads + 2 * self.kv) * d), linear(self.heads * d, h)
        self.up, self.down = linear(h, (2 if gated else 1) * ffn // t), linear(ffn // t, h)
        self.gated = gated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [b, s, h] -> the same shape."""
        b, s, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).split([n * self.d for n in (self.heads, self.kv, self.kv)], -1)
        q, k, v = (z.view(b, s, -1, self.d).transpose(1, 2) for z in (q, k, v))
        if self.dropout < 0:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv != self.heads)
        else:
            scores = (q @ k.transpose(2, 3) * self.d**-0.5).masked_fill(self.mask(s, x), -1e4)
            a = F.dropout(F.softmax(scores, -1), self.dropout) @ v
        x = x + self.dropped(self.out(a.transpose(1, 2).reshape(b, s, -1)))
        y = self.up(self.norm2(x))
        if self.gated:
            gate, y = y.chunk(2, -1)
            y = F.silu(gate) * y
        else:
            y = F.gelu(y)
        return x + self.dropped(self.down(y))

    def mask(self, s: int, like: torch.Tensor) -> torch.Tensor:
        """[s, s], true above the diagonal."""
        return torch.ones((s, s), dtype=torch.bool, device=like.device).triu(1)

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """Dropout where there is one."""
        return F.dropout(x, self.dropout) if self.dropout > 0 else x


SHAPES = {
    "gpt-1024": (1024, 16, 16, 4096, False),
    "gpt-2048": (2048, 16, 16, 8192, False),
    "gpt-4096": (4096, 32, 32, 16384, False),
    "gpt-8192": (8192, 64, 64, 32768, False),
    "gpt-12288": (12288, 96, 96, 49152, False),
    "llama-2048": (2048, 32, 8, 8192, True),
    "llama-4096": (4096, 32, 8, 14336, True),
    "llama-5120": (5120, 40, 40, 13824, True),
    "llama-8192": (8192, 64, 8, 28672, True),
    "llama-16384": (16384, 128, 8, 53248, True),
}


def layers() -> list[dict]:
    """Forward and backward of layer shards with fused attention, over tensor degree and micro-batch."""
    cases = itertools.product(SHAPES, (1, 2, 4, 8), (1024, 2048, 4096, 8192), (1, 2, 4), (torch.bfloat16,), (-1.0,))
    cases = [c for c in cases if c[2] * c[3] <= 16384 and not (c[2] == 1024 and c[3] > 1)]
    return [layer(*c) for c in cases if SHAPES[c[0]][0] < 16384 or c[1] > 1]


def unfused() -> list[dict]:
    """The same in fp16 with scores written to memory, without and with dropout."""
    names = [name for name in SHAPES if name.startswith("gpt")]
    cases = itertools.product(names, (1, 2, 4, 8), (1024, 2048), (1, 2, 4), (torch.float16,), (0.0, 0.1))
    return [layer(*c) for c in cases if c[2] * c[3] * SHAPES[c[0]][1] // c[1] <= 1 << 19]


def layer(name: str, t: int, s: int, b: int, dtype: torch.dtype, dropout: float) -> dict:
    """Seconds of one layer shard's forward, without and with keeping what the backward needs, and of both passes."""
    h, heads, kv, ffn, gated = SHAPES[name]
    with torch.device(DEVICE):
        shard = Shard(h, heads, kv, ffn, t, gated, dropout).to(dtype)
    x = torch.randn((b, s, h), device=DEVICE, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)

    def both(i: int) -> None:
        shard.zero_grad(set_to_none=True)
        shard(x).backward(grad)

    row = {
        "op": "layer_shard",
        "shape": name,
        "hidden": h,
        "heads": heads,
        "kv_heads": kv,
        "ffn": ffn,
        "gated": gated,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": "fused" if dropout < 0 else "unfused",
        "dropout": max(0.0, dropout),
        "tensor": t,
        "seq": s,
        "batch": b,
        "forward_s": seconds(lambda i: shard(x)),
        "both_s": seconds(both),
    }
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = shard(x)
    row["kept_bytes"] = torch.cuda.memory_allocated() - before
    out.backward(grad)
    row["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    return row


def optimizer() -> list[dict]:
    """One fused AdamW step over float32 parameters, and a launch-bound chain of tiny kernels."""
    rows = []
    for count, size in ((1, 1 << 28), (16, 1 << 24), (256, 1 << 20), (1024, 1 << 14)):
        params = [torch.nn.Parameter(torch.randn(size, device=DEVICE)) for _ in range(count)]
        for p in params:
            p.grad = torch.randn_like(p)
        step = torch.optim.AdamW(params, fused=True)
        rows.append(
            {"op": "adamw", "tensors": count, "elements": count * size, "s": seconds(lambda i, step=step: step.step())}
        )
    x = torch.randn(64, device=DEVICE)
    rows.append({"op": "tiny_eager", "s": seconds(lambda i: x.add_(1.0))})
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(100):
            x.add_(1.0)
    rows.append({"op": "tiny_graph", "s": seconds(lambda i: graph.replay()) / 100})
    return rows


GROUPS = {
    "vector": vector,
    "optimizer": optimizer,
    "layers": layers,
    "unfused": unfused,
    "attention": attention,
    "products": products,
}


def main() -> None:
    """Measure the named groups (all by default) and write one JSON file."""
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    device = torch.cuda.get_device_properties(0)
    result = {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "memory_bytes": device.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rows": [],
    }
    for name in sys.argv[2:] or GROUPS:
        start = time.perf_counter()
        result["rows"] += GROUPS[name]()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
