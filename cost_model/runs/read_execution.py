"""The execution of a row, read from its fields and texts; what they leave open is taken from DEFAULTS and noted.

Texts are matched by features (`userbuffers`, `fp32_allreduce`, `per-op`), never by the name of a stack.
"""

from __future__ import annotations

import re
from typing import Any

from nebula.cost_model.execution import Execution, Hidden, Recompute, default
from nebula.cost_model.runs.devices import find_device, first_year
from nebula.cost_model.runs.hardware import parts_of, several_nodes
from nebula.cost_model.runs.links import network
from nebula.cost_model.runs.schema import Row
from nebula.units import parse_seconds

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

MONTH = (
    r"(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec|january|february|march|april|august|september|october"
    r"|november|december)"
)
"""Names of months as texts write them; `decoder` is none."""

PRODUCT_DTYPES = (
    (r"nvfp4|mxfp4|fp4", "float4_e2m1fn"),
    (r"mxfp8|fp8|float8|e4m3", "float8_e4m3fn"),
    (r"bf16|bfloat16", "bfloat16"),
    (r"fp16|float16|half", "float16"),
    (r"tf32|fp32|float32|single", "float32"),
)
"""Precisions as sources write them, narrowest first: `fp8-rowwise` and `fp8-cs` are fp8 with other scales."""

OPTIMIZER_MOMENTS = ((r"adam|lamb", 2), (r"muon|lion|momentum|adafactor", 1), (r"sgd", 0))


def execution_of(row: Row) -> Execution:
    """How the row's step was carried out."""
    reader = _Reader(row)
    fields: dict[str, Any] = {
        "attention": reader.attention(),
        "hidden": reader.hidden(),
        **reader.launches(),
        **reader.dtypes(),
        **reader.optimizer(),
        "recompute": reader.recompute(),
        "timed": reader.says(r"wall_clock_breakdown true|blocking timers"),
    }
    fields["dropout"] = reader.dropout(fields["attention"])
    return Execution(**fields, assumed=tuple(sorted(reader.assumed)))


def recompute_of(text: str) -> Recompute:
    """What a text as `selective (every-2nd-layer AC)` means.

    Example:
        >>> recompute_of("selective (per-op)"), recompute_of("full")
        (Recompute(what='products', every=1), Recompute(what='layer', every=1))
    """
    lower = text.lower()
    if "per-op" in lower or "per op" in lower:
        return Recompute(what="products")
    every = re.search(r"every[- ]([0-9]+)(?:nd|rd|th)?[- ]layer", lower)
    if every:
        return Recompute(what="layer", every=int(every[1]))
    if re.search(r"select|core|attention", lower):
        return Recompute(what="core")
    if re.search(r"full|uniform|block|true|checkpoint|\ball\b", lower):
        return Recompute(what="layer")
    return Recompute()


