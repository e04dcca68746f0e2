"""What all nodes are told alike of a generation, packed once: a thousand nodes else each get a table of all ranks.

Tables of ranks and plans say the same again and again, so that deflated they are a tenth of their size.
"""

from __future__ import annotations

import zlib

from google.protobuf.message import DecodeError

from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import RunFailed

LEVEL = 1
"""Of zlib: the quickest."""
MOST_BYTES = 1 << 28
"""Of an unpacked message: beyond all that a plan can say, and no more than a node has to spare."""


def packed(start: wire.Start) -> bytes:
    """What goes into `shared` of every node's Start."""
    return zlib.compress(start.SerializeToString(), LEVEL)


def whole(start: wire.Start) -> wire.Start:
    """A Start with what its `shared` holds, in which its own fields win.

    Raises:
        RunFailed: what it holds is damaged, or too long.
    """
    if not start.shared:
        return start
    unpacking = zlib.decompressobj()
    try:
        found: wire.Start = wire.Start.FromString(unpacking.decompress(start.shared, MOST_BYTES))
    except (zlib.error, DecodeError) as error:
        raise RunFailed(f"what all nodes are told of a generation is damaged: {error}") from None
    if not unpacking.eof:
        raise RunFailed(f"what all nodes are told of a generation is cut off, or has more than {MOST_BYTES} bytes")
    found.MergeFrom(start)
    found.ClearField("shared")
    return found
