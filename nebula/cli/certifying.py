"""The verbs of a job's authority: make it, sign certificates, revoke them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from nebula.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Make and revoke the certificates of an elastic job.")

Folder = Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Of the authority and its certificates.")]
Days = Annotated[float, typer.Option("--days", min=0.0, help="For how long certificates are good; 0.5: half a day.")]
FIRST = ("controller", "agent", "user")
"""What a new authority signs at once: for the controller, for agents, for people's commands."""


@app.command()
def init(job: str = "job", folder: Folder = Path("certs"), days: Days = 90, json: Json = False) -> None:
    """Make a job's authority, and certificates for its controller, its agents and people."""
    from nebula.elastic.authority import make_authority
    from nebula.elastic.authority import sign as sign_one
    from nebula.elastic.trust import now

    make_authority(folder, job, now())
    for name in FIRST:
        sign_one(folder, name, now(), days=days)
    _say(f"{folder} holds the authority of {job} and certificates for {', '.join(FIRST)}", json=json)


@app.command()
def sign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the certificate: agent-a")],
    folder: Folder = Path("certs"),
    days: Days = 90,
    host: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--host", help="A further address or name of the holder's server."),
    ] = None,
    json: Json = False,
) -> None:
    """Sign a certificate of its own for a node, so that it can be revoked alone."""
    from nebula.elastic.authority import sign as sign_one
    from nebula.elastic.trust import now

    path = sign_one(folder, name, now(), days=days, hosts=("127.0.0.1", *(host or ())))
    _say(f"signed {path}, good for {days:g} days", json=json)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the certificate: agent-a")],
    folder: Folder = Path("certs"),
    json: Json = False,
) -> None:
    """Revoke a certificate; copy revoked.pem to the controller and the nodes, which read it anew at once."""
    from nebula.elastic.authority import REVOKED
    from nebula.elastic.authority import revoke as revoke_one
    from nebula.elastic.trust import now

    revoke_one(folder, name, now())
    _say(f"revoked {name} in {folder / REVOKED}", json=json)


def _say(sentence: str, *, json: bool) -> None:
    from nebula.cli.console import print_json

    if json:
        print_json({"done": True, "because": sentence})
    else:
        print(sentence)
