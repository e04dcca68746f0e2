"""The verbs of training that goes on: a controller for a job, an agent on every node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from nebula.cli.options import AllowFaults, Certificates, Controllers, Force, Insecure, Json, PlanOption, RunFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nebula.cli.subject import Subject
    from nebula.cluster.values import Cluster
    from nebula.elastic.authority import Identity
    from nebula.elastic.controller.plans import Plans
    from nebula.elastic.controller.settings import Settings
    from nebula.elastic.controller.show import Show
    from nebula.elastic.policy.values import Bounds
    from nebula.elastic.telling import Tell
    from nebula.plan.values import Plan
    from nebula.planner.replan import Replanner
    from nebula.report.findings import Search

TEXT, JSON = "text", "json"
CERTS = Path("certs")
"""Where certificates are unless a folder is named."""
LATE_S = 3.0
"""So long after its start a controller plans for the nodes that may be lost."""
LogFormat = Annotated[
    str, typer.Option("--log-format", metavar="text|json", help="Lines for people, or JSON lines as --json gives.")
]


def controller(
    run: RunFile,
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the run file."),
    ] = None,
    nodes: Annotated[str, typer.Option("--nodes", metavar="MIN:MAX", help="How many nodes the job may have.")] = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where agents connect.")
    ] = "0.0.0.0:7077",
    store: Annotated[
        str,
        typer.Option(
            "--store",
            metavar="PLACE",
            help="What outlives the controller: sqlite:PATH, file:FOLDER, etcd:http://HOST:2379 or "
            "kubernetes:NAMESPACE/NAME; default: job.db in the folder.",
        ),
    ] = "",
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", metavar="FOLDER", help="The run's folder; default: runs/MODEL."),
    ] = None,
    unit: Annotated[int, typer.Option("--unit", help="Nodes that come and go together.")] = 1,
    node_failures: Annotated[
        int, typer.Option("--node-failures", help="Failures in 10 minutes, of no other node, that put one aside.")
    ] = 3,
    memory_every: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--memory-every", help="Steps between two copies in the nodes' memory; 0: none; default: 1."),
    ] = None,
    script: Annotated[
        str, typer.Option("--script", metavar="'SCRIPT ARGUMENT...'", help="Run this instead of the built-in training.")
    ] = "",
    replicas: Annotated[
        int,
        typer.Option("--replicas", metavar="SHARDS", help="Let workers fail and join one by one; a batch has SHARDS."),
    ] = 0,
    certs: Certificates = None,
    insecure: Insecure = False,
    metrics: Annotated[
        str,
        typer.Option("--metrics", metavar="HOST:PORT", help="/metrics, /healthz and /readyz there, on this machine."),
    ] = "",
    traces: Annotated[
        bool, typer.Option("--traces", help="Send each recovery as an OpenTelemetry trace (an extra).")
    ] = False,
    allow_faults: AllowFaults = False,
    plan_file: PlanOption = None,
    force: Force = False,
    log_format: LogFormat = TEXT,
    json: Json = False,
) -> None:
    """Lead an elastic job: agents connect, workers train, and the job goes on when some of them fail."""
    import asyncio
    from contextlib import closing, nullcontext

    from nebula.cli.replicas import refuse_with_replicas
    from nebula.cli.subject import load_subject
    from nebula.elastic.controller.brain import STATE
    from nebula.elastic.controller.lead import serve
    from nebula.elastic.place import opened
    from nebula.elastic.policy.values import Limits
    from nebula.elastic.trust import Doorkeeper, OpenDoor, Papers, refusals_told

    if replicas:
        refuse_with_replicas(plan_file=plan_file, memory_every=memory_every, script=script, unit=unit)
    subject = load_subject(run, overrides)
    folder = (folder or Path("runs") / subject.graph.name).resolve()
    kept = opened(store, folder.name) if store else None
    at = store or f"sqlite:{folder / 'job.db'}"
    goes_on = kept.get(STATE) is not None if kept else (folder / "job.db").exists()
    plan, search = _plan_of(subject, folder, plan_file, replicas, goes_on=goes_on and not force)
    bounds = _bounds(nodes, subject.run.cluster, unit)
    identity = identity_of(certs, "controller", [listen], "--listen", insecure=insecure)
    _make_folder(folder, subject, plan, search, force=force, goes_on=goes_on)
    settings = _settings(
        subject,
        plan,
        folder,
        script=script,
        bounds=bounds,
        limits=Limits(node_failures=node_failures),
        memory_every=memory_every if memory_every is not None else int(not replicas),
        shards=replicas,
        allows_faults=allow_faults,
    )
    say = _teller(log_format, json=json, job_id=settings.name)
    show = _show(metrics, settings.name, say, traces=traces)
    say(f"{plan.split} · {folder} · store {at}")
    with refusals_told() if identity else nullcontext(), closing(show):
        work = serve(
            settings,
            kept or opened(at, folder.name),
            _plans(subject, plan, apart=replicas > 0),
            listen=listen,
            papers=Papers(identity) if identity else None,
            door=Doorkeeper(identity, say) if identity else OpenDoor(),
            say=say,
            show=show,
        )
        asyncio.run(work)


def agent(
    controllers: Controllers,
    devices: Annotated[int, typer.Option("--devices", help="Workers that this node runs.")] = 1,
    name: Annotated[str, typer.Option("--name", help="Of this node, the same whenever it comes back.")] = "",
    logs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--logs", metavar="FOLDER", help="For the workers' logs; default: in the run's folder."),
    ] = None,
    address: Annotated[str, typer.Option("--address", help="Where other nodes reach this one.")] = "",
    spares: Annotated[bool, typer.Option("--spares/--no-spares", help="Keep processes ready that have Paddle.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Try the device before joining, and the ways to other nodes after.")
    ] = False,
    certs: Certificates = None,
    certificate: Annotated[
        str, typer.Option("--certificate", metavar="NAME", help="Of this node; default: agent-NAME if there, or agent.")
    ] = "",
    insecure: Insecure = False,
    log_format: LogFormat = TEXT,
    allow_faults: AllowFaults = False,
    json: Json = False,
) -> None:
    """Run the workers of this node for a job's controller."""
    import socket

    from nebula.elastic.agent.run import run
    from nebula.errors import BadInput

    if insecure and certificate:
        raise BadInput(f"--insecure --certificate {certificate}: without TLS there are no certificates; leave one out")
    at, name = controllers.split(","), name or socket.gethostname()
    own, folder = f"agent-{name}", certs or CERTS
    certificate = certificate or (own if (folder / f"{own}.crt").exists() else "agent")
    run(
        at,
        name=name,
        slots=devices,
        identity=identity_of(certs, certificate, at, "--controller", insecure=insecure),
        logs=logs.resolve() if logs else None,
        spares=spares,
        allows_faults=allow_faults,
        address=address,
        certificate=None if insecure else (folder, certificate),
        check=check,
        say=_teller(log_format, json=json, node=name),
    )


