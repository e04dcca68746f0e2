"""A small server with the manners of the Kubernetes API: objects by path, and a resourceVersion that has to match.

What a client gets wrong is refused as the API does: 404 for what is not there, 409 AlreadyExists for what is, 409
Conflict for another resourceVersion, 422 for names and data that are not allowed.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 2**20
PATHS = re.compile(
    r"/(api/v1/namespaces/[a-z0-9-]+/configmaps|apis/coordination\.k8s\.io/v1/namespaces/[a-z0-9-]+/leases)(/[a-z0-9.-]+)?"
)


class Api(ThreadingHTTPServer):
    """Serves until it is closed; `objects` is what there is, `before` is called before each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.version, self.lock = {}, 0, threading.Lock()
        self.before = lambda verb, path: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, verb, path, body):
        found = PATHS.fullmatch(path)
        if found is None:
            return 404, refusal("NotFound", "the server could not find the requested resource")
        with self.lock:
            if verb == "POST":
                return self.create(f"{path}/{body['metadata']['name']}", body)
            if path not in self.objects:
                return 404, refusal("NotFound", f"{path} not found")
            return (200, self.objects[path]) if verb == "GET" else self.replace(path, body)

    def create(self, path, body):
        if not PATHS.fullmatch(path):
            return 422, refusal("Invalid", f"{path}: no name of an object")
        if path in self.objects:
            return 409, refusal("AlreadyExists", f"{path} already exists")
        if "resourceVersion" in body["metadata"]:
            return 400, refusal("BadRequest", "resourceVersion should not be set on objects to be created")
        return self.keep(201, path, body)

    def replace(self, path, body):
        there = self.objects[path]["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion") != there:
            return 409, refusal(
                "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        return self.keep(200, path, body)

    def keep(self, status, path, body):
        data = body.get("data", {})
        if any(
            not re.fullmatch(r"(?!\.\.?$|\.\.)[-._a-zA-Z0-9]{1,253}", name) or type(data[name]) is not str
            for name in data
        ):
            return 422, refusal("Invalid", "data: a key or a value is not allowed")
        if sum(len(name) + len(text.encode()) for name, text in data.items()) > LIMIT:
            return 422, refusal("Invalid", "data: Too long: must have at most 1048576 bytes")
        self.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.version)}
        self.objects[path] = json.loads(json.dumps({**body, "metadata": metadata}))
        return status, self.objects[path]


def refusal(reason, message):
    return {"kind": "Status", "status": "Failure", "reason": reason, "message": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_object(self):
        self.server.before(self.command, self.path)
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size)) if size else None
        status, answer = self.server.answer(self.command, self.path, body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def __getattr__(self, name):
        if name in ("do_GET", "do_POST", "do_PUT"):
            return self.handle_one_object
        raise AttributeError(name)

    def log_message(self, *words):
        pass
