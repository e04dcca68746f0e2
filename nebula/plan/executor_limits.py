"""How much the executor has on its way at once: its runtime heeds it, and what memory is predicted counts it."""

UNDERWAY = 32
"""Tensors to one rank that are not waited for; a sender may be as many ahead of the wire, and holds them so long."""

BUCKET_BYTES = 128 * 2**20
"""Of gradients that replicas sum at once, or of weights that an owner sends: as large as fleet's fused buffers."""