def _show(metrics: str, job: str, say: Tell, *, traces: bool) -> Show:
    """What others may see of a controller."""
    from nebula.elastic.controller.show import Show
    from nebula.elastic.controller.tracing import Tracer

    if metrics:
        _check_loopback(metrics, "--metrics", "they are served without TLS to this machine alone")
    return Show(metrics, Tracer(job) if traces else None, say)


def _teller(log_format: str, *, json: bool, **known: str) -> Tell:
    """Where sentences go: text on stderr, or a JSON line each on stdout."""
    import time

    from nebula.cli.console import log
    from nebula.elastic.telling import as_json, as_text
    from nebula.errors import BadInput

    if log_format not in (TEXT, JSON):
        raise BadInput(f"--log-format {log_format}: it is {TEXT} or {JSON}")
    if json or log_format == JSON:
        return as_json(lambda line: print(line, flush=True), time.time, known)
    return as_text(log)


def _bounds(nodes: str, cluster: Cluster, unit: int) -> Bounds:
    from nebula.cluster.places import usable_nodes
    from nebula.elastic.policy.values import Bounds
    from nebula.errors import BadInput

    there = len(list(usable_nodes(cluster)))
    least, _, most = (nodes or f"{there}:{there}").partition(":")
    if not least.isdigit() or not (most or least).isdigit():
        raise BadInput(f"--nodes {nodes}: write MIN:MAX, such as 1:{there}")
    bounds = Bounds(least=int(least), most=int(most or least), unit=unit)
    if bounds.most > there:
        raise BadInput(f"--nodes {nodes}: the cluster {cluster.name} has {there} nodes")
    return bounds


def identity_of(
    certs: Path | None, name: str, addresses: Sequence[str], option: str, *, insecure: bool
) -> Identity | None:
    """The certificate under which a process takes part; None where it does so without TLS.

    Args:
        certs: None: nobody has named a folder.

    Raises:
        BadInput: it is missing or not good, or an address is none, or one of another machine without TLS, or a folder
            is named, too.
    """
    from nebula.elastic.authority import load_identity
    from nebula.elastic.trust import now
    from nebula.errors import BadInput

    if insecure and certs is not None:
        raise BadInput(f"--insecure --certs {certs}: without TLS there are no certificates; leave one of the two out")
    for address in addresses:
        _check_address(address, option, insecure=insecure)
    if insecure:
        return None
    certs = certs or CERTS
    if not certs.is_dir():
        raise BadInput(
            f"there are no certificates in {certs}: make them with `nebula cert init`, or name their --certs"
        )
    return load_identity(certs, name, now())


def _check_address(text: str, option: str, *, insecure: bool) -> None:
    """Refuses what is no address, and one of another machine without TLS."""
    if insecure:
        _check_loopback(text, option, "--insecure is for addresses of this machine")
    else:
        _host_of(text, option)


