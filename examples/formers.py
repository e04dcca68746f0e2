"""Llama of PaddleFormers, its code unchanged, at the size of a toy under any plan; in the environment of PaddleFormers.

Alone:         python examples/formers.py
Under a plan:  nebula plan examples/own-formers.yaml -o formers.json
               nebula launch --cluster examples/clusters/emulated-4.yaml formers.json examples/formers.py
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddleformers.transformers import LlamaConfig, LlamaForCausalLM

import nebula

VOCABULARY, LENGTH, ROWS, STEPS = 512, 32, 16, 8
CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=LENGTH,
    tie_word_embeddings=False,
    # trains on any device; on GPUs these two may be left out
    fuse_rms_norm=False,
    _attn_implementation="eager",
)


def factory():
    """What `nebula plan` traces and each rank builds."""
    return LlamaForCausalLM(CONFIG)


def nats(logits, labels):
    """Per token, of logits that one process has all of."""
    return F.cross_entropy(logits, labels.unsqueeze(-1), reduction="none").squeeze(-1)


def loss(logits, labels, cross_entropy=nats):
    """Mean nats per token; under tensor parallelism `cross_entropy` reads a rank's share of the logits."""
    return cross_entropy(logits, labels).mean()


def batch(step):
    """Rows that count upwards from any token; the label of a token is the next one."""
    start = np.random.RandomState(step).randint(0, VOCABULARY, (ROWS, 1))
    rows = (start + np.arange(LENGTH + 1)) % VOCABULARY
    return rows[:, :-1], rows[:, 1:]


def main():
    """Trains for STEPS steps."""
    plan = nebula.init()
    model = factory()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.0))
    step = nebula.parallelize(model, optimizer, loss, plan)
    for index in range(STEPS):
        result = step(batch(index))
        if step.place.rank == 0:
            print(f"step {index + 1} · loss {result.loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
