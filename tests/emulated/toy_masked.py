"""The toy whose mask comes with the batch, [rows, 1, s, s]: some keys of each query are hidden, of one query all."""

import numpy as np
import paddle
import toy_chain
from toy_chain import LENGTH, ROWS, loss  # noqa: F401 - as the other toys name it

HIDDEN = -1e9


class Embed(toy_chain.Embed):
    whole_outputs = ()

    def forward(self, inputs):
        ids, mask = inputs
        return self.tokens(ids), mask


class Block(toy_chain.Block):
    """Its mask has rows."""

    whole_outputs = ()

    def scores(self, query, key, mask, *, queries, keys):
        hidden = mask[:, :, queries.start : queries.stop, keys.start : keys.stop]
        return super().scores(query, key, paddle.zeros([LENGTH, LENGTH]), queries=queries, keys=keys) + hidden


def build(optimizer):
    """Model and optimizer with the weights of toy_chain, which every process builds alike."""
    model, made = toy_chain.build(optimizer)
    for element in model.chain:
        element.__class__ = {toy_chain.Embed: Embed, toy_chain.Block: Block}.get(type(element), type(element))
    return model, made


def batch(step):
    """The rows of toy_chain, each with its mask."""
    ids, labels = toy_chain.batch(step)
    mask = np.where(np.random.RandomState(step).rand(ROWS, 1, LENGTH, LENGTH) < 0.3, HIDDEN, 0.0).astype("float32")
    mask[:, :, 3] = HIDDEN
    return (ids, mask), labels
