"""Emulated devices are profiled the whole way: the figures that the cluster file gave them come back."""

import pytest
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cluster.calibration import load_calibration

CLUSTER = """\
name: emulated
devices:
  made-up:
    {kind: npu, emulated: true, peak_flops: {fp32: 200e9}, memory: 4GiB, memory_bandwidth: 20GB/s, kernel_time: 5us,
     product_efficiency: 0.9, memory_efficiency: 0.9}
nodes:
  - {name: pair, count: 2, device: made-up, devices_per_node: 2, intra: {kind: pcie, bandwidth: 1GB/s, latency: 20us},
     nic: {count: 1, bandwidth: 300MB/s, latency: 50us}}
"""


@pytest.mark.slow
def test_the_figures_of_the_file_come_back(tmp_path):
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    words = ["profile", "--cluster", str(tmp_path / "cluster.yaml"), "-o", str(tmp_path / "out.yaml"), "--quick"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = load_calibration(tmp_path / "out.yaml")
    figures = found.figures
    assert found.peak_flops["float32"] * figures["product_efficiency"] == pytest.approx(180e9, rel=0.01)
    assert figures["memory_bytes_per_s"] * figures["memory_efficiency"] == pytest.approx(18e9, rel=0.01)
    assert figures["kernel_s"] == pytest.approx(5e-6, rel=0.01)
    assert (found.intra.bytes_per_s, found.intra.latency_s) == pytest.approx((1e9, 20e-6), rel=0.01)
    assert (found.nic.bytes_per_s, found.nic.latency_s) == pytest.approx((3e8, 50e-6), rel=0.01)
