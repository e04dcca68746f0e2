"""The verbs that talk to a running job's controller: status, events, scale, drain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nebula.cli.options import Certificates, Controllers, Insecure, Json

if TYPE_CHECKING:
    from nebula.elastic.client import Client


def status(
    controllers: Controllers, certs: Certificates = Path("certs"), insecure: Insecure = False, json: Json = False
) -> None:
    """Say how an elastic job stands, and why."""
    from nebula.cli.console import print_json, results
    from nebula.report.job_text import status_document, status_text

    reply = _client(controllers, certs, insecure=insecure).status()
    if json:
        print_json(status_document(reply))
    else:
        results().print(status_text(reply))


def events(
    controllers: Controllers,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    after: Annotated[int, typer.Option("--after", metavar="NUMBER", help="Only events after this one.")] = 0,
    certs: Certificates = Path("certs"),
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Say what has happened to an elastic job: a line for each event, with its reason."""
    import json as text

    from nebula.report.job_text import event_document, event_line

    for event in _client(controllers, certs, insecure=insecure).events(after=after, follow=follow):
        print(text.dumps(event_document(event)) if json else event_line(event), flush=True)


def scale(
    nodes: Annotated[str, typer.Argument(metavar="MIN:MAX", help="How many nodes the job may have from now on.")],
    controllers: Controllers,
    certs: Certificates = Path("certs"),
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Give an elastic job more or fewer nodes."""
    from nebula.errors import BadInput

    least, _, most = nodes.partition(":")
    if not (least.isdigit() and (most or least).isdigit()):
        raise BadInput(f"{nodes!r}: write MIN:MAX, such as 1:4")
    _tell(_client(controllers, certs, insecure=insecure).scale(int(least), int(most or least)), json=json)


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node that is to leave.")],
    controllers: Controllers,
    because: Annotated[str, typer.Option("--because", help="What the job's events will say.")] = "somebody asked",
    certs: Certificates = Path("certs"),
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Have a node leave an elastic job at its next step; nothing is lost."""
    _tell(_client(controllers, certs, insecure=insecure).drain(node, because), json=json)


def _tell(sentence: str, *, json: bool) -> None:
    from nebula.cli.console import print_json

    if json:
        print_json({"done": True, "because": sentence})
    else:
        print(sentence)


def _client(controllers: str, certs: Path, *, insecure: bool) -> Client:
    from nebula.cli.elastic import identity_of
    from nebula.elastic.client import Client

    return Client(controllers, identity_of(certs, "user", controllers.split(","), "--controller", insecure=insecure))
