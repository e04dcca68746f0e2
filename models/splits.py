"""How tensor parallelism cuts the layers of ernie.py, as a value that needs no Paddle.

Pairs of an fnmatch pattern over the name of a sublayer and a kind. `column`: a Linear by its outputs, which stay split.
`row`: a Linear by its inputs, outputs summed. `heads`: the first dim of the layer's weight. `vocabulary`: an Embedding
by its rows; a Linear by its outputs, which the loss needs gathered or takes with a vocabulary-parallel cross-entropy.
`experts`, of which ERNIE 3.0 has none: the first dim of all parameters of the layer, over an expert group. What no
pattern names is replicated.
"""

from __future__ import annotations

ERNIE_SPLITS: tuple[tuple[str, str], ...] = (
    ("tokens", "vocabulary"),
    ("*attention.qkv", "column"),
    ("*attention.bias", "heads"),
    ("*attention.out", "row"),
    ("*ffn.up", "column"),
    ("*ffn.down", "row"),
    ("projection", "vocabulary"),
)
