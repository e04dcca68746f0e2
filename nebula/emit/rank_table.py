"""A plan's ranks as the rank table of Ascend's collective library HCCL, version 1.0: servers, devices, rank ids.

Addresses are not in a plan: they stand as `<...>` and the table says `initializing`, so that nothing takes it for
finished. Refused are other devices than NPUs; super pods (version 1.2) have fields that are not written here.
"""

from __future__ import annotations

from nebula.emit.values import Decided, Emitted, Options
from nebula.errors import BadInput
from nebula.launch.command import device_types
from nebula.plan.files import render

_NOTES = (
    "put each node's address for `server_id`, and for `device_ip` what /etc/hccn.conf of the node says (address_N of "
    "device N) or `hccn_tool -i N -ip -g` prints",
    "then set `status` to completed",
)


def emit(decided: Decided, options: Options) -> Emitted:
    """The table as JSON.

    Raises:
        BadInput: a rank is not on a real NPU.
    """
    del options
    _check_devices(decided)
    ranks = decided.plan.ranks
    nodes = list(dict.fromkeys(place.node for place in ranks))
    servers = []
    for node in nodes:
        held = sorted((place.device, rank) for rank, place in enumerate(ranks) if place.node == node)
        devices = [
            {"device_id": str(device), "device_ip": f"<IP of device {device} of {node}>", "rank_id": str(rank)}
            for device, rank in held
        ]
        servers.append({"server_id": f"<IP of {node}>", "device": devices})
    document = {
        "version": "1.0",
        "server_count": str(len(nodes)),
        "server_list": servers,
        "status": "initializing",
    }
    return Emitted(text=render(document) + "\n", document=document, notes=_NOTES)


def _check_devices(decided: Decided) -> None:
    for rank, device in enumerate(device_types(decided.cluster, decided.plan)):
        if device.emulated or device.kind != "npu":
            kind = "emulated" if device.emulated else device.kind
            raise BadInput(
                f"rank-table is for Ascend NPUs: rank {rank} is on {device.name}, a device of kind {kind}; "
                "use the format launch"
            )
