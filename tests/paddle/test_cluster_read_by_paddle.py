"""Paddle itself reads the cluster JSON that is written for it, and its own default cluster is read here."""

import json

import pytest

from nebula.cluster.paddle_json import to_paddle
from nebula.cluster.schema import load_cluster

NODE = {
    "name": "n",
    "count": 2,
    "device": "A100-80GB-SXM",
    "devices_per_node": 4,
    "intra": {"kind": "nvlink", "bandwidth": "300GB/s", "latency": "5us"},
    "nic": {"count": 4, "bandwidth": "200Gb/s"},
}


@pytest.mark.parametrize(("device", "kind"), [("A100-80GB-SXM", "GPU"), ("Ascend-910B", "XPU"), ("cpu", "CPU")])
def test_paddle_reads_what_is_written_for_it(tmp_path, device, kind):
    from paddle.distributed.auto_parallel.static.cluster import Cluster

    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(to_paddle(load_cluster({"name": "c", "nodes": [{**NODE, "device": device}]}))))
    read = Cluster()
    read.build_from_file(str(path))
    devices = [d for machine in read.machines.values() for d in machine.devices.values()]
    assert [d.global_id for d in devices] == list(range(8))
    assert {(d.type.name, d.model) for d in devices} == {(kind, device)}
    # microseconds per byte
    assert read.get_beta(0, 1) == pytest.approx(1e6 / 300e9)
    assert read.get_beta(0, 4) == pytest.approx(1e6 / 25e9)
    assert read.alpha_latency.intra_ring == pytest.approx(5.0)


def test_paddles_default_cluster_is_read():
    from paddle.distributed.auto_parallel.static.cluster import Cluster

    made = Cluster()
    seen = {}
    made._build_from_dict = seen.update
    made.gen_default_config_cluster(gpu_model="V100", node_count=2, device_count=4, gpu_memory=16)
    found = load_cluster(seen)
    assert [(g.count, g.devices_per_node, g.device.name) for g in found.groups] == [(2, 4, "V100-16GB-SXM2")]
    assert found.groups[0].intra.bytes_per_s == pytest.approx(235e9)
