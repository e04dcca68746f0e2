"""The verbs that talk to a running job's controller: status, events, drain, chaos; scale is in nebula.cli.scaling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nebula.cli.options import Certificates, Controllers, Insecure, Json

if TYPE_CHECKING:
    from nebula.elastic.client import Client


def status(
    controllers: Controllers, certs: Certificates = None, insecure: Insecure = False, json: Json = False
) -> None:
    """Say how an elastic job stands, and why."""
    from nebula.cli.console import print_json, results
    from nebula.report.job_text import status_document, status_text

    reply = client_of(controllers, certs, insecure=insecure).status()
    if json:
        print_json(status_document(reply))
    else:
        results().print(status_text(reply))


def events(
    controllers: Controllers,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    after: Annotated[int, typer.Option("--after", metavar="NUMBER", help="Only events after this one.")] = 0,
    certs: Certificates = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Say what has happened to an elastic job: a line for each event, with its reason."""
    import json as text

    from nebula.report.job_text import event_document, event_line

    for event in client_of(controllers, certs, insecure=insecure).events(after=after, follow=follow):
        print(text.dumps(event_document(event)) if json else event_line(event), flush=True)


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node that is to leave.")],
    controllers: Controllers,
    because: Annotated[str, typer.Option("--because", help="What the job's events will say.")] = "somebody asked",
    certs: Certificates = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Have a node leave an elastic job at its next step; nothing is lost."""
    tell(client_of(controllers, certs, insecure=insecure).drain(node, because), json=json)


def chaos(
    schedule: Annotated[Path, typer.Argument(metavar="FAULTS.YAML", help="What is to fail, where and when.")],
    controllers: Controllers,
    certs: Certificates = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Have things fail on purpose in a running job, and say what came of each."""
    from nebula.cli.console import log, print_json, results
    from nebula.elastic.chaos.run import run
    from nebula.elastic.chaos.schema import load_schedule
    from nebula.errors import RunFailed
    from nebula.report.chaos_text import chaos_document, chaos_text

    found = run(load_schedule(schedule), client_of(controllers, certs, insecure=insecure), log)
    if json:
        print_json(chaos_document(found))
    else:
        results().print(chaos_text(found))
    if found.phase == "failed":
        raise RunFailed("the job failed; its controller and `nebula events` say why")


def tell(sentence: str, *, json: bool) -> None:
    """Says what a controller answered to a wish."""
    from nebula.cli.console import print_json

    if json:
        print_json({"done": True, "because": sentence})
    else:
        print(sentence)


def client_of(controllers: str, certs: Path | None, *, insecure: bool) -> Client:
    """Talks to a job's controller under the certificate of people."""
    from nebula.cli.elastic import identity_of
    from nebula.elastic.client import Client

    return Client(controllers, identity_of(certs, "user", controllers.split(","), "--controller", insecure=insecure))