class _Reader:
    """Reads one feature after the other and remembers what had to be assumed."""

    def __init__(self, row: Row) -> None:
        self.row = row
        more = row.execution.model_extra or {}
        stack = " ".join(f"{k} {v}" for k, v in more.items())
        table = str(row.source.get("table", ""))
        self.text = " ; ".join(
            (table, row.overlap, row.notes, row.assumptions, row.recompute, row.optimizer, stack)
        ).lower()
        self.assumed: set[str] = set()

    def says(self, pattern: str) -> bool:
        """Whether any text matches."""
        return re.search(pattern, self.text) is not None

    def otherwise(self, field: str, feature: str = "") -> Any:
        """The default of a field, noted as assumed."""
        self.assumed.add(field)
        return default(feature or field)

    def attention(self) -> int:
        """Generation of the fused kernel, 0 without one."""
        given = self.row.execution.attention.lower()
        named = re.search(r"(?:flash[- ]?attention|flash|\bfa)[- ]?v?([1-4])\b", f"{given} {self.text}")
        if named:
            return min(int(named[1]), 3)
        if "unfused" in given or ("no flash" in self.text and not given):
            return 0
        if (given and re.search(r"fused|flash|sdpa|xformers|cudnn", given)) or self.says(r"\bflash\b"):
            self.assumed.add("attention")
            return self._generation()
        return int(self.otherwise("attention"))

    def _generation(self) -> int:
        """That of the year of the source; without one, of the device's first year. A share of a layer is timed today.

        PyTorch's own attention, which its compiler and its sharding work with, stayed with the second.
        """
        if self.says(r"torch\.compile|fsdp2"):
            return 2
        year = 9999.0 if self.row.kind == "layer_shard" else year_of(self.row) or first_year(self.row.device)
        return max((g for g, since in GENERATION_YEARS if year >= since), default=1)

    def hidden(self) -> Hidden:
        """From the row's booleans; where they are absent, from the text."""
        given = self.row.execution.overlap
        printed = (given.tensor, given.data, given.pipeline)
        if all(p is None for p in printed) and not self.row.overlap:
            self.assumed.add("hidden")
        patterns = {
            "tensor": r"userbuffers|tp overlap|tensor[- ]parallel overlap|async-?tp|\bmc2\b|tp[_-]comm[_-]overlap",
            "data": r"overlap-(?:grad|param)|prefetch|bucketed overlap|grad(?:ient)?[- /]*(?:sync|reduce)[^;]*overlap",
            "pipeline": r"p2p overlap|overlap[^;]*p2p",
            "expert": r"(?:moe|a2a|all-to-all|expert)[^;]*overlap|dualpipe",
        }
        values = {
            name: bool(flag) if (flag := getattr(given, name)) is not None else self.says(pattern)
            for name, pattern in patterns.items()
        }
        return Hidden(**values, gradients=self.says(r"(?:all-?reduce|reduction)[^;]*\b(?:wgrad|weight[- ]grad)"))

    def launches(self) -> dict[str, Any]:
        """Who launches kernels, and how many."""
        compiled = self.says(r"torch\.compile|compiled|cuda graphs?|full_iteration|jax|xla")
        if not compiled and not self.says(r"\beager\b"):
            self.assumed.add("compiled")
        separate = self._separate(compiled)
        if not separate and not compiled and not self.says(r"fused (?:kernels|norm|rope|softmax)"):
            self.assumed.add("fused_pointwise")
        cost = re.search(r"(?:kernel|launch)[^;]{0,20}?([0-9.]+\s*(?:us|ns|ms))", self.text)
        feature = "host_kernel_s before 2022" if first_year(self.row.device) < 2022 else "host_kernel_s"
        host_s = parse_seconds(cost[1]) if cost else self.otherwise("host_kernel_s", feature)
        return {
            "host_kernel_s": host_s,
            "blocking": self._blocking(),
            "compiled": compiled,
            "fused_pointwise": not separate,
            "fused_norm": self._fused_norm(),
        }

    def _blocking(self) -> bool:
        """As the text says; over several nodes of Omni-Path so that NCCL does not hang."""
        if self.says(r"launch_blocking|(?:blocking|synchronous) launch"):
            return not self.says(r"launch_blocking[ =:]*(?:0|false|off)|no (?:blocking|synchronous) launch")
        over = network(self.row.inter) == "omni-path" and several_nodes(parts_of(self.row), self.row)
        return bool(self.otherwise("blocking", "blocking over omni-path" if over else "blocking"))

    def _separate(self, compiled: bool) -> bool:
        """Whether pointwise operators are kernels of their own.

        As the text says; what shards any PyTorch model leaves it the kernels of its operators, and who names some
        fused kernels has no others.
        """
        if compiled:
            return False
        said = self.says(r"no (?:kernel )?fusion|separate kernels|unfused kernels|\beager\b")
        return said or self._names_few() or "fsdp" in self.row.zero.lower() or self.row.kind == "layer_shard"

    def _names_few(self) -> bool:
        return self.says(r"fused (?:rope|softmax|attention)") and not self.says(r"fused[^;]{0,20}norm")

    def _fused_norm(self) -> bool:
        """As the text says; one that names other fused kernels and not the norm has none for it."""
        return False if self._names_few() else bool(self.otherwise("fused_norm"))

    def dtypes(self) -> dict[str, Any]:
        """Of activations, products, gathers, accumulation, reduction and logits."""
        products = _dtype(self.row.precision)
        compute = products if products in ("bfloat16", "float16", "float32") else "bfloat16"
        accumulation = self._accumulation(compute)
        reduction = accumulation
        if self.says(r"fp32_allreduce true|fp32 (?:all-?reduce|reduction)"):
            reduction = "float32"
        if self.says(r"(?:bf16|fp16) (?:grads?/)?reduce"):
            reduction = compute
        gathered = products if self.says(r"fp8 all-?gather") else compute
        float_logits = True if self.says(r"fp32 logits") else not self.says(r"(?:bf16|fp16) logits")
        if not self.says(r"logits"):
            float_logits = bool(self.otherwise("float_logits"))
        return {
            "compute_dtype": compute,
            "product_dtype": products,
            "gather_dtype": gathered,
            "accumulation_dtype": accumulation,
            # who says that it adds in float32 has gradients in another dtype, and adds them after the backward
            "separate_sums": accumulation != compute and self.says(r"accumulates? gradients in fp32"),
            "reduction_dtype": reduction,
            "float_logits": float_logits,
            "loss": self._loss(),
        }

    def recompute(self) -> Recompute:
        """As the row says; `selective` of a text on selective activation checkpointing (AC) is by operator."""
        found = recompute_of(self.row.recompute)
        return Recompute(what="products") if found.what == "core" and self.says(r"selective ac\b") else found

    def _loss(self) -> str:
        if self.says(r"_cef\b|cross[- ]entropy(?:[- ]loss)?[- ]fusion|fused cross|liger|cut cross"):
            return "in place"
        if self.says(r"fsdp2|\beager loss"):
            # PyTorch's own sharding of any model leaves it its own loss, a log-softmax and a negative log-likelihood
            return "composed"
        npu = find_device(self.row.device).device.kind == "npu"
        return str(self.otherwise("loss", "loss on an npu" if npu else "loss"))

    def _accumulation(self, compute: str) -> str:
        if compute == "float32":
            return compute
        since = re.search(r"(bf16|fp16) rows after ([0-9-]+) accumulate gradients in fp32", self.text)
        if since:
            late = bool(self.row.date) and self.row.date >= since[2]
            return "float32" if late and _dtype(since[1]) == compute else compute
        if self.says(r"accumulat[^;]{0,20}fp32|fp32[^;]{0,20}accumulat"):
            return "float32"
        if self.says(r"pure[^;]*(?:bf16|fp16) grads|(?:bf16|fp16) grads"):
            return compute
        feature = "accumulation fp16" if compute == "float16" else "accumulation bf16"
        return str(self.otherwise("accumulation_dtype", feature))

    def optimizer(self) -> dict[str, Any]:
        """What it keeps."""
        text = self.row.optimizer.lower()
        moments = next((n for pattern, n in OPTIMIZER_MOMENTS if re.search(pattern, text)), None)
        if _dtype(self.row.precision) == "float32" or self.says(r"no master|bf16 optimizer|without master"):
            master = ""
        else:
            master = self.otherwise("master_dtype")
        narrow = self.says(r"bf16 (?:optimizer )?(?:states|moments)|8-?bit adam")
        return {
            "moments": self.otherwise("moments") if moments is None else moments,
            "master_dtype": master,
            "moments_dtype": "bfloat16" if narrow else self.otherwise("moments_dtype"),
        }

    def dropout(self, attention: int) -> float:
        """Probability, by what the row says or by the age that its attention tells."""
        printed = re.search(r"dropout[ =:]*([0-9]?\.[0-9]+|0\b)", self.text)
        if printed:
            return float(printed[1])
        scores = attention == 0 and not self.row.gated_mlp
        return float(self.otherwise("dropout", "dropout with scores" if scores else "dropout fused"))


