"""Is the table of emulated devices complete and exact, and does it refuse what makes no sense?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.emulator.table import EmulatedDevice, Link, uniform_links, write_table
from nebula.errors import BadInput

DEVICE = EmulatedDevice(
    memory_bytes=2**30,
    float32_flops_per_s=1e12,
    bfloat16_flops_per_s=4e12,
    float16_flops_per_s=2e12,
    memory_bytes_per_s=1e11,
    kernel_s=5e-6,
    host_bytes_per_s=1e10,
)
LINK = Link(bytes_per_s=1e10, latency_s=5e-6)
positive = st.floats(min_value=1e-12, max_value=1e18)


def lines(path: Path, kind: str) -> list[list[str]]:
    return [line.split()[1:] for line in path.read_text().splitlines() if line.startswith(kind + " ")]


@given(bandwidth=positive, latency_s=st.floats(min_value=0, max_value=10), kernel_s=positive)
def test_numbers_arrive_exactly(
    tmp_path_factory: pytest.TempPathFactory, bandwidth: float, latency_s: float, kernel_s: float
) -> None:
    path = tmp_path_factory.mktemp("table") / "devices.txt"
    device = EmulatedDevice(**asdict(DEVICE) | {"kernel_s": kernel_s})
    write_table(path, [DEVICE, device], {(0, 1): Link(bytes_per_s=bandwidth, latency_s=latency_s)})
    (link, back) = lines(path, "link")
    assert [float(word) for word in link[2:]] == [bandwidth, latency_s]
    assert (link[:2], back[:2]) == (["0", "1"], ["1", "0"])
    assert [float(word) for word in lines(path, "device")[1]] == [1, *asdict(device).values()]


def test_a_link_each_way_may_differ(tmp_path: Path) -> None:
    slow = Link(bytes_per_s=1e9, latency_s=1e-5)
    path = write_table(tmp_path / "t", [DEVICE] * 2, {(0, 1): LINK, (1, 0): slow})
    assert lines(path, "link") == [["0", "1", "10000000000.0", "5e-06"], ["1", "0", "1000000000.0", "1e-05"]]


def test_uniform_links_join_every_ordered_pair() -> None:
    assert set(uniform_links(3, LINK)) == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"kernel_s": -1.0}, "kernel_s"),
        ({"host_bytes_per_s": float("nan")}, "host"),
    ],
)
def test_senseless_devices_are_refused(change: dict[str, float], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        EmulatedDevice(**asdict(DEVICE) | change)


def test_senseless_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="bytes_per_s is 0"):
        Link(bytes_per_s=0, latency_s=0)
    with pytest.raises(BadInput, match="rank 1 has an emulated link to itself"):
        write_table(tmp_path / "t", [DEVICE], {(1, 1): LINK})
    with pytest.raises(BadInput, match="0 emulated devices"):
        write_table(tmp_path / "t", [], {})
    assert list(tmp_path.iterdir()) == []
