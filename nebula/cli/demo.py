"""The whole way once: this machine, a model, a plan, four emulated devices, training, the report.

Read it from top to bottom: each step calls what the verb of that name calls. Without a C++ compiler there is no
emulated device, and the same steps run with data parallelism on plain CPU.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nebula.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nebula.cluster.values import Cluster
    from nebula.report.findings import Findings

    Tell = Callable[[object], None]

RUN_FILE = Path(__file__).with_name("demo.yaml")
STEPS = 6


def demo(
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where everything goes; an older demo is replaced.")
    ] = Path("runs/demo"),
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps; 0: what the demo's run file says.")] = 0,
    json: Json = False,
) -> None:
    """Do the main job once, here: plan, launch, train, report."""
    from nebula.cli.console import console, print_json
    from nebula.cli.details import recorded
    from nebula.cli.running import outcome, run_training
    from nebula.cli.subject import find_plan, load_subject, subject_findings
    from nebula.cluster.discover import discover
    from nebula.report.cluster_table import cluster_table
    from nebula.report.graph_table import headline
    from nebula.report.table import plan_table

    began_s = time.monotonic()
    tell: Tell = console(sys.stderr if json else sys.stdout).print

    _step(tell, 1, "This machine")
    here = discover()
    tell(cluster_table(here))

    _step(tell, 2, "The devices to train on")
    overrides = [*_devices(tell, here), *([f"job.steps={steps}"] if steps else [])]

    _step(tell, 3, f"The model: {RUN_FILE.name}")
    subject = load_subject(RUN_FILE, overrides)
    tell(headline(subject.graph))

    _step(tell, 4, "The plan")
    answer = find_plan(subject)
    search = recorded(subject, answer)
    tell(plan_table(subject_findings(answer.plan, subject, search)))

    _step(tell, 5, f"Training: {answer.plan.world_size} processes of paddle.distributed.launch")
    found = run_training(subject, answer.plan, search, folder, force=True, quiet=json)

    _step(tell, 6, "What came of it")
    for sentence in _results(found):
        tell(sentence)
    tell(f"all of it in {time.monotonic() - began_s:.0f} s; everything lies in {folder}:")
    for name, words in LEFT.items():
        tell(f"  {folder / name!s:<34} {words}")
    if json:
        print_json(outcome(found, folder))


def _step(tell: Tell, number: int, title: str) -> None:
    tell(f"\n[{number}/{STEPS}] {title}")


def _devices(tell: Tell, here: Cluster) -> list[str]:
    """The overrides that choose the devices: none for emulated ones, else this machine's CPU."""
    import json

    from nebula.cli.cluster import document
    from nebula.emulator.build import library
    from nebula.emulator.toolchain import EmulatorUnavailable

    tell("four emulated accelerators: real numbers, virtual time, whatever else this machine does")
    try:
        tell(f"their plug-in for PaddlePaddle, built on first use in about a minute: {library()}")
    except EmulatorUnavailable as error:
        tell(f"not here: {error}")
        tell("so the demo goes on with data parallelism on plain CPU, in wall time")
        return [f"cluster={json.dumps(document(here)['cluster'])}"]
    return []


def _results(found: Findings) -> list[str]:
    """Predicted against measured, and whether the model learned."""
    from nebula.report.words import measured_words

    measured = found.measured
    steps = measured.steps
    sentences = [measured_words(found), f"loss {steps[0].loss:.3f} at first, {steps[-1].loss:.3f} at last"]
    return [
        *sentences,
        *(f"{name}: {figure:.4g}" for name, figure in measured.evaluation),
        _verdict(measured.evaluation),
    ]


def _verdict(evaluation: Sequence[tuple[str, float]]) -> str:
    """Whether the document model beats the token frequencies it was trained on."""
    model, unigram = (figure for name, figure in evaluation if "nats" in name)
    if model < unigram:
        return f"{model:.3f} < {unigram:.3f}: the model has learned more than how frequent tokens are"
    return f"{model:.3f} >= {unigram:.3f}: the model has not yet learned more than how frequent tokens are"


LEFT = {
    "report.html": "the report: open it in a browser",
    "trace.json": "predicted and measured step: open it at https://ui.perfetto.dev",
    "plan.json": "the plan",
    "cluster.yaml": "the cluster that it was made for",
    "conditions.json": "how often devices fail and what power they draw, said or assumed",
    "steps.jsonl": "one line a step",
    "weights.safetensors": "the trained weights",
    "log": "what each process said",
}
"""What a demo leaves in its folder."""