def year_of(row: Row) -> float:
    """The year that a row's texts tell (2024.5 is July), 0 when none does.

    Example:
        A path `llama3_h100_202412.md` means December 2024, a version `v24.11` November 2024.
    """
    text = " ".join((*(str(v) for v in row.source.values()), row.id, row.date)).lower()
    dated = re.search(rf"(?<![0-9])(20[12][0-9])[-_/ ]?(?:{MONTH}(?![a-z])|(0[1-9]|1[0-2]))", text)
    if dated:
        month = MONTHS.index(dated[2][:3]) if dated[2] else int(dated[3]) - 1
        return int(dated[1]) + month / 12
    named = re.search(rf"(?<![a-z]){MONTH}\.?,? (20[12][0-9])(?![0-9])", text)
    if named:
        return int(named[2]) + MONTHS.index(named[1][:3]) / 12
    version = re.search(r"(?<![0-9.])v?(2[0-9])\.(0[1-9]|1[0-2])(?![0-9])", text)
    return 2000 + int(version[1]) + (int(version[2]) - 1) / 12 if version else 0.0


GENERATION_YEARS = ((2, 2023.5), (3, 2024.5))
"""Since when stacks have a generation of fused attention: FlashAttention-2 was published in July 2023, FlashAttention-3
and its like in cuDNN 9 in the summer of 2024."""


def _dtype(precision: str) -> str:
    """The dtype of products under a printed precision; bfloat16 when it is not known."""
    lower = precision.lower()
    return next((dtype for pattern, dtype in PRODUCT_DTYPES if re.search(pattern, lower)), "bfloat16")
