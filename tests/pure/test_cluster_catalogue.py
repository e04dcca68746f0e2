"""The catalogue: the names that others rely on, plausible figures, a source for each."""

import pytest

from nebula.cluster import catalogue
from nebula.errors import BadInput

NAMES = [
    *("V100-16GB-SXM2", "V100-32GB-SXM3", "T4-16GB", "A100-40GB-SXM", "A100-80GB-SXM", "H100-80GB-SXM", "H200"),
    *("H800-80GB-SXM", "B200", "GB200", "Ascend-910", "Ascend-910B", "Kunlun-R480", "Kunlun-P800", "cpu"),
]


def test_has_the_names_that_others_rely_on():
    assert set(NAMES) <= set(catalogue.names())


@pytest.mark.parametrize("name", catalogue.names())
def test_every_figure_is_plausible_and_has_a_source(name):
    device = catalogue.device_type(name)
    assert device.name == name
    assert device.peak("float32") <= device.peak("float16")
    assert 0.2 <= device.product_efficiency <= 1
    assert 1e9 < device.memory_bytes_per_s < 1e13
    assert 2**32 < device.memory_bytes < 2**39
    sources = dict(device.sources)
    assert set(sources) >= {"peak_flops", "memory_bytes", "memory_bytes_per_s", "power_w", "price_per_hour", "kernel_s"}
    assert all(sources.values())
    assert (sources["price_per_hour"] == "not public") == (device.price_per_hour == 0)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ascend-910B (Atlas 900 A2 PODc)", "Ascend-910B"),
        ("Ascend-910 x 8", "Ascend-910"),
        ("A100-80GB-SXM4", "A100-80GB-SXM"),
        ("H200", "H200"),
    ],
)
def test_a_longer_text_means_the_longest_name_that_begins_it(text, name):
    assert catalogue.device_type(text).name == name


def test_an_unknown_name_names_the_closest():
    with pytest.raises(BadInput, match="did you mean 'A100-40GB-SXM'"):
        catalogue.device_type("A100-4GB-SXM")


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB-SXM"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-16GB", "V100-16GB-SXM2"),
        ("Tesla T4", "T4-16GB"),
        ("910B2", "Ascend-910B"),
    ],
)
def test_products_as_drivers_name_them(product, name):
    device = catalogue.of_product(product)
    assert device is not None
    assert device.name == name


def test_an_unknown_product_is_none():
    assert catalogue.of_product("GeForce 256") is None
