"""Who is let in: mutual TLS between real servers and clients, and what each side says of the other."""

from __future__ import annotations

import dataclasses
import datetime
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from elastic_job import Job
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from nebula.elastic.authority import can_be_renewed, load_identity, make_authority, revoke, sign
from nebula.elastic.trust import Doorkeeper, OpenDoor, Papers, check_partner, dial, now, server_credentials
from nebula.errors import BadInput

DAY = datetime.timedelta(days=1)


@pytest.fixture
def certs(tmp_path):
    for folder in ("certs", "other"):
        make_authority(tmp_path / folder, folder, now())
        for name in ("controller", "agent", "user"):
            sign(tmp_path / folder, name, now())
    return tmp_path


class Server:
    """A server that answers health checks, in a process's thread."""

    def __init__(self, identity):
        self.server = grpc.server(ThreadPoolExecutor(2))
        answers = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(answers, self.server)
        port = self.server.add_secure_port("127.0.0.1:0", server_credentials(Papers(identity)))
        self.address = f"127.0.0.1:{port}"
        self.server.start()


@pytest.fixture
def serve():
    servers = []

    def start(identity):
        servers.append(Server(identity))
        return servers[-1].address

    yield start
    for one in servers:
        one.server.stop(0)


def answers(address, identity):
    with dial(Papers(identity) if identity else None, ())(address) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status


def test_a_certificate_of_the_job_is_let_in(certs, serve):
    address = serve(load_identity(certs / "certs", "controller", now()))
    identity = load_identity(certs / "certs", "agent", now())
    check_partner(address, identity)
    assert answers(address, identity) == health_pb2.HealthCheckResponse.SERVING


def test_a_server_of_another_authority_is_not_trusted(certs, serve):
    address = serve(load_identity(certs / "other", "controller", now()))
    with pytest.raises(BadInput, match=r"is not trusted: its certificate was signed by another authority"):
        check_partner(address, load_identity(certs / "certs", "agent", now()))


def test_a_client_of_another_authority_is_refused(certs, serve, capfd):
    ours = load_identity(certs / "certs", "controller", now())
    address = serve(ours)
    theirs = dataclasses.replace(load_identity(certs / "other", "agent", now()), ca=ours.ca)
    with pytest.raises(BadInput, match=r"refuses the certificate of agent: .* signed by another authority"):
        check_partner(address, theirs)
    with pytest.raises(grpc.RpcError):
        answers(address, theirs)


def test_an_expired_client_is_refused(certs, serve):
    sign(certs / "certs", "old", now() - 100 * DAY, days=30)
    address = serve(load_identity(certs / "certs", "controller", now()))
    old = load_identity(certs / "certs", "old", now() - 99 * DAY)
    with pytest.raises(BadInput, match=r"refuses the certificate of old: .* has expired on"):
        check_partner(address, old)
    with pytest.raises(grpc.RpcError):
        answers(address, old)


def test_an_expired_server_and_one_of_tomorrow_are_not_trusted(certs, serve):
    sign(certs / "certs", "old", now() - 100 * DAY, days=30)
    sign(certs / "certs", "new", now() + 2 * DAY)
    agent = load_identity(certs / "certs", "agent", now())
    with pytest.raises(BadInput, match="is not trusted: its certificate has expired"):
        check_partner(serve(load_identity(certs / "certs", "old", now() - 99 * DAY)), agent)
    with pytest.raises(BadInput, match="is not trusted: its certificate is not good yet: set this node's clock"):
        check_partner(serve(load_identity(certs / "certs", "new", now() + 3 * DAY)), agent)


def test_a_revoked_server_is_not_trusted(certs, serve):
    address = serve(load_identity(certs / "certs", "controller", now()))
    revoke(certs / "certs", "controller", now())
    with pytest.raises(BadInput, match="is not trusted: the certificate of controller is revoked"):
        check_partner(address, load_identity(certs / "certs", "agent", now()))


def test_a_client_without_tls_and_without_a_certificate_is_refused(certs, serve):
    address = serve(load_identity(certs / "certs", "controller", now()))
    with pytest.raises(grpc.RpcError):
        answers(address, None)
    bare = grpc.ssl_channel_credentials((certs / "certs" / "ca.crt").read_bytes())
    options = (("grpc.ssl_target_name_override", "nebula.job"),)
    with grpc.secure_channel(address, bare, options=options) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


def test_the_doorkeeper_reads_the_list_anew(certs):
    said = []
    door = Doorkeeper(load_identity(certs / "certs", "controller", now()), said.append)

    class Call:
        def auth_context(self):
            return {"x509_pem_cert": [(certs / "certs" / "agent.crt").read_bytes()]}

        def peer(self):
            return "ipv4:10.0.0.7:1"

    assert door.refusal(Call()) == ""
    revoke(certs / "certs", "agent", now())
    assert door.refusal(Call()) == "the certificate of agent is revoked"
    assert said == ["refused a call from ipv4:10.0.0.7:1: the certificate of agent is revoked"]


