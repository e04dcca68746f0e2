"""Which store a text names: `sqlite:PATH`, `file:FOLDER`, `etcd:URL[,URL]`, `kubernetes:NAMESPACE/NAME`, or a PATH.

A store of one file or folder is of one job; in etcd a job has a prefix, the path of the URL or `nebula/JOB`; in
Kubernetes it has a name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nebula.elastic.store import Store
from nebula.errors import BadInput, closest

if TYPE_CHECKING:
    import httpx

KINDS = ("sqlite", "file", "etcd", "kubernetes")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod is given to prove who it is."""


def opened(text: str, job: str, env: Mapping[str, str] = os.environ) -> Store:
    """Opens the store that a text names.

    Raises:
        BadInput: the text names none.
        StoreLost: it cannot be reached.
    """
    kind, _, where = text.partition(":")
    if kind == "etcd":
        return _etcd(where, job)
    if kind == "kubernetes":
        return _kubernetes(where, env)
    if kind == "file" and where:
        from nebula.elastic.file_store import FileStore

        return FileStore(Path(where))
    if kind in KINDS and not where:
        raise BadInput(f"--store {text}: write where it is after the colon, such as {kind}:runs/small/{kind}")
    if _names_a_kind(text):
        raise BadInput(f"--store {text}: there is no such kind of store; {closest(kind, KINDS)}")
    from nebula.elastic.sqlite_store import SqliteStore

    return SqliteStore(Path(where if kind == "sqlite" else text))


def _names_a_kind(text: str) -> bool:
    """Whether a text looks like KIND:SOMETHING and not like a path."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind.isalnum() and kind not in KINDS and not Path(text).exists()


def _etcd(where: str, job: str) -> Store:
    from nebula.elastic.etcd_store import EtcdStore

    urls = [urlsplit(url) for url in where.split(",")]
    for url in urls:
        if url.scheme not in ("http", "https") or not url.netloc or url.username:
            raise BadInput(f"--store etcd:{where}: write it as etcd:http://10.0.0.1:2379, without a user's name")
    prefix = urls[0].path.strip("/") or f"nebula/{job}"
    return EtcdStore([f"{url.scheme}://{url.netloc}" for url in urls], prefix)


def _kubernetes(where: str, env: Mapping[str, str]) -> Store:
    from nebula.elastic.kubernetes_store import KubernetesStore

    place, _, address = where.partition("@")
    if not re.fullmatch(r"[a-z0-9-]{1,63}/[a-z0-9-]{1,50}", place):
        raise BadInput(f"--store kubernetes:{where}: write it as kubernetes:NAMESPACE/NAME, in small letters")
    namespace, _, name = place.partition("/")
    return KubernetesStore(_client(address, env), namespace, name)


def _client(address: str, env: Mapping[str, str]) -> httpx.Client:
    """Talks to the API at an address such as that of `kubectl proxy`, or as a pod to its own cluster's."""
    import ssl

    import httpx

    if address:
        return httpx.Client(base_url=address, trust_env=False)
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (ACCOUNT / "token").exists():
        raise BadInput(
            "--store kubernetes:... works in a pod with an account of its own; elsewhere start `kubectl proxy` and "
            "write kubernetes:NAMESPACE/NAME@http://127.0.0.1:8001"
        )
    host = f"[{host}]" if ":" in host else host

    def signed(request: httpx.Request) -> None:
        """The token is read anew: the cluster changes it every hour."""
        request.headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text().strip()}"

    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    return httpx.Client(
        base_url=f"https://{host}:{port}", verify=trust, event_hooks={"request": [signed]}, trust_env=False
    )
