"""Which sublayers a group of ranks cuts and how: the one answer for the graph's partition and for the runtime's layers.

A table of splits pairs an fnmatch pattern over the path of a sublayer with a kind. A tensor group cuts by `column` a
Linear by its outputs, by `halves` each half of them (two matrices in one), by `row` by its inputs, by `vocabulary` an
Embedding by its rows and a Linear by its outputs, by `heads` the first dim of a layer's own parameters; by `counts` no
parameter: the layer's numbers of heads are dealt to the ranks. An expert group cuts by `experts` the first dim of all
parameters of a layer, whose tokens travel. What no pattern names is replicated; whether a dim is even is asked by who
cuts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from nebula.errors import BadInput

KINDS = ("column", "halves", "row", "vocabulary", "heads", "counts", "experts")


def kind_of(sublayer: str, splits: Iterable[tuple[str, str]]) -> str:
    """How the table cuts the sublayer of that path; empty when it does not.

    Raises:
        BadInput: the table names an unknown kind.
    """
    for pattern, kind in splits:
        if fnmatchcase(sublayer, pattern):
            if kind not in KINDS:
                raise BadInput(f"tensor split {pattern!r} of {sublayer}: {kind!r} is none of {', '.join(KINDS)}")
            return kind
    return ""


def applicable(splits: Iterable[tuple[str, str]], shapes: Mapping[str, Sequence[int]], degree: int) -> dict[str, str]:
    """The sublayers of one block (one chain element) that a tensor group of that degree cuts.

    Sublayers with the same parent (`nlg.attention.qkv`, `.bias`, `.out`) are a group. A group with a `heads` parameter
    that the degree does not divide stays whole: every rank computes all its heads, so its gradients are equal on all
    ranks and need no sum. ERNIE 3.0's task modules have 12 heads and do so at tensor 8, beside 192 heads that are cut.

    Args:
        splits: the table, in the order in which patterns are tried.
        shapes: whole shape of each parameter by its path in the block (`nlg.attention.bias.weight`).
        degree: ranks of the tensor group.

    Returns:
        Path of a sublayer to its kind; what is missing stays whole.

    Raises:
        BadInput: the table names an unknown kind.

    >>> table = [("*attention.bias", "heads"), ("*attention.qkv", "column"), ("*ffn.up", "column")]
    >>> shapes = {"attention.bias.weight": (12, 9), "attention.qkv.weight": (48, 144), "ffn.up.weight": (48, 96)}
    >>> applicable(table, shapes, 8)
    {'ffn.up': 'column'}
    """
    table = tuple(splits)
    kinds = {sublayer_of(name): "" for name in shapes}
    kinds = {
        sublayer: kind for sublayer in kinds if (kind := kind_of(sublayer, table)) not in ("", "counts", "experts")
    }
    whole = {
        _group(sublayer_of(name))
        for name, shape in shapes.items()
        if kinds.get(sublayer_of(name)) == "heads" and shape[0] % degree
    }
    return {sublayer: kind for sublayer, kind in kinds.items() if _group(sublayer) not in whole}


def leaves_whole(splits: Iterable[tuple[str, str]], shapes: Mapping[str, Sequence[int]], degree: int) -> bool:
    """Whether a degree leaves whole what the table names in a block, experts apart: it then runs on whole sequences.

    Args:
        splits, shapes, degree: as of applicable.

    >>> leaves_whole([("*bias", "heads")], {"attention.bias.weight": (2, 9)}, 4)
    True
    """
    table = tuple(splits)
    cut = applicable(table, shapes, degree)
    named = {sublayer: kind_of(sublayer, table) for sublayer in map(sublayer_of, shapes)}
    return any(sublayer not in cut and kind not in ("", "experts") for sublayer, kind in named.items())


def halves_whole(splits: Mapping[str, str], sublayers: Iterable[str]) -> dict[str, str]:
    """The table of who cannot cut two matrices in one: they stay whole, and so do the rows that they lead to.

    These rows are the ones beside them, with the same parent.

    Args:
        sublayers: paths of all sublayers within their chain elements.

    Raises:
        BadInput: the rows beside them sum up what others lead to as well, or a pattern names more than these layers.

    >>> table = {"*both": "halves", "*mlp.down": "row", "*query": "column", "*out": "row"}
    >>> halves_whole(table, ["mlp.both", "mlp.down", "attention.query", "attention.out"])
    {'*query': 'column', '*out': 'row'}
    """
    kinds = {name: kind_of(name, splits.items()) for name in sublayers}
    parents = {_group(name) for name, kind in kinds.items() if kind == "halves"}
    whole = {name for name, kind in kinds.items() if kind in ("halves", "row") and _group(name) in parents}
    kept = {
        pattern: kind
        for pattern, kind in splits.items()
        if kind != "halves" and not (kind == "row" and any(fnmatchcase(name, pattern) for name in whole))
    }
    for name, kind in kinds.items():
        beside = kind == "column" and _group(name) in parents
        if beside or kind_of(name, kept.items()) != ("" if name in whole else kind):
            raise BadInput(
                f"tensor_split: two matrices in one (halves) stay whole here, which {name} does not go with; put them "
                "and the row that they lead to into a layer of their own, or take an engine that cuts them (fleet)"
            )
    return kept


def sublayer_of(parameter: str) -> str:
    """Path of the layer that holds the parameter: `ffn.up` of `ffn.up.weight`."""
    return parameter.rpartition(".")[0]


def _group(sublayer: str) -> str:
    return sublayer.rpartition(".")[0]
