"""Products and attention on a device whose multiprocessors are known: tiles, waves, power, masks, and their laws."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cluster.catalogue import device_type
from nebula.cost_model.compute import compute_seconds, kernel_seconds, kernels_seconds, sequence_seconds
from nebula.cost_model.kernel_parameters import PARAMETERS, THROTTLE_S
from nebula.cost_model.products import alone, rested
from nebula.graph.values import Kernel, Product, Scores
from tests.pure.cost_samples import device

MEASURED = Path(__file__).parents[2] / "cost_model" / "measurements"
SHAPED = device_type("H200")
SIZES = st.integers(1, 20_000)
FACTORS = st.floats(1.0, 50.0)


def product(batch=1, m=4096, n=4096, k=4096, dtype="bfloat16") -> Kernel:
    shape = Product(batch, m, n, k)
    read, written = 2.0 * batch * k * (m + n), 2.0 * batch * m * n
    return Kernel(kind="matmul", dtype=dtype, flops=shape.flops, read_bytes=read, written_bytes=written, product=shape)


def attention(batch=64, queries=2048, width=128, *, causal=True, backward=False) -> Kernel:
    scores = Scores(batch, queries, queries // 2 if causal else queries, queries, width)
    return Kernel(
        kind="attention_grad" if backward else "attention",
        dtype="bfloat16",
        flops=(5 if backward else 2) * scores.product.flops,
        read_bytes=6.0 * batch * queries * width,
        written_bytes=2.0 * batch * queries * width,
        scores=scores,
    )


def seconds(kernel: Kernel, on=SHAPED, generation=2) -> float:
    return kernel_seconds(kernel, on, generation) - on.kernel_s


def test_an_emulated_device_and_one_of_unknown_multiprocessors_go_by_flops_and_bytes():
    plain = device(peak_flops={"float32": 1e12, "bfloat16": 1e12})
    assert kernel_seconds(product(), replace(plain, multiprocessors=100)) == kernel_seconds(product(), plain)
    assert kernel_seconds(attention(), replace(plain, multiprocessors=100)) == kernel_seconds(attention(), plain)


def test_a_tile_more_than_a_wave_holds_costs_a_wave():
    loose = replace(SHAPED, product_efficiency=1.0, memory_bytes_per_s=1e15)
    full, more = (seconds(product(m=128, n=128 * tiles, k=512), loose) for tiles in (131, 133))
    assert full < more
    wide = replace(loose, multiprocessors=200)
    assert seconds(product(m=128, n=128 * 133, k=512), wide) < seconds(product(m=128, n=128 * 266, k=512), wide)


def test_few_tiles_with_a_long_k_are_split_along_it():
    short, long = (seconds(product(m=128, n=128, k=k)) for k in (4096, 16 * 4096))
    assert long < 8 * short


def test_a_device_at_its_power_limit_takes_its_flops_at_the_sustained_rate():
    limit_s = product(m=16384, n=16384, k=16384).flops / (SHAPED.peak("bfloat16") * SHAPED.product_efficiency)
    assert seconds(product(m=16384, n=16384, k=16384)) == pytest.approx(limit_s, rel=0.05)


def test_a_device_without_bfloat16_sustains_its_share_in_float16():
    half = replace(product(m=16384, n=16384, k=16384), dtype="float16")
    volta = device_type("V100-16GB-SXM2")
    limit_s = half.flops / (volta.peak("float16") * volta.product_efficiency)
    assert seconds(half, volta) == pytest.approx(limit_s, rel=0.1)


def test_a_product_with_a_short_k_takes_its_bytes():
    kernel = product(batch=256, m=2048, n=2048, k=64)
    moved_s = (kernel.read_bytes + kernel.written_bytes) / (SHAPED.memory_bytes_per_s * SHAPED.memory_efficiency)
    assert moved_s <= seconds(kernel) < 1.4 * moved_s


@given(batch=st.integers(1, 64), m=SIZES, n=SIZES, k=SIZES, more=st.integers(1, 3000))
def test_a_larger_product_is_never_faster(batch, m, n, k, more):
    least = seconds(product(batch, m, n, k))
    for larger in (product(batch + more, m, n, k), product(batch, m + more, n, k), product(batch, m, n, k + more)):
        assert seconds(larger) >= least * (1 - 1e-9)


@given(m=SIZES, n=SIZES, k=SIZES, peak=FACTORS, memory=FACTORS)
def test_a_faster_device_is_never_slower(m, n, k, peak, memory):
    more_flops = replace(SHAPED, peak_flops={d: peak * v for d, v in SHAPED.peak_flops.items()})
    more_bytes = replace(SHAPED, memory_bytes_per_s=memory * SHAPED.memory_bytes_per_s)
    gelu = Kernel(kind="gelu", dtype="bfloat16", flops=8.0 * m * n, read_bytes=2.0 * m * n, written_bytes=2.0 * m * n)
    for kernel in (product(1, m, n, k), attention(1 + m % 500, n, 64), gelu):
        assert seconds(kernel, more_flops) <= seconds(kernel) * (1 + 1e-9)
        assert seconds(kernel, more_bytes) <= seconds(kernel) * (1 + 1e-9)


@given(shapes=st.lists(st.tuples(st.integers(1, 64), SIZES, SIZES, SIZES), max_size=5))
def test_kernels_are_priced_together_as_one_by_one(shapes):
    kernels = [product(*shape) for shape in shapes] + [attention(), attention(backward=True)]
    assert kernels_seconds(kernels, SHAPED) == pytest.approx([kernel_seconds(k, SHAPED) for k in kernels])
    assert compute_seconds(kernels, SHAPED) == pytest.approx(sum(kernel_seconds(k, SHAPED) for k in kernels))


@given(batch=st.integers(1, 512), queries=st.integers(1, 30_000), width=st.integers(16, 256), back=st.booleans())
def test_a_causal_mask_saves_at_most_half(batch, queries, width, back):
    whole = seconds(attention(batch, queries, width, causal=False, backward=back))
    masked = seconds(attention(batch, 2 * (queries // 2) or 2, width, causal=True, backward=back))
    assert masked <= whole * 1.3 + 1e-5
    assert masked >= whole / 2.2 or queries < 4


@pytest.mark.parametrize(("n", "k"), [(5400, 14400), (14400, 1800)])
def test_rows_that_do_not_fill_whole_lines_are_slow_where_the_device_says_so(n, k):
    picky = replace(SHAPED, unaligned_share=0.5)
    assert seconds(product(n=n, k=k), picky) == pytest.approx(2 * seconds(product(n=n, k=k)), rel=0.2)
    assert seconds(product(n=5376, k=14336), picky) == seconds(product(n=5376, k=14336))
    # heads of a batch lie in rows of all heads
    assert seconds(product(batch=96, m=2048, n=2048, k=100), picky) == seconds(product(batch=96, m=2048, n=2048, k=100))


def test_later_generations_are_faster_where_the_device_has_other_instructions():
    first, second, third = (seconds(attention(), generation=g) for g in (1, 2, 3))
    assert first > second > third
    ampere = replace(device_type("A100-80GB-SXM"), older_kernel_share=1.0)
    assert seconds(attention(), ampere, 2) == seconds(attention(), ampere, 3)


@pytest.mark.parametrize(
    ("name", "generation", "width", "share"),
    [("A100-80GB-SXM", 2, 128, 0.73), ("H100-80GB-SXM", 2, 128, 0.35), ("H100-80GB-SXM", 3, 256, 0.75)],
)
def test_attention_reaches_what_its_authors_published(name, generation, width, share):
    """The most that FlashAttention-2 (arXiv 2307.08691) and 3 (2407.08608) say of their forward, rested devices; the
    catalogue's share of an A100 is that of a node that trains."""
    own = rested(device_type(name), 1e-3)
    if name.startswith("A100"):
        own = replace(own, older_kernel_share=1.0)
    kernel = attention(4096 // width, 16384, width, causal=False)
    reached = kernel.flops / kernel_seconds(kernel, own, generation) / own.peak("bfloat16")
    assert reached == pytest.approx(share, rel=0.06)


def test_few_heads_do_not_fill_the_device():
    one, many = (seconds(attention(b, 4096, causal=False)) for b in (1, 4))
    assert many < 1.1 * one


@given(st.lists(st.floats(0, 1e-3), max_size=20), st.floats(0, 1e-3))
def test_a_sequence_takes_the_longer_of_device_and_host(kernels, host):
    times = np.array(kernels, dtype=float)
    assert sequence_seconds(times, host) == pytest.approx(max(times.sum(), len(times) * host))


@given(busy=st.floats(1e-4, 10), longer=FACTORS)
def test_a_device_slows_down_to_its_sustained_rate(busy, longer):
    soon, late = rested(SHAPED, busy), rested(SHAPED, busy * longer)
    assert 1 >= soon.product_efficiency >= late.product_efficiency >= SHAPED.product_efficiency
    forever = rested(SHAPED, 1e6 * THROTTLE_S.value)
    assert forever.product_efficiency == pytest.approx(SHAPED.product_efficiency, rel=1e-5)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_lies_in_its_range(name):
    parameter = PARAMETERS[name]
    assert parameter.range[0] <= parameter.value <= parameter.range[1]
    assert parameter.unit
    assert parameter.meaning


def rows(name: str, op: str) -> list[dict]:
    return [r for r in json.loads((MEASURED / f"{name}.json").read_text())["rows"] if r["op"] == op]


@pytest.mark.parametrize(("name", "kind"), [("h200", "H200"), ("h100", "H100-80GB-SXM")])
def test_products_take_what_was_measured(name, kind):
    """Rows above 20 us: below, the host that launched them bound them."""
    long = [r for r in rows(name, "product") if r["dtype"] == "bfloat16" and r["s"] > 20e-6]
    kernels = [product(1, r["m"], r["n"], r["k"]) for r in long]
    error = kernels_seconds(kernels, alone(device_type(kind))) / [r["s"] for r in long] - 1
    assert np.median(abs(error)) < 0.05
    assert np.percentile(abs(error), 90) < 0.15
    assert abs(np.median(error)) < 0.02


@pytest.mark.parametrize(("name", "kind"), [("h200", "H200"), ("h100", "H100-80GB-SXM")])
@pytest.mark.parametrize(("kernel", "generation"), [("flash", 2), ("cudnn", 3)])
def test_attention_takes_what_was_measured(name, kind, kernel, generation):
    error = []
    for r in rows(name, "attention"):
        for back in (False, True) if r["kernel"] == kernel and "backward_s" in r else ():
            one = attention(r["batch"] * r["heads"], r["seq"], r["head_dim"], causal=r["causal"], backward=back)
            measured_s = r["backward_s" if back else "forward_s"]
            error.append(kernel_seconds(one, alone(device_type(kind)), generation) / measured_s - 1)
    assert np.median(np.abs(error)) < 0.06
    assert np.percentile(np.abs(error), 90) < 0.15
    assert abs(np.median(error)) < 0.04
