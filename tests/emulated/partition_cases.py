"""The 20 random partitions that run on four ranks; each rank and the test draw the same from the seed."""

import random
from functools import cache

import numpy as np
from graph_blocks import SPLITS, embedding, experts, head, mlp, transformer
from graph_cases import random_distribution, random_values

from nebula.graph.completion import complete
from nebula.graph.distribution import Mesh
from nebula.graph.partition import partition, tensor_parallel

MESHES = (Mesh(shape=(4,), axes=("tensor",)), Mesh(shape=(2, 2), axes=("data", "expert")))
BLOCKS = (mlp(), transformer(hidden=16, heads=4), experts())
RANDOM = range(17)
LOSS, WORDS, SEQUENCE = 17, 18, 19
CASES = range(20)


def whole_block(seed):
    if seed in RANDOM:
        return BLOCKS[seed % len(BLOCKS)]
    return {LOSS: head, WORDS: embedding, SEQUENCE: lambda: transformer(places=8, hidden=16, heads=4)}[seed]()


def local_block(seed):
    """The block of one rank and its mesh: annotated at random, or cut for tensor parallelism."""
    block = whole_block(seed)
    if seed not in RANDOM:
        return tensor_parallel(block, 4, SPLITS, sequence=seed == SEQUENCE), MESHES[0]
    rng = random.Random(seed)
    mesh = rng.choice(MESHES)
    tensors = rng.sample(block.tensors, rng.randint(2, 6))
    annotations = {t.name: random_distribution(rng, mesh, t) for t in tensors}
    return partition(complete(block, annotations)), mesh


@cache
def values_of(seed):
    return random_values(whole_block(seed), np.random.default_rng(seed), below=6)
