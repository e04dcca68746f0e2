"""How tensor parallelism may cut a model that says nothing itself, found from the names of its layers.

Known are attention and feed-forward layers as PaddleFormers, PaddleNLP and Hugging Face name their parts, and those of
paddle.nn. A group of layers is cut only where all its parts are there, so that what leaves it is whole. A fused matrix
of queries, keys and values is cut only in classes whose order of heads is known: in another order a cut would compute
something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Named(NamedTuple):
    """A layer whose parts have these names.

    Attributes:
        columns: parts that are cut by their outputs.
        row: the part that sums up what they lead to.
        classes: of the layer, with their modules, of which it must be one; empty: any.
        kind: how `columns` are cut.
        heads: whether the layer counts heads, which are dealt to the ranks.
    """

    columns: tuple[str, ...]
    row: str
    classes: tuple[str, ...] = ()
    kind: str = "column"
    heads: bool = False


GROUPS = (
    Named(("q_proj", "k_proj", "v_proj"), "o_proj", heads=True),
    Named(("q_proj", "k_proj", "v_proj"), "out_proj", heads=True),
    Named(
        ("qkv_proj",), "o_proj", classes=("paddleformers.transformers.ernie4_5.modeling.Ernie4_5Attention",), heads=True
    ),
    Named(("gate_proj", "up_proj"), "down_proj"),
    Named(("up_gate_proj",), "down_proj", classes=("paddleformers.nn.mlp.MLP",), kind="halves"),
    Named(
        ("linear1",),
        "linear2",
        classes=tuple(f"paddle.nn.layer.transformer.Transformer{kind}Layer" for kind in ("Encoder", "Decoder")),
    ),
)
ENDS = ("embed_tokens", "lm_head")
"""Layers at the ends of a causal language model, cut by vocabulary; not where they share their weight."""


def splits_of(model: Any) -> dict[str, str]:
    """The table of a paddle.nn.Layer: its own `tensor_split`, or what the names of its sublayers tell.

    An Embedding with a row that is never trained (padding_idx) stays whole.
    """
    own = getattr(model, "tensor_split", None)
    if own is not None:
        return dict(own)
    layers = dict(model.named_sublayers())
    holders = Counter(id(p) for layer in layers.values() for p in layer.parameters(include_sublayers=False))
    classes = {
        path: f"{type(layer).__module__}.{type(layer).__name__}"
        for path, layer in layers.items()
        if getattr(layer, "_padding_idx", None) in (None, -1)
    }
    return found_splits(classes, tied=any(count > 1 for count in holders.values()))


def found_splits(classes: Mapping[str, str], tied: bool = False) -> dict[str, str]:
    """A table of splits (see nebula.graph.splits) for a model; empty where nothing is known.

    Args:
        classes: path of each sublayer -> its class, with its module.
        tied: whether sublayers share a weight.

    Example:
        >>> paths = {"0.mlp": "my.MLP", **{f"0.mlp.{n}_proj": "nn.Linear" for n in ("gate", "up", "down")}}
        >>> found_splits(paths)
        {'*mlp.gate_proj': 'column', '*mlp.up_proj': 'column', '*mlp.down_proj': 'row'}
    """
    table: dict[str, str] = {}
    for path, name in classes.items():
        for group in GROUPS:
            if all(_joined(path, part) in classes for part in (*group.columns, group.row)):
                table |= dict(_entries(path.rpartition(".")[2], name, group))
                break
    if table and not tied:
        last = {path.rpartition(".")[2] for path in classes}
        table |= {f"*{end}": "vocabulary" for end in ENDS if end in last}
    return table


def _entries(layer: str, name: str, group: Named) -> Iterator[tuple[str, str]]:
    if group.classes and name not in group.classes:
        return
    begin = "*" if layer.isdigit() or not layer else f"*{layer}."
    yield from ((begin + part, group.kind) for part in group.columns)
    yield begin + group.row, "row"
    if group.heads:
        yield f"*{layer}", "counts"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
