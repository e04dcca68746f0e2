"""The job of the benchmark overhead as it is written for fleet by hand, without Nebula: parallel layers, and a loop.

Gradients are dropped after a step, not filled with zeros, and the loss that is told is the mean over the replicas.
Arguments: folder, then the degrees data, tensor and pipeline, and the number of micro-batches.
"""

import functools
import sys
from pathlib import Path

import overhead_job as job
import paddle
from overhead_turns import take_turns
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet import meta_parallel as parallel


def set_up(data, tensor, pipeline, micro_batches):
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": data, "mp_degree": tensor, "pp_degree": pipeline}
    if pipeline > 1:
        strategy.hybrid_configs["pp_configs"].release_gradients = True
        rows = job.ROWS // data // micro_batches
        strategy.pipeline_configs = {"accumulate_steps": micro_batches, "micro_batch_size": rows}
    fleet.init(is_collective=True, strategy=strategy)
    return fleet.get_hybrid_communicate_group()


def parallel_nats(logits, labels):
    return parallel.ParallelCrossEntropy()(logits, labels.unsqueeze(-1)).squeeze(-1)


def described(tensor):
    """The layers, and the loss of their last one's outputs."""
    embedding, column, row, loss = nn.Embedding, nn.Linear, nn.Linear, job.loss
    if tensor > 1:
        embedding = parallel.VocabParallelEmbedding
        column = functools.partial(parallel.ColumnParallelLinear, has_bias=True, gather_output=False)
        row = functools.partial(parallel.RowParallelLinear, has_bias=True, input_is_parallel=True)
        loss = functools.partial(job.loss, cross_entropy=parallel_nats)
    blocks = [parallel.LayerDesc(job.Block, column, row) for _ in range(job.BLOCKS)]
    return [parallel.LayerDesc(job.Tokens, embedding), *blocks, parallel.LayerDesc(job.Head, column)], loss


def main(folder, data, tensor, pipeline, micro_batches):
    hybrid = set_up(data, tensor, pipeline, micro_batches)
    layers, loss = described(tensor)
    if pipeline > 1:
        model = parallel.PipelineLayer(layers, num_stages=pipeline, topology=hybrid.topology(), loss_fn=loss)
    else:
        model = nn.Sequential(*(layer.build_layer() for layer in layers))
    optimizer = job.optimizer(model)
    model, optimizer = fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)
    inputs, labels = job.batch()
    rows = job.ROWS // data
    mine = slice(hybrid.get_data_parallel_rank() * rows, (hybrid.get_data_parallel_rank() + 1) * rows)

    def step():
        x, y = paddle.to_tensor(inputs[mine]), paddle.to_tensor(labels[mine])
        if pipeline > 1:
            value = model.train_batch([x, y], optimizer)
        else:
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)
        if data > 1:
            value = value.detach()
            paddle.distributed.all_reduce(value, group=hybrid.get_data_parallel_group())
        return float(value) / data

    take_turns(step, folder)


main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
