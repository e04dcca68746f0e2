"""The fit behind a calibration: figures that made the times come back, exactly or within the noise, or it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Levels
from nebula.cost_model.compute import kernel_seconds
from nebula.errors import BadInput
from nebula.graph.values import Kernel
from nebula.profiling.fit import fit_device, fit_link, per_unit, robust
from nebula.profiling.measurements import Alike, Measurements, Message, Product, Reference, together
from nebula.profiling.result import fitted

SIZES = [(m, k, n) for m in (64, 256, 1024) for k in (128, 512) for n in (128, 512, 2048)]


def product_row(m, k, n, seconds=0.0, dtype="float32"):
    return Product(
        dtype=dtype, batch=1, m=m, k=k, n=n, batched=False, backward=False, flops=2.0 * m * k * n,
        moved_bytes=4.0 * (m * k + k * n + m * n), kernels=1, seconds=seconds,
    )  # fmt: skip


def reference_row(width, seconds=0.0):
    products = tuple(Alike(flops=f * width**2, moved_bytes=40.0 * width, count=c) for f, c in ((2e3, 4), (8e3, 2)))
    return Reference(
        name=f"width {width}", products=products, moved_bytes=2e4 * width**1.5, kernels=99.0, seconds=seconds
    )


def device(rate, half, bandwidth, kernel_s):
    return DeviceType(
        name="made up", kind="cpu", peak_flops={"float32": rate}, memory_bytes=1e9, memory_bytes_per_s=bandwidth,
        kernel_s=kernel_s, product_efficiency=1.0, memory_efficiency=1.0, half_product_flops=half,
    )  # fmt: skip


def product_kernel(flops, moved):
    return Kernel(
        kind="matmul", flops=flops, read_bytes=moved, written_bytes=0.0, dtype="float32", product=(1, 1, 1, 1)
    )


def measured_on(kind, noise=lambda: 1.0):
    """Products and steps as the cost model times them on a device."""
    products, references = [], []
    for size in SIZES:
        row = product_row(*size)
        products.append(product_row(*size, noise() * kernel_seconds(product_kernel(row.flops, row.moved_bytes), kind)))
    for width in (64, 128, 192, 256, 320, 384):
        row = reference_row(width)
        seconds = sum(a.count * kernel_seconds(product_kernel(a.flops, a.moved_bytes), kind) for a in row.products)
        seconds += (row.kernels - sum(a.count for a in row.products)) * kind.kernel_s
        references.append(reference_row(width, noise() * (seconds + row.moved_bytes / kind.memory_bytes_per_s)))
    return products, references


figures = st.tuples(st.floats(1e10, 1e12), st.floats(0, 1e7), st.floats(2e9, 5e10), st.floats(1e-6, 2e-5))


@given(figures)
@settings(max_examples=15, deadline=None)
def test_the_figures_that_made_the_times_come_back(made):
    rate, half, bandwidth, kernel_s = made
    products, memory = fit_device(*measured_on(device(*made)), kernel_s=kernel_s)
    assert products.flops_per_s == pytest.approx(rate, rel=1e-3)
    assert products.half_product_flops == pytest.approx(half, rel=1e-3, abs=1e3)
    assert memory.bytes_per_s == pytest.approx(bandwidth, rel=1e-3)
    assert products.residuals.worst_abs_pct < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_a_wild_row_move_the_figures_little(seed):
    rng = np.random.default_rng(seed)
    products, references = measured_on(device(7e10, 3e6, 3e9, 5e-6), lambda: 1.0 + 0.05 * rng.standard_normal())
    wild = [product_row(row.m, row.k, row.n, 5 * row.seconds) if i == 3 else row for i, row in enumerate(products)]
    fit, memory = fit_device(wild, references, kernel_s=5e-6)
    assert fit.flops_per_s == pytest.approx(7e10, rel=0.1)
    assert memory.bytes_per_s == pytest.approx(3e9, rel=0.15)
    assert fit.residuals.worst == wild[3].name


def test_too_few_rows_and_rows_too_alike_are_refused():
    products, references = measured_on(device(7e10, 3e6, 3e9, 5e-6))
    with pytest.raises(BadInput, match="5 rows do not determine 2 figures; measure at least 6"):
        fit_device(products[:5], references, kernel_s=5e-6)
    with pytest.raises(BadInput, match="training steps: 2 rows do not determine 1 figure;"):
        fit_device(products, references[:2], kernel_s=5e-6)
    with pytest.raises(BadInput, match="too much alike"):
        robust([[1.0, 2.0]] * 8, [1.0] * 8, "a link")


def test_times_that_tell_nothing_apart_ask_for_an_idle_machine():
    products, references = measured_on(device(7e10, 3e6, 3e9, 5e-6))
    stalled = [replace(row, seconds=1.0) for row in references]
    with pytest.raises(BadInput, match="profile again when it is idle"):
        fit_device([replace(row, flops=1e6, seconds=1.0) for row in products], stalled, kernel_s=5e-6)


def test_a_cost_is_never_negative():
    found = robust([[1.0, x] for x in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "a link")
    assert (found >= 0).all()


@given(st.integers(2, 16), st.floats(1e-6, 1e-3), st.floats(1e8, 1e11))
def test_a_link_comes_back_and_collectives_cost_what_the_cost_model_says(ranks, latency_s, rate):
    def seconds(size):
        latencies, moved = per_unit("all_reduce", ranks, size)
        return latencies * latency_s + moved / rate

    rows = [
        Message(kind="all_reduce", ranks=ranks, size_bytes=s, seconds=seconds(s))
        for s in (4e3, 6e4, 1e6, 2e7, 3e8, 4e9)
    ]
    link = fit_link(rows)
    assert link.latency_s == pytest.approx(latency_s, rel=1e-3)
    assert link.bytes_per_s == pytest.approx(rate, rel=1e-3)


def test_one_rank_pays_nothing():
    assert Levels() == ()
    assert per_unit("all_reduce", 1, 8.0) == (0.0, 0.0)


def profile_of(kind, made, **more):
    products, references = measured_on(made)
    measured = Measurements(
        kernel_s=made.kernel_s, copy_bytes_per_s=9e9, products=tuple(products), moves=(), references=tuple(references),
        messages=(), processes=1, threads=1, clock="wall", **more,
    )  # fmt: skip
    return fitted(measured, kind, "pcie", source="measured here")


def test_a_calibrated_device_attains_what_was_measured():
    made = device(7e10, 3e6, 3e9, 5e-6)
    sheet = DeviceType(
        name="gpu", kind="gpu", peak_flops={"float32": 1e11}, memory_bytes=1e9, memory_bytes_per_s=2e10, kernel_s=1e-6
    )
    for kind, peak, bandwidth in ((sheet, 1e11, 2e10), (made, 7e10, 9e9)):
        calibrated = profile_of(kind, made).calibration.calibrated(kind)
        assert calibrated.peak_flops["float32"] == pytest.approx(peak, rel=1e-3)
        assert calibrated.memory_bytes_per_s == pytest.approx(bandwidth)
        assert calibrated.memory_bytes_per_s * calibrated.memory_efficiency == pytest.approx(3e9, rel=1e-3)
        row = product_kernel(1e9, 1e5)
        assert kernel_seconds(row, calibrated) == pytest.approx(kernel_seconds(row, made), rel=2e-3)


def test_ranks_are_told_by_their_median():
    rows = [product_row(2, 2, 2, seconds) for seconds in (1.0, 2.0, 9.0)]
    empty = Measurements(
        kernel_s=0.0, copy_bytes_per_s=1.0, products=(), moves=(), references=(), messages=(),
        processes=3, threads=1, clock="wall",
    )  # fmt: skip
    ranks = [replace(empty, kernel_s=row.seconds, products=(row,)) for row in rows]
    assert together(ranks).products == (rows[1],)
    assert together(ranks).kernel_s == 2.0
