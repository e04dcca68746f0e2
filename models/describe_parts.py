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


ROTARY_BASE = 10_000.0
"""As decoder.py has it."""


def rotated(b: BlockBuilder, x: str) -> str:
    """Heads [rows, S, heads, width] with their positions (RoFormer, arXiv 2104.09864), in the kernels of decoder.py."""
    _, length, _, width = b.shape(x)
    angles = _angles(b, length, width)
    first, second = b.split(x, (width // 2, width // 2), 3)
    turned = b.concat((b.scale(second, -1.0), first), 3)
    cosine, sine = (b.unary(kind, angles) for kind in ("cos", "sin"))
    return b.binary("add", b.binary("multiply", x, cosine), b.binary("multiply", turned, sine))


def _angles(b: BlockBuilder, length: int, width: int) -> str:
    """[1, S, 1, width], made anew wherever heads are turned: seven kernels on little."""
    half = width // 2
    pairs = b.operate("arange", (), (half,), start=0, end=width, step=2)[0]
    base = b.operate("full", (), (half,), value=ROTARY_BASE)[0]
    turns = b.binary("elementwise_pow", base, b.scale(pairs, -1.0 / width))
    places = b.operate("arange", (), (length,), start=0, end=length, step=1)[0]
    angles = b.binary("multiply", b.reshape(places, (length, 1)), turns)
    return b.reshape(b.concat((angles, angles), 1), (1, length, 1, width))
