"""Small models, devices and clusters whose costs can be worked out by hand, for the tests of cost model and planner."""

from __future__ import annotations

from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup, Tier
from nebula.graph.builder import BlockBuilder, described
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Block, DistributedGraph
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding

SPLITS = (("up", "column"), ("down", "row"), ("head", "vocabulary"), ("words", "vocabulary"))
WHOLE = Sharding()
MADE_FROM = MadeFrom(model="chain", model_hash="0" * 12, cluster="c", cluster_hash="0" * 12)


def device(**more) -> DeviceType:
    """An emulated accelerator: 1 TFLOP/s, 100 GB/s, 1 GB, 5 us a kernel, nothing lost to inefficiency."""
    fields = {
        "name": "d",
        "kind": "npu",
        "peak_flops": {"float32": 1e12},
        "memory_bytes": 1e9,
        "memory_bytes_per_s": 1e11,
        "kernel_s": 5e-6,
        "product_efficiency": 1.0,
        "memory_efficiency": 1.0,
        "emulated": True,
    }
    return DeviceType(**(fields | more))


def cluster(nodes=1, per_node=8, *, kind: DeviceType | None = None, intra=1e10, nic=1e9, **more) -> Cluster:
    """Equal nodes `n/0`, `n/1`, ...; bandwidths in bytes per second."""
    group = NodeGroup(
        name="n",
        count=nodes,
        device=kind or device(),
        devices_per_node=per_node,
        intra=Link(kind="bus", bytes_per_s=intra, latency_s=1e-5),
        nic=Link(kind="wire", bytes_per_s=nic, latency_s=2e-5),
        nic_count=per_node,
        **more,
    )
    return Cluster(name="c", groups=(group,), tiers=(Tier(name="leaf", nodes=4, latency_s=1e-6), Tier(name="spine")))


def feed_forward(rows=1, tokens=64, hidden=64, width=4) -> Block:
    """Two Linears with gelu between: [rows, tokens, hidden] -> the same."""

    def build(rows):
        b = BlockBuilder("FeedForward", rows=rows, dtype="float32")
        x = b.input((b.rows, tokens, hidden), needs_gradient=True)
        return b.build(b.linear("down", b.unary("gelu", b.linear("up", x, width * hidden), approximate=False), hidden))

    return block_with_rows(described(build), rows)


def rectified(rows=1, tokens=64, hidden=64) -> Block:
    """A Linear and a relu, which keeps its output: [rows, tokens, hidden] -> the same."""

    def build(rows):
        b = BlockBuilder("Rectified", rows=rows, dtype="float32")
        x = b.input((b.rows, tokens, hidden), needs_gradient=True)
        return b.build(b.unary("relu", b.linear("up", x, hidden)))

    return block_with_rows(described(build), rows)


def chain(layers=6, *, hidden=64, tokens=64, width=4, wide: tuple[int, ...] = ()) -> DistributedGraph:
    """A chain of feed-forward blocks; those at `wide` are three times as wide."""
    blocks = (feed_forward(1, tokens, hidden, width), feed_forward(1, tokens, hidden, 3 * width))
    return DistributedGraph(
        name="chain",
        blocks=blocks,
        layers=tuple(int(i in wide) for i in range(layers)),
        layer_names=tuple(f"ffn.{i}" for i in range(layers)),
        rows=1,
        tokens_per_row=tokens,
        splits=SPLITS,
    )


def plan(
    boundaries=(0, 6),
    *,
    data=1,
    tensor=1,
    rows=1,
    micro_batches=4,
    sharding=WHOLE,
    recompute="none",
    per_node=8,
    **more,
) -> Plan:
    """A uniform plan on the first devices of `cluster`."""
    ranks = data * tensor * (len(boundaries) - 1)
    fields = {
        "stages": uniform_stages(
            boundaries=tuple(boundaries),
            data=data,
            tensor=tensor,
            sharding=sharding,
            micro_batch_rows=rows,
            recompute=recompute,
        ),
        "micro_batches": micro_batches,
        "schedule": "1f1b",
        "engine": "fleet" if ranks > 1 else "serial",
        "ranks": tuple(RankPlace(f"n/{r // per_node}", r % per_node) for r in range(ranks)),
        "job": Job(global_batch=data * rows * micro_batches),
        "made_from": MADE_FROM,
    }
    return Plan(**(fields | more))
