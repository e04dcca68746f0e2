"""The verb that shows a running job as it goes."""

from __future__ import annotations

from typing import Annotated

import typer

from nebula.cli.options import Certificates, Controllers, Insecure, Json


def top(
    controllers: Controllers,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 1.0,
    certs: Certificates = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Show an elastic job as it goes: nodes, steps, where the time goes, what happened last; once, on a pipe."""
    import sys
    import time

    from nebula.cli.asking import client_of
    from nebula.cli.console import print_json, results
    from nebula.report.job_text import status_document
    from nebula.report.top_text import top_text

    client = client_of(controllers, certs, insecure=insecure)
    if json:
        print_json(status_document(client.status()))
        return
    out = results()
    if not sys.stdout.isatty():
        out.print(top_text(client.status(), list(client.events())))
        return
    from rich.live import Live

    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            reply = client.status()
            live.update(top_text(reply, list(client.events())), refresh=True)
            if reply.phase in ("done", "failed"):
                break
            time.sleep(every)
    out.print(top_text(reply, list(client.events())))
