"""The verbs that talk to a running job's controller: status, events, scale, drain, chaos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Certificates, Controllers, Insecure, Json

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.elastic.client import Client


def status(
    controllers: Controllers, certs: Certificates = Path("certs"), insecure: Insecure = False, json: Json = False
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
    certs: Certificates = Path("certs"),
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Say what has happened to an elastic job: a line for each event, with its reason."""
    import json as text

    from nebula.report.job_text import event_document, event_line

    for event in client_of(controllers, certs, insecure=insecure).events(after=after, follow=follow):
        print(text.dumps(event_document(event)) if json else event_line(event), flush=True)


def scale(
    nodes: Annotated[
        str,
        typer.Argument(
            metavar="MIN:MAX|auto", help="How many nodes the job may have from now on; auto: as many as pay."
        ),
    ],
    controllers: Controllers,
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--run", metavar="RUN.YAML", help="With auto: the job's run file, whose plans are compared."),
    ] = None,
    efficiency: Annotated[
        float,
        typer.Option("--efficiency", metavar="SHARE", help="With auto: what a node has to be worth of the best one."),
    ] = 0.7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With auto: say what would be done, and why.")] = False,
    certs: Certificates = Path("certs"),
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Give an elastic job more or fewer nodes, or as many as pay."""
    from nebula.errors import BadInput

    if nodes == "auto":
        if run is None or not 0 < efficiency <= 1:
            raise BadInput("nebula scale auto: give the job's run file with --run, and --efficiency above 0, at most 1")
        _scale_by_throughput(
            client_of(controllers, certs, insecure=insecure), run, efficiency, dry_run=dry_run, json=json
        )
        return
    if dry_run or run is not None:
        raise BadInput(f"--run and --dry-run go with auto, not with {nodes}")
    least, _, most = nodes.partition(":")
    if not (least.isdigit() and (most or least).isdigit()):
        raise BadInput(f"{nodes!r}: write MIN:MAX, such as 1:4")
    _tell(client_of(controllers, certs, insecure=insecure).scale(int(least), int(most or least)), json=json)


def _scale_by_throughput(client: Client, run: Path, efficiency: float, *, dry_run: bool, json: bool) -> None:
    """Plans every size, holds it against what the job does, and asks for the one that pays."""
    from dataclasses import asdict

    from nebula.cli.console import log, print_json, results
    from nebula.cli.subject import load_subject
    from nebula.elastic.policy.size import advise
    from nebula.report.sizes_text import sizes_text

    subject, status = load_subject(run, ()), client.status()
    now = sum(node.state == "member" for node in status.nodes)
    predicted = _throughputs(subject, status.least_nodes)
    tokens = subject.run.job.global_batch * subject.graph.tokens_per_row
    measured = tokens / status.step_s if status.step_s else 0.0
    advice = advise(predicted, now=now, measured=measured, least_efficiency=efficiency)
    sentence = "" if dry_run or advice.nodes == now else client.scale(status.least_nodes, advice.nodes)
    if json:
        print_json({**asdict(advice), "now": now, "measured_tokens_per_s": measured, "asked": sentence})
        return
    results().print(sizes_text(advice, now=now, measured=measured))
    log(sentence or advice.because)


def _throughputs(subject: Subject, least: int) -> dict[int, float]:
    """Tokens per second of the best plan on the first so many nodes of the cluster; 0 where nothing fits."""
    from dataclasses import replace

    from nebula.cli.subject import find_plan
    from nebula.cluster.places import exclude, usable_nodes
    from nebula.errors import Infeasible

    run = subject.run
    names = [f"{group.name}/{node}" for group, node, _ in usable_nodes(run.cluster)]
    found = {}
    for count in range(max(1, least), len(names) + 1):
        try:
            smaller = replace(run, cluster=exclude(run.cluster, names[count:]))
            best = find_plan(replace(subject, run=smaller)).plan
        except Infeasible:
            found[count] = 0.0
        else:
            assert best.prediction is not None
            found[count] = best.prediction.tokens_per_s
    return found


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node that is to leave.")],
    controllers: Controllers,
    because: Annotated[str, typer.Option("--because", help="What the job's events will say.")] = "somebody asked",
    certs: Certificates = Path("certs"),
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Have a node leave an elastic job at its next step; nothing is lost."""
    _tell(client_of(controllers, certs, insecure=insecure).drain(node, because), json=json)


def chaos(
    schedule: Annotated[Path, typer.Argument(metavar="FAULTS.YAML", help="What is to fail, where and when.")],
    controllers: Controllers,
    certs: Certificates = Path("certs"),
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


def _tell(sentence: str, *, json: bool) -> None:
    from nebula.cli.console import print_json

    if json:
        print_json({"done": True, "because": sentence})
    else:
        print(sentence)


def client_of(controllers: str, certs: Path, *, insecure: bool) -> Client:
    """Talks to a job's controller under the certificate of people."""
    from nebula.cli.elastic import identity_of
    from nebula.elastic.client import Client

    return Client(controllers, identity_of(certs, "user", controllers.split(","), "--controller", insecure=insecure))
