"""Measures on the emulated device what layers of the small ERNIE keep under each recompute policy.

Prints a list of {"layer", "policy", "measured", "predicted"}, in bytes. Measured: what Paddle's allocator has handed
out during the forward, the output among it. Predicted: what the cost model keeps, with the output in place of the
input where the layer itself keeps its input.
"""

from __future__ import annotations

import gc
import json

import paddle
from paddle.static import InputSpec

from nebula.cluster.catalogue import device_type
from nebula.cost_model.layer import layer_cost
from nebula.graph.capture import capture
from nebula.models.ernie import chain
from nebula.models.presets import preset
from nebula.plan.job import RECOMPUTE
from nebula.runtime.recompute import apply_policy

ROWS = 4
UNIVERSAL, TASK = 1, 8
"""Places in the chain: a layer over both halves, and one that splits them between two modules."""


def allocated() -> int:
    gc.collect()
    return paddle.base.core.device_memory_stat_current_value("Allocated", 0)


def measured(layer, x) -> int:
    layer(x).sum().backward()  # what is made once is there before
    x.clear_gradient(False)
    for parameter in layer.parameters():
        parameter.clear_gradient(False)
    before = allocated()
    y = layer(x)
    held = allocated() - before
    assert not y.stop_gradient
    return held


def main() -> None:
    paddle.set_device("sim_npu:0")
    config = preset("ernie-3.0-small")
    graph = capture(chain(config), [InputSpec([None, 2, config.seq_len], "int64")], rows=ROWS)
    answer = []
    for place in (UNIVERSAL, TASK):
        block = graph.blocks[graph.layers[place]]
        kept = layer_cost(block, device_type("T4-16GB")).kept_bytes
        for policy in RECOMPUTE:
            layer = chain(config)[place]
            apply_policy(layer, policy)
            x = paddle.randn([2 * ROWS, config.seq_len, config.universal.hidden])
            x.stop_gradient = False
            # the halves of a task layer's input are copies: it keeps them, and its output comes on top
            output_bytes = block.output_bytes if place == TASK and policy != "full" else 0
            predicted = kept[policy] + output_bytes
            answer.append({"layer": place, "policy": policy, "measured": measured(layer, x), "predicted": predicted})
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
