"""How long a matrix product takes on a device whose multiprocessors are known, from its shape.

A product is cut into tiles, tiles run in waves over the multiprocessors, few tiles with a long k are cut along k as
well (split-K; Osama et al., Stream-K, arXiv 2301.03598); all of it is bounded by power and by memory. Vectorised over
products, since one layer has many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.kernel_parameters import LOOP_SHARE, THROTTLE_S
from nebula.graph.values import Product

Floats = NDArray[np.float64]

TILES = np.array([(256, 128), (128, 256), (128, 128), (64, 256), (64, 128), (128, 64), (64, 64)], dtype=float)
"""Rows and columns of the tiles that kernel libraries choose among (CUTLASS, cuBLAS)."""

SPLITS = np.array([1, 2, 4, 8, 16], dtype=float)
"""Into how many parts they cut k."""

STEP_K = 64.0
"""Granularity of the loop over k."""

PARTIAL_BYTES = 4.0
"""Of an element of a partial sum, float32."""

ROW_BYTES = 128.0
"""Rows of matrices that are a multiple of it are loaded in whole lines (NVIDIA, Matrix Multiplication Background User's
Guide, section 3: most efficient on the A100 with multiples of 64 elements of 16 bits)."""

SHARPNESS = 10.0
"""Exponent of the norm that joins the three bounds; a larger one is nearer to their maximum."""


def products_seconds(
    products: Sequence[Product],
    peaks: Floats,
    sustained: Floats,
    moved_bytes: Floats,
    device: DeviceType,
    element_bytes: Floats,
) -> Floats:
    """Seconds of each product, its launch apart.

    The bounds are the waves of tiles at the speed of a multiprocessor, all FLOPs at the rate that the device sustains
    (below the former where its power limits it: then a wave that is not full also draws less), and the bytes.

    Args:
        products: n shapes.
        peaks: of the dtype of each, FLOP/s [n].
        sustained: share of it that the device sustains [n].
        moved_bytes: read and written by each [n].
        device: with multiprocessors.
        element_bytes: of an element of the result [n].
    """
    shapes = np.array(products, dtype=float).reshape(-1, 4)
    flops = 2.0 * shapes.prod(axis=1)
    rates = peaks * np.where(_aligned(shapes, element_bytes), 1.0, device.unaligned_share)
    bounds = (
        tiled_seconds(shapes, rates, device, element_bytes),
        flops / (rates * sustained),
        moved_bytes / (device.memory_bytes_per_s * device.memory_efficiency),
    )
    largest = np.maximum(np.maximum.reduce(bounds), 1e-30)
    joined: Floats = largest * sum((b / largest) ** SHARPNESS for b in bounds) ** (1.0 / SHARPNESS)
    return joined


def _aligned(shapes: Floats, element_bytes: Floats) -> NDArray[np.bool_]:
    """Whether rows of n and of k elements fill whole lines; those of batched products lie apart by another stride."""
    rows = shapes[:, 2:] * element_bytes[:, None]
    whole: NDArray[np.bool_] = (rows % ROW_BYTES == 0).all(axis=1) | (shapes[:, 0] > 1)
    return whole


def tiled_seconds(shapes: Floats, peaks: Floats, device: DeviceType, element_bytes: Floats) -> Floats:
    """Seconds of the waves of products [n, (batch, m, n, k)] with the tile and the split that are fastest.

    A tile takes its loop over k and its writing, with which the filling of the pipeline for the next one overlaps.
    """
    batch, m, n, k = (shapes[:, i, None, None] for i in range(4))
    rows, columns, splits = TILES[None, :, None, 0], TILES[None, :, None, 1], SPLITS[None, None, :]
    units = float(device.multiprocessors)
    waves = np.ceil(batch * np.ceil(m / rows) * np.ceil(n / columns) * splits / units)
    steps = np.ceil(np.ceil(k / splits) / STEP_K) * STEP_K
    loop_s = 2.0 * rows * columns * steps * units / (peaks[:, None, None] * LOOP_SHARE.value)
    written = np.where(splits > 1, PARTIAL_BYTES, element_bytes[:, None, None])
    bytes_per_s = device.memory_bytes_per_s * device.memory_efficiency
    store_s = rows * columns * written * units / bytes_per_s
    joined_s = np.where(splits > 1, splits * batch * m * n * PARTIAL_BYTES / bytes_per_s, 0.0)
    seconds: Floats = (waves * (loop_s + store_s) + joined_s).min(axis=(1, 2))
    return seconds


TOGETHER = 0.925
"""Sustained rate of a device while its whole node trains, over that of one device alone: an H100 sustained 0.72 of its
peak alone, 96 published runs tell 0.667."""


def alone(device: DeviceType) -> DeviceType:
    """The device as it is when the others of its node rest: the catalogue's efficiencies are those of training."""
    return replace(device, product_efficiency=min(1.0, device.product_efficiency / TOGETHER))


def rested(device: DeviceType, busy_s: float) -> DeviceType:
    """The device as it is over a stretch of `busy_s` seconds that begins rested, as short measurements do.

    A power limit holds on average: over a time T the sustained rate r allows r (T + THROTTLE_S) of work. A training
    step lasts, and sees the sustained rate alone.
    """
    share = min(1.0, device.product_efficiency * (1.0 + THROTTLE_S.value / busy_s))
    return replace(device, product_efficiency=max(share, device.product_efficiency))
