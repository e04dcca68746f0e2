"""A store in etcd, through the HTTP/JSON gateway that every etcd since 3.4 serves: no client library, no protobuf.

A key's version is etcd's own, which rises with every write. Every write is one transaction that compares that version
and who leads, so that a writer who does not lead any longer changes nothing. A request that got no answer is sent
again; whether the first one was carried out is seen from what stands there.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import httpx

from nebula.elastic.store import Conflict, Entry, Lease, StoreLost, Watcher, answer, check_leads, check_version, renewed

PATIENCE_S = 2.0
"""For so long requests that get no answer are sent again, to each address in turn."""
TIMEOUT_S = 1.0
PAGE = 1000
"""Entries of one answer."""


class EtcdStore:
    """A store in etcd; see nebula.elastic.store.Store."""

    def __init__(self, addresses: Sequence[str], prefix: str, clock: Callable[[], float] | None = None) -> None:
        """Looks whether etcd answers.

        Args:
            addresses: URLs of its members.
            prefix: of all keys.

        Raises:
            StoreLost: none does.
        """
        self.addresses, self.prefix = [address.rstrip("/") for address in addresses], prefix
        self._watcher = Watcher(clock) if clock else Watcher()
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._turn = 0
        self.get("state")

    def close(self) -> None:
        """Hangs up."""
        self._client.close()

    def get(self, key: str) -> Entry | None:
        """See Store."""
        found = self._kvs(self._post("range", {"key": self._key(f"entry/{key}")}))
        return _entry(found[0]) if found else None

    def put(self, key: str, value: str, *, expected: int, lease: Lease) -> int:
        """See Store."""
        at, token = self._key(f"entry/{key}"), self._key(f"token/{lease.name}")
        compare = [
            {"key": at, "target": "VERSION", "result": "EQUAL", "version": str(expected)},
            {"key": token, "target": "VALUE", "result": "EQUAL", "value": _coded(str(lease.token))},
        ]
        write = [{"request_put": {"key": at, "value": _coded(value)}}]
        look = [{"request_range": {"key": at}}, {"request_range": {"key": self._key(f"lease/{lease.name}")}}]
        attempts = list[None]()
        body = {"compare": compare, "success": write, "failure": look}
        done = self._post("txn", body, lambda: attempts.append(None))
        if done.get("succeeded"):
            return expected + 1
        there, held = (self._kvs(one["response_range"]) for one in done["responses"])
        check_leads(_lease(held[0]) if held else None, lease)
        found = _entry(there[0]) if there else None
        if len(attempts) > 1 and found == Entry(value=value, version=expected + 1):
            return expected + 1  # the request before did it, and its answer was lost
        check_version(found.version if found else 0, expected, key)
        raise Conflict(f"{key} changed while it was written")

    def list(self, prefix: str) -> Mapping[str, Entry]:
        """See Store."""
        begin = f"{self.prefix}/entry/"
        first, after = (begin + prefix).encode(), _after((begin + prefix).encode())
        found: dict[str, Entry] = {}
        while True:
            asked = {"key": _coded(first), "range_end": _coded(after), "limit": str(PAGE)}
            reply = self._post("range", asked)
            kvs = self._kvs(reply)
            found |= {_plain(kv["key"]).decode().removeprefix(begin): _entry(kv) for kv in kvs}
            if not reply.get("more"):
                return found
            first = _plain(kvs[-1]["key"]) + b"\0"

    def lead(self, name: str, holder: str, ttl_s: float) -> Lease:
        """See Store."""
        while True:
            held, revision = self._held(name)
            lease = answer(held, name, holder, ttl_s, self._watcher)
            if lease == held or self._swap(lease, revision):
                return lease

    def renew(self, lease: Lease) -> Lease:
        """See Store."""
        while True:
            held, revision = self._held(lease.name)
            kept = renewed(held, lease)
            if self._swap(kept, revision):
                return kept

    def _held(self, name: str) -> tuple[Lease | None, str]:
        """A lease, and the revision that tells whether it has changed since."""
        kvs = self._kvs(self._post("range", {"key": self._key(f"lease/{name}")}))
        return (_lease(kvs[0]), kvs[0]["mod_revision"]) if kvs else (None, "0")

    def _swap(self, lease: Lease, revision: str) -> bool:
        """Writes a lease, and its token beside it, unless it has changed."""
        at = self._key(f"lease/{lease.name}")
        compare = [{"key": at, "target": "MOD", "result": "EQUAL", "mod_revision": revision}]
        write = [
            {"request_put": {"key": at, "value": _coded(json.dumps(asdict(lease)))}},
            {"request_put": {"key": self._key(f"token/{lease.name}"), "value": _coded(str(lease.token))}},
        ]
        return bool(self._post("txn", {"compare": compare, "success": write}).get("succeeded"))

    def _key(self, key: str) -> str:
        return _coded(f"{self.prefix}/{key}")

    @staticmethod
    def _kvs(reply: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        return reply.get("kvs") or ()

    def _post(self, verb: str, body: Mapping[str, Any], tried: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The answer to a request.

        Args:
            tried: is called for each attempt.

        Raises:
            StoreLost: no member answers.
        """
        path = f"/v3/kv/{verb}"
        until_s, why, number = time.monotonic() + PATIENCE_S, "", 0
        while number < len(self.addresses) or time.monotonic() < until_s:
            number += 1
            tried()
            address = self.addresses[self._turn % len(self.addresses)]
            try:
                reply = self._client.post(address + path, json=body)
                if reply.status_code == 200:
                    found: dict[str, Any] = reply.json()
                    return found
                why = f"{address}: {reply.text.strip()[:200]}"
                if reply.status_code < 500:
                    break
            except (httpx.HTTPError, ValueError) as error:
                why = f"{address}: {error or type(error).__name__}"
            self._turn += 1
            time.sleep(0.05)
        raise StoreLost(f"etcd does not answer ({why}); is it running there? Nothing is lost: start again when it does")


def _coded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _plain(text: str) -> bytes:
    return base64.b64decode(text)


def _after(prefix: bytes) -> bytes:
    """The first key that does not begin so; keys are UTF-8, so that their last byte can be raised."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _entry(kv: Mapping[str, Any]) -> Entry:
    return Entry(value=_plain(kv.get("value", "")).decode(), version=int(kv["version"]))


def _lease(kv: Mapping[str, Any]) -> Lease:
    return Lease(**json.loads(_plain(kv["value"])))
