"""The verb that gives a running job other bounds: those that are named, or as many nodes as pay, once or repeatedly.

What each size would do is planned once, before the first look; a look asks the controller how the job stands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from nebula.cli.options import Certificates, Controllers, Insecure, Json

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.elastic.client import Client
    from nebula.elastic.policy.size import Advice, Sizes

AUTO = "auto"
AWAY_S = 60.0
"""A controller that does not answer for so long is not asked again; one that takes over answers sooner."""


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
    every: Annotated[
        str,
        typer.Option("--every", metavar="SECONDS", help="With auto: look and act so often, until the job is over."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With auto: say what would be done, and why.")] = False,
    certs: Certificates = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Give an elastic job more or fewer nodes, or as many as pay."""
    from nebula.cli.asking import client_of, tell
    from nebula.errors import BadInput

    def client() -> Client:
        return client_of(controllers, certs, insecure=insecure)

    if nodes == AUTO:
        if run is None or not 0 < efficiency <= 1:
            raise BadInput("nebula scale auto: give the job's run file with --run, and --efficiency above 0, at most 1")
        every_s = _every_s(every)
        scaler = _Scaler(client, run, efficiency, dry_run=dry_run, json=json)
        scaler.again_and_again(every_s) if every_s else scaler.once()
        return
    if dry_run or every or run is not None:
        raise BadInput(f"--run, --every and --dry-run go with auto, not with {nodes}")
    least, _, most = nodes.partition(":")
    if not (least.isdigit() and (most or least).isdigit()):
        raise BadInput(f"{nodes!r}: write MIN:MAX, such as 1:4")
    tell(client().scale(int(least), int(most or least)), json=json)


def _every_s(text: str) -> float:
    """Seconds between two looks; 0: one look."""
    from nebula.errors import BadInput
    from nebula.units import parse_seconds

    if not text:
        return 0.0
    every_s = parse_seconds(text)
    if every_s < 1.0:
        raise BadInput(f"--every {text}: a job is looked at once a second at most; give 1s or more")
    return every_s


class _Scaler:
    """Holds what is planned for every size against what a job does, and asks for the size that pays."""

    def __init__(
        self, client: Callable[[], Client], run: Path, efficiency: float, *, dry_run: bool, json: bool
    ) -> None:
        from nebula.cli.subject import load_subject
        from nebula.elastic.policy.size import Sizes

        self._client, self._dry_run, self._json = client, dry_run, json
        subject, status = load_subject(run, ()), client().status()
        self._tokens = subject.run.job.global_batch * subject.graph.tokens_per_row
        self._sizes: Sizes = Sizes(predicted=_throughputs(subject, status.least_nodes), least_efficiency=efficiency)

    def once(self) -> None:
        """Judges by what the job does now."""
        from nebula.cli.console import print_json

        client = self._client()
        status = client.status()
        now, measured = self._rate(status)
        advice = self._sizes.advice(now=now, measured=measured)
        asked = self._ask(client, status, advice) if advice.nodes != now else ""
        if self._json:
            print_json(_document(advice, now, measured, asked))
        else:
            self._tell(advice, now, measured, asked)

    def again_and_again(self, every_s: float) -> None:
        """Judges whenever the job has trained on the same nodes since the look before; ends with the job.

        Raises:
            RunFailed: no controller answers for AWAY_S.
        """
        import time

        from nebula.errors import RunFailed

        heard_s = time.monotonic()
        while True:
            try:
                over = self._look()
            except RunFailed:
                if time.monotonic() - heard_s > max(AWAY_S, 2 * every_s):
                    raise
            else:
                if over:
                    return
                heard_s = time.monotonic()
            time.sleep(every_s)

    def _look(self) -> bool:
        """Looks once; whether the job is over."""
        import json

        client = self._client()
        status = client.status()
        now, measured = self._rate(status)
        running = status.phase == "running"
        advice = self._sizes.look(
            generation=status.generation if running else 0, now=now, most=status.most_nodes, measured=measured
        )
        if advice is not None:
            asked = self._ask(client, status, advice) if advice.nodes != status.most_nodes else ""
            if self._json:
                print(json.dumps(_document(advice, now, measured, asked)), flush=True)
            else:
                self._tell(advice, now, measured, asked)
        return status.phase in ("done", "failed")

    def _rate(self, status: Any) -> tuple[int, float]:
        """Nodes that train, and their tokens per second; 0 while none are known."""
        now = sum(node.state == "member" for node in status.nodes)
        return now, self._tokens / status.step_s if status.step_s else 0.0

    def _ask(self, client: Client, status: Any, advice: Advice) -> str:
        return "" if self._dry_run else client.scale(status.least_nodes, advice.nodes)

    def _tell(self, advice: Advice, now: int, measured: float, asked: str) -> None:
        from nebula.cli.console import log, results
        from nebula.report.sizes_text import sizes_text

        results().print(sizes_text(advice, now=now, measured=measured))
        log(asked or advice.because)


def _document(advice: Advice, now: int, measured: float, asked: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(advice), "now": now, "measured_tokens_per_s": measured, "asked": asked}


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