def test_the_doorkeeper_takes_a_good_certificate_for_expired_when_a_test_asks(certs):
    door = Doorkeeper(load_identity(certs / "certs", "controller", now()), str)

    class Call:
        def auth_context(self):
            return {"x509_pem_cert": [(certs / "certs" / "agent.crt").read_bytes()]}

        def peer(self):
            return "ipv4:10.0.0.7:1"

    assert door.take_for_expired("b", 0.5)
    assert "the certificate of agent has expired on" in door.refusal(Call(), "b")
    assert can_be_renewed(door.refusal(Call(), "b"))
    assert door.refusal(Call(), "a") == ""
    time.sleep(0.5)
    assert door.refusal(Call(), "b") == ""
    assert not OpenDoor().take_for_expired("b", 0.5)


def nebula(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "nebula.cli.main", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )


def test_a_job_under_tls_turns_away_who_is_revoked(tmp_path):
    assert nebula(tmp_path, "cert", "init").returncode == 0
    assert nebula(tmp_path, "cert", "sign", "agent-b").returncode == 0
    make_authority(tmp_path / "other", "other", now())
    sign(tmp_path / "other", "agent", now())
    job = Job(tmp_path, steps=40, secure=True)
    try:
        job.controller().agents("a", "b").wait_step(2)
        job.agents("stranger", certs="other")
        assert job.ends("stranger") == 2
        assert "is not trusted: its certificate was signed by another authority" in job.log("stranger")
        job.wait(lambda: "refused a connection: it does not trust this side's certificate" in job.log(), 10)
        at = f"127.0.0.1:{job.port}"
        assert "run is running" in nebula(tmp_path, "status", "--controller", at).stdout
        assert nebula(tmp_path, "status", "--controller", at, "--insecure").returncode == 4
        assert nebula(tmp_path, "cert", "revoke", "agent-b").returncode == 0
        assert job.ends("b") == 2
        assert "the certificate of agent-b is revoked" in job.log("b")
        assert "b is turned away: the certificate of agent-b is revoked" in job.log()
        assert job.ends() == 0
        assert [one["step"] for one in job.steps()] == list(range(1, 41))
    finally:
        job.close()


def test_papers_are_read_anew_and_a_key_without_its_certificate_is_left_alone(certs, serve):
    folder = certs / "certs"
    papers = Papers(load_identity(folder, "agent", now()))
    first = papers.current()
    sign(certs / "other", "agent", now())
    (folder / "agent.key").write_bytes((certs / "other" / "agent.key").read_bytes())
    assert papers.current() is first
    sign(folder, "agent", now() - 100 * DAY, days=30)
    assert papers.current() is first
    sign(folder, "agent", now())
    assert papers.current().certificate == (folder / "agent.crt").read_bytes() != first.certificate
    assert papers.current() is papers.current()


def test_a_server_shows_its_renewed_certificate_without_a_restart(certs, serve):
    folder, seconds = certs / "certs", 3.0 / 86400
    sign(folder, "short", now(), days=seconds)
    address = serve(load_identity(folder, "short", now()))
    agent = load_identity(folder, "agent", now())
    check_partner(address, agent)
    time.sleep(3.1)
    with pytest.raises(BadInput, match="is not trusted: its certificate has expired"):
        check_partner(address, agent)
    sign(folder, "short", now())
    check_partner(address, agent)
    assert answers(address, agent) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
def test_an_agent_whose_certificate_expires_is_left_out_until_it_is_renewed(tmp_path):
    assert nebula(tmp_path, "cert", "init").returncode == 0
    assert nebula(tmp_path, "cert", "sign", "agent-b").returncode == 0
    job = Job(tmp_path, steps=100_000, secure=True)
    try:
        job.controller().agents("a", "b").wait_step(1)
        assert (
            "good for 9.25926e-05 days" in nebula(tmp_path, "cert", "sign", "agent-b", "--days", f"{8 / 86400}").stdout
        )
        job.wait(lambda: "this node's certificate was renewed" in job.log("b"), 10)
        job.wait(lambda: "b is connected again; its workers went on" in job.log(), 10)

        job.wait(lambda: "b is turned away: the certificate of agent-b has expired on" in job.log(), 30)
        job.wait(lambda: "the controller refuses this agent: the certificate of agent-b has expired" in job.log("b"), 9)
        job.wait(
            lambda: "refuses the certificate of agent-b: the certificate of agent-b has expired" in job.log("b"), 9
        )
        job.wait(lambda: "1 ranks begin under" in job.log(), 30)

        seen = len(job.log())
        assert nebula(tmp_path, "cert", "sign", "agent-b").returncode == 0
        job.wait(lambda: "2 ranks begin under" in job.log()[seen:], 60)
        job.wait_step(job.last_step() + 1)
        assert [one["step"] for one in job.steps()] == list(range(1, len(job.steps()) + 1))
    finally:
        job.close()
