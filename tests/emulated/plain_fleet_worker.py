"""One rank of a script that uses fleet as it is, without Nebula, where Paddle computes something else and says nothing.

Arguments: folder for the results, then cases. `tied`: a pipeline of 2 whose first and last layer share the embedding's
table by SharedLayerDesc; `split_param`: sharding of optimizer states over 2, its second version; `sequence`: two stages
of tensor groups of 2, with Paddle's layers of sequence parallelism. ` mended` behind it: with the fault's cause set
right by hand. All train the toy from the weights of the serial run and write losses.
"""

import json
import sys
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain as toy
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet.base import topology
from paddle.distributed.fleet.meta_parallel import LayerDesc, PipelineLayer, SharedLayerDesc
from paddle.distributed.fleet.utils import sequence_parallel_utils as spu
from paddle.distributed.fleet.utils import tensor_fusion_helper

STEPS, MICRO_BATCHES = 20, 4


def hybrid_of(**degrees):
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": 1, **degrees}
    strategy.pipeline_configs = {"accumulate_steps": MICRO_BATCHES, "micro_batch_size": toy.ROWS // MICRO_BATCHES}
    topology._HYBRID_PARALLEL_GROUP = None
    return strategy


def start(strategy):
    fleet.init(is_collective=True, strategy=strategy, log_level="ERROR")
    return fleet.get_hybrid_communicate_group()


class Embed(toy.Embed):
    @property
    def weight(self):
        return self.tokens.weight


class Norm(nn.Layer):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(toy.WIDTH)

    def forward(self, inputs):
        return self.norm(inputs[0])


def logits(embed, x):
    return paddle.matmul(x, embed.weight, transpose_y=True)


def tied(mended):
    hybrid = start(hybrid_of(pp_degree=2))
    serial, _ = toy.build("tied")
    ends = [SharedLayerDesc("embed", Embed, shared_weight_attr="weight")]
    ends.append(SharedLayerDesc("embed", Embed, forward_func=logits, shared_weight_attr="weight"))
    layers = [ends[0], *(LayerDesc(toy.Block) for _ in range(toy.BLOCKS)), LayerDesc(Norm), ends[1]]
    model = PipelineLayer(
        layers, num_stages=2, topology=hybrid.topology(), loss_fn=toy.loss, seg_method=[0, 2, len(layers)]
    )
    weights = serial.state_dict()
    for layer in model.sublayers():
        if isinstance(layer, Embed):
            layer.set_state_dict({"tokens.weight": weights["chain.0.tokens.weight"]})
    held = [(number, layer) for number, layer in model.named_children() if isinstance(layer, (toy.Block, Norm))]
    for number, layer in held:
        prefix = f"chain.{number}."
        layer.set_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    if mended and hybrid.get_stage_id() == 1:
        for layer in model.shared_layers.values():
            layer.weight.is_firstly_shared = False
    optimizer = paddle.optimizer.Momentum(
        5e-2, momentum=0.8, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.5)
    )
    model, optimizer = fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)
    return [
        float(model.train_batch(list(map(paddle.to_tensor, toy.batch(index))), optimizer)) for index in range(STEPS)
    ]


def split_param(mended):
    tensor_fusion_helper.alignment["sim_npu"] = tensor_fusion_helper.alignment["npu"]
    strategy = hybrid_of(sharding_degree=2)
    strategy.hybrid_configs["sharding_configs"].split_param = True
    hybrid = start(strategy)
    model, optimizer = toy.build("momentum")
    chain = nn.Sequential(*model.chain)
    model, optimizer = fleet.distributed_model(chain), fleet.distributed_optimizer(optimizer)
    half = toy.ROWS // 2
    mine = slice(hybrid.get_sharding_parallel_rank() * half, (hybrid.get_sharding_parallel_rank() + 1) * half)

    def step(index):
        inputs, labels = (paddle.to_tensor(rows[mine]) for rows in toy.batch(index))
        loss = toy.loss(model(inputs), labels)
        loss.backward()
        optimizer.step()
        if mended:
            for parameter in chain.parameters():
                parameter.grad.zero_()
        else:
            optimizer.clear_grad()
        mean = loss.detach()
        paddle.distributed.all_reduce(mean)
        return float(mean) / 2

    return [step(index) for index in range(STEPS)]


