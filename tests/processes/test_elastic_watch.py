"""What people see of a running job: its account sums to its wall time, and a failure is told with all that belongs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate

import grpc
import httpx
import psutil
import pytest
from elastic_job import Job
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from nebula.elastic.controller.lead import SERVICE
from nebula.elastic.telling import FIELDS


class Collector(BaseHTTPRequestHandler):
    """Takes traces."""

    def do_POST(self):
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job whose worker was killed once, and which goes on; its controller shows all that it can."""
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    collector.received = []
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    # a node that a busy host makes slow is kept
    made = Job(tmp_path_factory.mktemp("watched"), steps=100_000, nodes="2:2")
    made.received = collector.received
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    made.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    made.controller("controller", "--metrics", "127.0.0.1:0", "--traces", "--log-format", "json")
    made.window = re.search(r"/readyz are at (http://127.0.0.1:\d+)", made.log())[1]
    made.agent_options = ["--json"]
    made.agents("a", "b").wait_step(8)
    made.worker("b").send_signal(signal.SIGKILL)
    made.wait(lambda: "training goes on" in made.log(), 60)
    made.wait_step(made.last_step() + 3)
    yield made
    made.close()
    collector.shutdown()


def asked(job, *words):
    at = ("--controller", f"127.0.0.1:{job.port}", "--insecure")
    said = subprocess.run(
        [sys.executable, "-m", "nebula.cli.main", *words, *at], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def events(job):
    return [json.loads(line) for line in asked(job, "events", "--json").splitlines()]


def test_the_account_sums_to_wall_time(job):
    before = events(job)
    status = json.loads(asked(job, "status", "--json"))
    after = json.loads(asked(job, "status", "--json"))
    spent = status["account_s"]
    wall_s = sum(after["account_s"].values()) - sum(spent.values())
    assert 0.0 < wall_s < 60.0
    assert sum(spent.values()) > before[-1]["ts"] - before[0]["ts"]
    assert all(took_s >= 0.0 for took_s in spent.values())
    for name in ("productive", "waiting", "starting", "detecting", "saving"):
        assert spent[name] > 0.0, name
    assert 0.0 < status["goodput"] < 1.0
    assert status["lost_steps"] <= 1
    assert "goodput" in asked(job, "status")


def test_a_failure_is_told_with_node_rank_lines_and_the_recovery_it_began(job):
    told = {one["event"]: one for one in events(job)}
    failed, back = told["failed"], told["stepping"]
    assert failed["node"] == "b"
    assert failed["rank"] in (0, 1)
    assert failed["last_lines"] or failed["rank"] == 1  # rank 0 alone says anything
    assert len(failed["trace"]) == 32
    assert failed["trace"] == back["trace"] == told["stopped"]["trace"]
    assert told["begun"]["trace"] == ""
    stages = ("told", "stopped", "planned", "loading", "loaded", "first", "stepped")
    took = back["seconds"]
    assert sum(took.get(stage, 0.0) for stage in (*stages, "redone")) == pytest.approx(took["all"], abs=0.001)


def metrics(text):
    """Name with labels -> value."""
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def fetched(job, path):
    return httpx.get(f"{job.window}{path}", timeout=10.0)


def test_metrics_tell_what_status_and_events_do(job):
    reply = fetched(job, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, status = metrics(reply.text), json.loads(asked(job, "status", "--json"))
    assert found["nebula_generation"] == status["generation"] == 2
    assert found["nebula_world_size"] == 2
    assert found['nebula_workers{state="member"}'] == 2
    assert found['nebula_failures_total{kind="exit"}'] == 1
    assert found['nebula_failures_total{kind="exit"}'] == status["restarts"]
    assert 8 <= found["nebula_steps_total"] <= status["step"]
    assert found["nebula_lost_steps_total"] == status["lost_steps"]
    assert found["nebula_step_duration_seconds_count"] > 3
    assert found['nebula_failure_detection_seconds_count{kind="exit"}'] == 1
    assert found["nebula_checkpoint_stall_seconds_sum"] > 0
    assert abs(found["nebula_last_step_timestamp_seconds"] - time.time()) < 30
    assert 0 < found["nebula_goodput_ratio"] < 1
    assert found['nebula_checkpoint_bytes_total{tier="memory"}'] > 8 * 10**6
    disk = 'nebula_checkpoint_bytes_total{tier="disk"}'  # every ten steps
    on_disk = job.wait(lambda: metrics(fetched(job, "/metrics").text).get(disk), 60)
    saved = [json.loads(line)["bytes"] for line in (job.folder / "run" / "saves.jsonl").read_text().splitlines()]
    assert min(saved) > 8 * 10**6
    assert on_disk in accumulate(saved)
    assert any(name.startswith("nebula_build_info{version=") for name in found)
    back = next(one for one in events(job) if one["event"] == "stepping")
    whole = found['nebula_recovery_duration_seconds_sum{stage="all"}']
    assert whole == pytest.approx(back["seconds"]["all"])
    for stage in ("detect", "stop", "rendezvous", "start", "load", "first_step"):
        assert found[f'nebula_recovery_duration_seconds_count{{stage="{stage}"}}'] == 1, stage
    for category in ("waiting", "starting", "detecting", "saving"):
        assert found[f'nebula_badput_seconds_total{{category="{category}"}}'] > 0, category


def test_health_and_readiness(job):
    assert (fetched(job, "/healthz").status_code, fetched(job, "/healthz").text) == (200, "alive\n")
    ready = fetched(job, "/readyz")
    assert (ready.status_code, ready.text.split(":")[0]) == (200, "running")
    assert fetched(job, "/nothing").status_code == 404


def health(address, service):
    """What a process answers to grpc.health.v1, as kubelet and grpc_health_probe ask."""
    with grpc.insecure_channel(address) as channel:
        asked = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10).status


def test_controller_and_agents_answer_health_checks(job):
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", SERVICE):
        assert health(f"127.0.0.1:{job.port}", service) == serving
    with pytest.raises(grpc.RpcError) as unknown:
        health(f"127.0.0.1:{job.port}", "another")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    for node in "ab":
        listens = psutil.Process(job.processes[node].pid).net_connections("tcp")
        (address,) = [one.laddr for one in listens if one.status == psutil.CONN_LISTEN]
        assert health(f"127.0.0.1:{address.port}", "") == serving


def told(job, name):
    """The events that a process has printed so far."""
    return [json.loads(line) for line in job.log(name).splitlines(keepends=True) if line.endswith("}\n")]


def test_events_are_followed_as_they_come(job):
    before = events(job)
    words = ("events", "--follow", "--json", "--controller", f"127.0.0.1:{job.port}", "--insecure")
    following = job.start("follow", *words)
    try:
        job.wait(lambda: len(told(job, "follow")) >= len(before), 30)
        assert told(job, "follow")[: len(before)] == before
        assert asked(job, "scale", "1:2").startswith("scaled to 1:2 nodes")
        job.wait(lambda: [one for one in told(job, "follow")[len(before) :] if one["event"] == "scaled"], 10)
        assert following.poll() is None
    finally:
        following.terminate()
        following.wait(30)


def test_a_real_prometheus_scrapes_it(job, tmp_path):
    """Its own parser takes all of it, and answers queries about it."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus here: apt-get install prometheus")
    target = job.window.removeprefix("http://")
    scrape = {"job_name": "nebula", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={at}"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([program, *words], cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        job.wait(lambda: asked_of(at, "up") == 1.0, 60)
        assert asked_of(at, 'nebula_failures_total{kind="exit"}') == 1.0
        assert asked_of(at, "sum(nebula_recovery_duration_seconds_count)") > 3.0
    finally:
        server.terminate()
        server.wait(30)


def asked_of(address, query):
    """The value that a Prometheus answers; None while it has none."""
    try:
        reply = httpx.get(f"http://{address}/api/v1/query", params={"query": query}, timeout=5.0)
    except httpx.TransportError:
        return None
    found = reply.json()["data"]["result"] if reply.status_code == 200 else []
    return float(found[0]["value"][1]) if found else None


def test_top_is_plain_on_a_pipe(job):
    text = asked(job, "top")
    assert "\x1b" not in text
    assert "running" in text.splitlines()[0]
    assert "was killed by SIGKILL" in text
    assert json.loads(asked(job, "top", "--json"))["phase"] == "running"


def test_the_log_is_json_with_all_fields(job):
    lines = [json.loads(line) for line in job.log().splitlines() if line.startswith("{")]
    assert all(set(FIELDS) <= set(line) for line in lines)
    failed = next(line for line in lines if line["event"] == "failed")
    assert (failed["level"], failed["job_id"], failed["run_id"], failed["node"]) == ("error", "run", "run-1", "b")
    back = next(line for line in lines if line["event"] == "stepping")
    assert failed["trace_id"] == back["trace_id"]
    assert back["seconds"]["all"] > 0
    agents = [json.loads(line) for line in job.log("a").splitlines() if line.startswith("{")]
    assert {line["node"] for line in agents} == {"a"}


def test_the_recovery_was_sent_as_a_trace(job):
    """To a server of OTLP over HTTP, read by OpenTelemetry's own types."""
    job.wait(lambda: job.received, 30)
    spans = [
        span
        for body in job.received
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    trace = next(one["trace"] for one in events(job) if one["event"] == "stepping")
    assert {span.trace_id.hex() for span in spans} == {trace}
    assert {"recovery", "detect", "stop", "rendezvous", "start", "load", "first_step"} <= {span.name for span in spans}


def test_a_port_that_is_taken_and_an_address_of_another_machine(job):
    words = ["controller", "run.yaml", "--insecure", "--listen", "127.0.0.1:0", "-o", "other", "--metrics"]
    for address, said in (
        (job.window.removeprefix("http://"), "the address cannot be used (Address already in use)"),
        ("0.0.0.0:9464", "they are served without TLS to this machine alone, such as 127.0.0.1:9464"),
        ("here", "write it as HOST:PORT"),
    ):
        job.start("refused", *words, address)
        assert job.ends("refused", 60) == 2
        assert said in job.log("refused")
