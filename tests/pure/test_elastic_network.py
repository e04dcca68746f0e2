"""Which network interface the workers of a node use."""

from __future__ import annotations

import socket

import psutil

from nebula.elastic.agent.environment import of_network


def test_gloo_is_told_the_interface_of_the_nodes_address_unless_somebody_chose_one():
    for name, there in psutil.net_if_addrs().items():
        for one in there:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                assert of_network({}, one.address) == {"GLOO_SOCKET_IFNAME": name}
                assert of_network({"GLOO_SOCKET_IFNAME": "eth9"}, one.address) == {}


def test_on_one_machine_and_for_addresses_of_nobody_here_gloo_chooses_itself():
    assert of_network({}, "127.0.0.1") == of_network({}, "localhost") == {}
    assert of_network({}, "192.0.2.1") == of_network({}, "no-such-host.invalid") == {}