class SharedEmbed(toy.Embed):
    """Leaves shares [s / 2, rows, width]: Paddle's layers have the sequence in front."""

    def forward(self, ids):
        return spu.ScatterOp.apply(self.tokens(ids).transpose([1, 0, 2]))


class SharedBlock(toy.Block):
    def __init__(self):
        super().__init__()
        width = toy.WIDTH
        self.qkv = spu.ColumnSequenceParallelLinear(width, 3 * width, has_bias=True, gather_output=False)
        self.up = spu.ColumnSequenceParallelLinear(width, 4 * width, has_bias=True, gather_output=False)
        self.out = spu.RowSequenceParallelLinear(width, width, has_bias=True, input_is_parallel=True)
        self.down = spu.RowSequenceParallelLinear(4 * width, width, has_bias=True, input_is_parallel=True)
        self.bias.table = self.create_parameter([toy.HEADS // 2, toy.LENGTH, toy.LENGTH])
        self.bias.table.is_distributed = True
        whole = (*self.first_norm.parameters(), *self.second_norm.parameters(), self.out.bias, self.down.bias)
        for parameter in whole:
            spu.mark_as_sequence_parallel_parameter(parameter)

    def forward(self, x):
        heads = self.qkv(self.first_norm(x)).transpose([1, 0, 2]).reshape([0, 0, -1, 3 * toy.WIDTH // toy.HEADS])
        mask = paddle.triu(paddle.full([toy.LENGTH, toy.LENGTH], -1e9), 1)
        x = x + self.out(self.attend(*paddle.split(heads, 3, axis=-1), mask).transpose([1, 0, 2]))
        return x + self.down(nn.functional.gelu(self.up(self.second_norm(x))))


class SharedHead(toy.Head):
    def __init__(self):
        super().__init__()
        for parameter in self.norm.parameters():
            spu.mark_as_sequence_parallel_parameter(parameter)

    def forward(self, x):
        return self.projection(spu.GatherOp.apply(self.norm(x)).transpose([1, 0, 2]))


def sequence(mended):
    strategy = hybrid_of(mp_degree=2, pp_degree=2)
    strategy.pipeline_configs = {**strategy.pipeline_configs, "enable_partial_send_recv": not mended}
    hybrid = start(strategy)
    serial, _ = toy.build("momentum")
    layers = [LayerDesc(SharedEmbed), *(LayerDesc(SharedBlock) for _ in range(toy.BLOCKS)), LayerDesc(SharedHead)]
    model = PipelineLayer(layers, num_stages=2, topology=hybrid.topology(), loss_fn=toy.loss, seg_method=[0, 3, 6])
    rank = hybrid.get_model_parallel_rank()
    weights = {name: parameter.numpy() for name, parameter in serial.named_parameters()}
    for name, parameter in model.named_parameters():
        whole = weights[f"chain.{name}"]
        cut = [dim for dim, size in enumerate(whole.shape) if parameter.shape[dim] != size]
        parameter.set_value(np.split(whole, 2, axis=cut[0])[rank] if cut else whole)
    spu.register_sequence_parallel_allreduce_hooks(model, MICRO_BATCHES, False)
    optimizer = paddle.optimizer.Momentum(
        5e-2, momentum=0.8, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.5)
    )
    model, optimizer = fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)
    return [
        float(model.train_batch(list(map(paddle.to_tensor, toy.batch(index))), optimizer)) for index in range(STEPS)
    ]


def main(folder, cases):
    for case in cases:
        name, _, mended = case.partition(" ")
        losses = {"tied": tied, "split_param": split_param, "sequence": sequence}[name](bool(mended))
        if paddle.distributed.get_rank() == 0:
            (folder / f"{case}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
