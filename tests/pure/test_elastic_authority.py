"""A job's authority: what it signs, what it revokes, and the sentence for everything that is not good."""

from __future__ import annotations

import datetime
import stat

import pytest
from cryptography import x509

from nebula.elastic.authority import load_identity, make_authority, revoke, sign, unfit
from nebula.elastic.trust import handshake_words
from nebula.errors import BadInput

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def folder(tmp_path):
    make_authority(tmp_path / "certs", "job", NOW)
    for name in ("controller", "agent-a", "agent-b"):
        sign(tmp_path / "certs", name, NOW, days=30)
    return tmp_path / "certs"


def certificate(folder, name):
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def test_what_it_signs_is_good_for_as_long_as_it_says(folder):
    judge = load_identity(folder, "controller", NOW)
    good = certificate(folder, "agent-a")
    assert unfit(good, judge, NOW) == unfit(good, judge, NOW + 29 * DAY) == ""
    assert "certificate of agent-a has expired on 2026-01-31" in unfit(good, judge, NOW + 31 * DAY)
    assert "not good before" in unfit(good, judge, NOW - DAY)
    assert "is the clock right?" in unfit(good, judge, NOW - DAY)


def test_a_revoked_one_is_refused_alone(folder):
    revoke(folder, "agent-a", NOW)
    judge = load_identity(folder, "controller", NOW)
    assert unfit(certificate(folder, "agent-a"), judge, NOW) == "the certificate of agent-a is revoked"
    assert unfit(certificate(folder, "agent-b"), judge, NOW) == ""
    revoke(folder, "agent-b", NOW)
    judge = load_identity(folder, "controller", NOW)
    assert all("revoked" in unfit(certificate(folder, name), judge, NOW) for name in ("agent-a", "agent-b"))


def test_another_authority_signs_in_vain(folder, tmp_path):
    make_authority(tmp_path / "other", "job", NOW)
    sign(tmp_path / "other", "agent-a", NOW)
    judge = load_identity(folder, "controller", NOW)
    assert unfit(certificate(tmp_path / "other", "agent-a"), judge, NOW) == (
        "the certificate of agent-a was signed by another authority"
    )


def test_keys_are_for_their_owner_alone(folder):
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mistakes_are_said(folder, tmp_path):
    with pytest.raises(BadInput, match="holds an authority already"):
        make_authority(folder, "job", NOW)
    with pytest.raises(BadInput, match="nebula cert init"):
        sign(tmp_path, "agent", NOW)
    for name in ("", "../agent", "ca"):
        with pytest.raises(BadInput, match="is no name for a certificate"):
            sign(folder, name, NOW)
    with pytest.raises(BadInput, match="has no certificate nobody: there are agent-a, agent-b, controller"):
        revoke(folder, "nobody", NOW)
    with pytest.raises(BadInput, match=r"has no nobody\.crt: make it with `nebula cert sign nobody"):
        load_identity(folder, "nobody", NOW)
    with pytest.raises(BadInput, match="has expired"):
        load_identity(folder, "agent-a", NOW + 31 * DAY)
    with pytest.raises(BadInput, match="is the clock right"):
        load_identity(folder, "agent-a", NOW - 2 * DAY)


def test_other_lines_of_a_log_are_left_alone():
    assert handshake_words("Traceback (most recent call last):") == ""
