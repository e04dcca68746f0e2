"""Norms and turns by positions as the kernels that decoder.py runs, where no kernel does them in one."""

from __future__ import annotations

from nebula.graph.builder import BlockBuilder


def rms_norm(b: BlockBuilder, path: str, x: str) -> str:
    """The last dim divided by its root mean square: six kernels."""
    *lead, width = b.shape(x)
    with b.scope(path):
        mean = b.operate("mean", (b.unary("square", x),), (*lead, 1), axes=(len(lead),), keepdim=True)[0]
        factor = b.unary("rsqrt", b.scale(mean, 1.0, bias=1e-6))
        return b.binary("multiply", b.binary("multiply", x, factor), b.parameter("weight", (width,)))


def rotated(b: BlockBuilder, x: str) -> str:
    """Heads [rows, S, heads, width] with their positions (RoFormer, arXiv 2104.09864): six kernels and small tables."""
    _, length, _, width = b.shape(x)
    cosine, sine = (b.unary(kind, _angles(b, length, width)) for kind in ("cos", "sin"))
    first, second = b.split(x, (width // 2, width // 2), 3)
    turned = b.concat((b.scale(second, -1.0), first), 3)
    return b.binary("add", b.binary("multiply", x, cosine), b.binary("multiply", turned, sine))


def _angles(b: BlockBuilder, length: int, width: int) -> str:
    """[1, S, 1, width]: its making is of a size that does not count."""
    return b.operate("full", (), (1, length, 1, width), value=0.0)[0]