def _check_loopback(text: str, option: str, why: str) -> None:
    """Refuses an address of another machine."""
    import ipaddress

    from nebula.errors import BadInput

    host = _host_of(text, option)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadInput(f"{option} {text}: {why}, such as 127.0.0.1:{text.rpartition(':')[2]}")


def _host_of(text: str, option: str) -> str:
    from nebula.errors import BadInput

    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise BadInput(f"{option} {text}: write it as HOST:PORT, such as 10.0.0.1:7077")
    return host


def _make_folder(folder: Path, subject: Subject, plan: Plan, search: Search, *, force: bool, goes_on: bool) -> None:
    from nebula.cli.run_folder import make_folder
    from nebula.errors import BadInput
    from nebula.runtime.fence import FILE as FENCE

    run = subject.run
    if not run.checkpoint.every:
        raise BadInput(
            f"{run.source} says nothing of checkpoints, the last resort of a job that goes on: "
            "add `checkpoint: {every: 100}`"
        )
    if not goes_on:
        (folder / run.checkpoint.folder / FENCE).unlink(missing_ok=True)  # another job's generations begin at 1, too
        make_folder(folder, plan, run.cluster, search, run.conditions, force=force, checkpoint=run.checkpoint)


def _settings(subject: Subject, plan: Plan, folder: Path, *, script: str, shards: int, **more: Any) -> Settings:
    """What the job is.

    Args:
        script: with its arguments; empty: the built-in training.
        shards: of a batch, where workers are replicas; 0: they are not.
        more: settings that are taken as they are.
    """
    from nebula.elastic.controller.settings import Settings
    from nebula.launch import devices
    from nebula.launch.training import LOGS

    cluster = subject.run.cluster
    select = devices.of_ranks(cluster, plan)
    return Settings(
        name=str(folder.name),
        words=_words(subject, folder, script, shards),
        log_folder=str(folder / LOGS),
        mtbf_s=subject.run.checkpoint.mtbf_s,
        shards=shards,
        checkpoints=folder / subject.run.checkpoint.folder,
        environment=devices.of_processes(cluster, plan, folder),
        select=(lambda _rank, device: select(0, device)) if shards else select,
        **more,
    )


def _words(subject: Subject, folder: Path, script: str, shards: int) -> list[str]:
    """The script of every worker and its arguments."""
    import shlex

    from nebula.cli.running import STEPS
    from nebula.elastic.entry import replica
    from nebula.errors import BadInput
    from nebula.launch.training import SCRIPT
    from nebula.models.data.encoded import encoded_corpus
    from nebula.runtime.training import Training, save

    model, job = subject.run.model, subject.run.job
    words = shlex.split(script)
    if not words:
        if not model.preset:
            raise BadInput("built-in models alone train without a script (model.preset): name yours with --script")
        training = Training(
            preset=model.preset,
            seq_len=model.seq_len or 0,
            steps=job.steps or STEPS,
            checkpoint=subject.run.checkpoint,
            resume=True,
        )
        encoded_corpus(training.config.vocabulary)
        save(training, folder)
        words = [replica.__file__ if shards else str(SCRIPT), str(folder)]
    elif not Path(words[0]).is_file():
        raise BadInput(f"there is no script {words[0]}")
    else:
        words[0] = str(Path(words[0]).resolve())
    return words


def _plan_of(
    subject: Subject, folder: Path, plan_file: Path | None, replicas: int, *, goes_on: bool
) -> tuple[Plan, Search]:
    """The plan that the job begins with; a controller that comes back goes on with that of the folder, and at once."""
    from nebula.report.findings import Search

    begun = folder / "plan.json"
    if replicas:
        from nebula.cli.replicas import member_plan

        return member_plan(subject, replicas)
    if goes_on and begun.is_file() and not plan_file:
        from nebula.cli.subject import kept_plan

        return kept_plan(subject, begun), Search()
    from nebula.cli.details import chosen_in_depth

    return chosen_in_depth(subject, plan_file)


def _plans(subject: Subject, plan: Plan, *, apart: bool) -> Plans:
    """Finds plans for what is left of a cluster; those of a family a while after the controller leads."""
    from contextlib import suppress
    from functools import cache
    from threading import Timer

    from nebula.elastic.controller.plans import Plans
    from nebula.errors import BadInput

    run = subject.run
    if apart:
        return Plans(run.cluster, plan, lambda _: plan)

    @cache
    def kept() -> Replanner:
        from nebula.planner.replan import Replanner

        reliability = run.conditions.reliability
        return Replanner(subject.graph, run.cluster, plan, objective=run.objective, reliability=reliability)

    plans = Plans(run.cluster, plan, lambda changed: kept().replan(changed).plan)

    def prepare() -> None:
        from nebula.planner.family import cases

        # a cluster of one node has nothing to go on with
        with suppress(BadInput):
            plans.prepare(case.missing for case in cases(run.cluster, plan))

    late = Timer(LATE_S, prepare)
    late.daemon = True
    late.start()
    return plans
