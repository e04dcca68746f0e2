"""A store in Kubernetes: a Lease says who leads, ConfigMaps hold the entries; over the API, with httpx.

The API changes one object at a time, if it is as the writer has seen it (resourceVersion). So every ConfigMap carries
the token of who leads, and who takes the lease over marks all of them before anything else: from then on an older
leader finds either another resourceVersion or a higher token. Events are spread over ConfigMaps of 500, as one may
hold 1 MiB; the first says how many there are.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from nebula.elastic.store import Entry, Fenced, Lease, StoreLost, Watcher, answer, check_leads, check_version, renewed

PATIENCE_S, TIMEOUT_S = 2.0, 1.0
EVENTS = 500
"""Events of a ConfigMap."""
TOKEN, BEAT, TTL, MAPS = "nebula/token", "nebula/beat", "nebula/ttl-seconds", "nebula/maps"
"""Annotations: of ConfigMaps, of the Lease, of the first ConfigMap."""


class Changed(Exception):
    """An object is not as it was seen, or is there already."""


class KubernetesStore:
    """A store in a namespace; see nebula.elastic.store.Store."""

    def __init__(
        self, client: httpx.Client, namespace: str, name: str, clock: Callable[[], float] | None = None
    ) -> None:
        """Looks whether the API answers.

        Args:
            client: with the API's address and how one proves who one is.
            name: of the Lease and the first ConfigMap.

        Raises:
            StoreLost: it does not answer, or does not let one in.
        """
        self._client, self.namespace, self.name = client, namespace, name
        self._watcher = Watcher(clock) if clock else Watcher()
        self.get("state")

    def close(self) -> None:
        """Hangs up."""
        self._client.close()

    def get(self, key: str) -> Entry | None:
        """See Store."""
        found = self._get(self._map_path(_map_of(key)))
        return _entries(found).get(key) if found else None

    def put(self, key: str, value: str, *, expected: int, lease: Lease) -> int:
        """See Store."""
        number, sent = _map_of(key), False
        while True:
            held = self._held(lease.name)[0]
            check_leads(held, lease)
            found = self._marked(number, lease)
            there = _entries(found).get(key)
            if sent and there == Entry(value=value, version=expected + 1):
                return expected + 1  # it was done, and the answer was lost
            check_version(there.version if there else 0, expected, key)
            data = {**(found.get("data") or {}), _spelt(key): json.dumps({"value": value, "version": expected + 1})}
            try:
                self._replace(self._map_path(number), {**found, "data": data})
            except Changed:
                sent = True
                continue
            return expected + 1

    def list(self, prefix: str) -> Mapping[str, Entry]:
        """See Store."""
        first = self._get(self._map_path(0))
        found = dict(_entries(first)) if first else {}
        for number in range(1, _maps(first) if first else 0):
            more = self._get(self._map_path(number))
            found |= _entries(more) if more else {}
        return {key: found[key] for key in sorted(found) if key.startswith(prefix)}

    def lead(self, name: str, holder: str, ttl_s: float) -> Lease:
        """See Store."""
        while True:
            held, found = self._held(name)
            lease = answer(held, name, holder, ttl_s, self._watcher)
            if lease == held:
                return lease
            try:
                self._write_lease(lease, found)
            except Changed:
                continue
            self._mark_all(lease)
            return lease

    def renew(self, lease: Lease) -> Lease:
        """See Store."""
        while True:
            held, found = self._held(lease.name)
            kept = renewed(held, lease)
            try:
                self._write_lease(kept, found)
            except Changed:
                continue
            return kept

    # ConfigMaps

    def _mark_all(self, lease: Lease) -> None:
        """Has all ConfigMaps, also those that somebody was about to make, carry the token of who leads now."""
        number = 0
        while number < _maps(self._marked(0, lease)):
            self._marked(number, lease)
            number += 1

    def _marked(self, number: int, lease: Lease) -> dict[str, Any]:
        """A ConfigMap that carries a leader's token; it is made where there is none.

        Raises:
            Fenced: it carries a higher one.
        """
        path = self._map_path(number)
        while True:
            if number:
                self._announce(number, lease)
            found = self._get(path)
            if found is None:
                annotations = {TOKEN: str(lease.token), **({MAPS: "1"} if number == 0 else {})}
                body = {"metadata": {"name": self._map_name(number), "annotations": annotations}, "data": {}}
                try:
                    return self._create(path, {"apiVersion": "v1", "kind": "ConfigMap", **body})
                except Changed:
                    continue
            token = int(found["metadata"]["annotations"][TOKEN])
            if token > lease.token:
                raise Fenced(f"{lease.holder} (epoch {lease.token}) leads {lease.name} no longer: epoch {token} does")
            if token == lease.token:
                return found
            try:
                return self._replace(path, _annotated(found, {TOKEN: str(lease.token)}))
            except Changed:
                continue

    def _announce(self, number: int, lease: Lease) -> None:
        """Has the first ConfigMap know of another, before that is made."""
        while True:
            first = self._marked(0, lease)
            if _maps(first) > number:
                return
            try:
                self._replace(self._map_path(0), _annotated(first, {MAPS: str(number + 1)}))
            except Changed:
                continue
            return

    def _map_name(self, number: int) -> str:
        return f"{self.name}-{number}" if number else self.name

    def _map_path(self, number: int) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{self._map_name(number)}"

    # The Lease

    def _held(self, name: str) -> tuple[Lease | None, dict[str, Any] | None]:
        found = self._get(self._lease_path(name))
        if found is None:
            return None, None
        spec, marks = found["spec"], found["metadata"]["annotations"]
        return Lease(
            name=name,
            holder=spec["holderIdentity"],
            token=spec["leaseTransitions"],
            beat=int(marks[BEAT]),
            ttl_s=float(marks[TTL]),
        ), found

    def _write_lease(self, lease: Lease, found: dict[str, Any] | None) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = self._lease_path(lease.name)
        spec = {
            "holderIdentity": lease.holder,
            "leaseTransitions": lease.token,
            "leaseDurationSeconds": max(1, math.ceil(lease.ttl_s)),
            "renewTime": now,
        }
        marks = {BEAT: str(lease.beat), TTL: repr(lease.ttl_s)}
        if found is None:
            body = {"metadata": {"name": path.rpartition("/")[2], "annotations": marks}, "spec": spec}
            self._create(path, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body})
        else:
            self._replace(path, {**_annotated(found, marks), "spec": {**found["spec"], **spec}})

    def _lease_path(self, name: str) -> str:
        named = f"{self.name}-{re.sub('[^a-z0-9-]+', '-', name.lower()).strip('-')}"
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{named}"

    # The API

    def _get(self, path: str) -> dict[str, Any] | None:
        return self._ask("GET", path, None, missing=True)

    def _create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path.rpartition("/")[0], body) or {}

    def _replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises Changed unless the object still has the resourceVersion that the body has."""
        return self._ask("PUT", path, body) or {}

    def _ask(
        self, verb: str, path: str, body: Mapping[str, Any] | None, *, missing: bool = False
    ) -> dict[str, Any] | None:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                reply = self._client.request(verb, path, json=body, timeout=TIMEOUT_S)
                if reply.status_code < 300:
                    found: dict[str, Any] = reply.json()
                    return found
                why = f"{verb} {path}: {reply.status_code} {_message(reply)}"
            except (httpx.HTTPError, ValueError) as error:
                why = f"{verb} {path}: {error or type(error).__name__}"
            else:
                if reply.status_code == 404 and missing:
                    return None
                if reply.status_code == 409:
                    raise Changed(why)
                if reply.status_code < 500 and reply.status_code != 429:
                    raise StoreLost(f"the Kubernetes API refuses {why}; may the pod's account get, create and update?")
            if time.monotonic() > until_s:
                raise StoreLost(
                    f"the Kubernetes API does not answer ({why}). Nothing is lost: start again when it does"
                )
            time.sleep(0.1)


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("message", ""))[:200]
    except ValueError:
        return reply.text[:200]


def _annotated(found: Mapping[str, Any], marks: Mapping[str, str]) -> dict[str, Any]:
    metadata = found["metadata"]
    return {**found, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **marks}}}


def _maps(first: Mapping[str, Any]) -> int:
    return int(first["metadata"]["annotations"][MAPS])


def _map_of(key: str) -> int:
    """Which ConfigMap a key is in.

    >>> _map_of("state"), _map_of("event/0000000007"), _map_of("event/0000000500")
    (0, 1, 2)
    """
    number = re.fullmatch(r"event/([0-9]{1,15})", key)
    return 1 + int(number[1]) // EVENTS if number else 0


def _spelt(key: str) -> str:
    """A key as one of a ConfigMap: letters, digits, `-` and most `.` stand for themselves.

    >>> _spelt("event/7")
    'event_2f7'
    """
    return re.sub(r"^\.|[^A-Za-z0-9.-]", lambda found: "".join(f"_{byte:02x}" for byte in found[0].encode()), key)


def _read(name: str) -> str:
    """The other way round."""
    parts = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode())
    return parts.decode()


def _entries(found: Mapping[str, Any]) -> dict[str, Entry]:
    return {_read(name): Entry(**json.loads(text)) for name, text in (found.get("data") or {}).items()}
