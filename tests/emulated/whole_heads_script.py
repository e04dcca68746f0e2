"""An ERNIE with 4 universal heads and 3 task heads: at tensor 2 the task modules' attention stays whole."""

import json
import sys
from pathlib import Path

import numpy as np
import paddle

import nebula
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.ernie import ErnieModel, tensor_split
from nebula.models.objectives import loss

TASK = ModuleConfig(layers=1, hidden=24, heads=3, ffn=32)
CONFIG = ErnieConfig(
    universal=ModuleConfig(layers=2, hidden=32, heads=4, ffn=64), nlu=TASK, nlg=TASK, vocabulary=64, seq_len=8
)
ROWS, STEPS = 4, 20


def batch() -> tuple[np.ndarray, np.ndarray]:
    """The same rows every step: ids [rows, 2, S] and their labels."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, CONFIG.vocabulary, (ROWS, 2, CONFIG.seq_len))
    return ids, rng.integers(0, CONFIG.vocabulary, ids.shape)


def main() -> None:
    """Trains and leaves the losses in the file that the first argument names."""
    plan = nebula.init()
    paddle.seed(5)
    model = ErnieModel(CONFIG)
    clip = paddle.nn.ClipGradByGlobalNorm(0.5)
    optimizer = paddle.optimizer.AdamW(2e-3, parameters=model.parameters(), grad_clip=clip, epsilon=1e-6)
    step = nebula.parallelize(model, optimizer, loss, plan, tensor_split=tensor_split(CONFIG))
    losses = [step(batch()).loss for _ in range(STEPS)]
    if not paddle.distributed.get_rank():
        Path(sys.argv[1]).write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
