"""Kernels on a device: the roofline worked out by hand, and what more of anything may not make slower."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.compute import compute_seconds, kernel_seconds, moving_seconds, saturation
from nebula.graph.values import Collective, Kernel, Product
from tests.pure.cost_samples import device

PRODUCT = Kernel(
    kind="matmul",
    dtype="float32",
    flops=2e9,
    read_bytes=8e6,
    written_bytes=4e6,
    product=Product(1, 1000, 1000, 1000),
)
GELU = Kernel(kind="gelu", dtype="float32", flops=8e6, read_bytes=4e6, written_bytes=4e6)


def test_a_product_takes_its_arithmetic_when_that_is_longer():
    assert kernel_seconds(PRODUCT, device()) == pytest.approx(5e-6 + 2e9 / 1e12)


def test_a_product_takes_its_traffic_when_that_is_longer():
    assert kernel_seconds(PRODUCT, device(memory_bytes_per_s=1e9)) == pytest.approx(5e-6 + 12e6 / 1e9)


def test_efficiencies_slow_the_rates_down():
    slow = device(product_efficiency=0.5, memory_efficiency=0.25)
    assert kernel_seconds(PRODUCT, slow) == pytest.approx(5e-6 + 4e-3)
    assert kernel_seconds(GELU, slow) == pytest.approx(5e-6 + 8e6 / 2.5e10)


def test_element_wise_work_takes_its_traffic_whatever_its_arithmetic():
    assert kernel_seconds(GELU, device(peak_flops={"float32": 1e6})) == pytest.approx(5e-6 + 8e-5)


def test_fused_attention_takes_its_products():
    attention = Kernel(kind="attention_grad", dtype="float32", flops=5e9, read_bytes=1e3, written_bytes=1e3)
    assert kernel_seconds(attention, device()) == pytest.approx(5e-6 + 5e-3)


def test_half_of_the_rate_at_half_product_flops():
    assert saturation(3e9, 3e9) == 0.5
    assert kernel_seconds(PRODUCT, device(half_product_flops=2e9)) == pytest.approx(5e-6 + 4e-3)


def test_an_unlisted_dtype_runs_at_the_rate_of_float32():
    assert kernel_seconds(replace(PRODUCT, dtype="bfloat16"), device()) == kernel_seconds(PRODUCT, device())


def test_collectives_are_not_computed():
    wire = Collective(kind="all_reduce", axis="tensor", bytes=1e9)
    assert compute_seconds([PRODUCT, wire], device()) == kernel_seconds(PRODUCT, device())


def test_moving_takes_its_launches_and_its_bytes():
    assert moving_seconds(1e6, 3.0, device()) == pytest.approx(3 * 5e-6 + 1e-5)


@given(
    peak=st.floats(1e9, 1e15),
    memory=st.floats(1e8, 1e13),
    factor=st.floats(1.0, 100.0),
    flops=st.floats(0, 1e13),
    moved=st.floats(0, 1e11),
)
def test_a_faster_device_is_never_slower(peak, memory, factor, flops, moved):
    kernel = replace(PRODUCT, flops=flops, read_bytes=moved)
    own = device(peak_flops={"float32": peak}, memory_bytes_per_s=memory)
    seconds = kernel_seconds(kernel, own)
    assert kernel_seconds(kernel, replace(own, peak_flops={"float32": peak * factor})) <= seconds
    assert kernel_seconds(kernel, replace(own, memory_bytes_per_s=memory * factor)) <= seconds
