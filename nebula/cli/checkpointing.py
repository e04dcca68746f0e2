"""The verbs that look at checkpoints: which there are, whether their bytes are those that were saved, their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nebula.cli.options import Force, Json

if TYPE_CHECKING:
    from nebula.checkpoint.folder import Checkpoint

app = typer.Typer(no_args_is_help=True, help="List, verify and export checkpoints.", rich_markup_mode=None)

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A run, its folder of checkpoints, or one of them: step-00000100.")
]


@app.command(name="ls", hidden=True)
@app.command(name="list")
def list_(folder: Folder, json: Json = False) -> None:
    """List the checkpoints, oldest first; the last complete one is what a run goes on from."""
    from nebula.checkpoint.folder import pick
    from nebula.cli.console import print_json

    rows = [_row(one) for one in pick(folder)]
    if json:
        print_json({"folder": str(folder), "checkpoints": rows})
        return
    for row in rows:
        print(_line(row))


@app.command()
def verify(folder: Folder, json: Json = False) -> None:
    """Read every byte and compare it with what was saved."""
    from nebula.checkpoint.folder import pick
    from nebula.checkpoint.reader import Reader
    from nebula.cli.console import log, print_json
    from nebula.errors import BadInput

    faults = {}
    found = pick(folder)
    for one in found:
        try:
            Reader(one.path).verify()
        except BadInput as error:
            faults[one.step] = str(error)
        if not json:
            print(f"step {one.step}: {'every byte is as it was saved' if one.step not in faults else 'refused'}")
    if json:
        rows = [{"step": one.step, "whole": one.step not in faults, "fault": faults.get(one.step)} for one in found]
        print_json({"folder": str(folder), "checkpoints": rows})
    for sentence in faults.values():
        log(f"nebula: {sentence}")
    if faults:
        raise typer.Exit(BadInput.exit_code)


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the weights go.")] = Path(
        "weights.safetensors"
    ),
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the weights of the newest complete checkpoint, or of the named one, as one safetensors file."""
    from nebula.checkpoint.export import export as write
    from nebula.checkpoint.folder import pick
    from nebula.checkpoint.reader import Reader
    from nebula.cli.console import log, print_json
    from nebula.cli.output import free
    from nebula.errors import BadInput

    complete = [one for one in pick(folder) if one.complete]
    if not complete:
        raise BadInput(f"{folder} holds no complete checkpoint")
    path = free(output, force=force)
    count = write(Reader(complete[-1].path), path)
    if json:
        print_json({"checkpoint": str(complete[-1].path), "output": str(path), "tensors": count})
    else:
        log(f"{count} tensors of step {complete[-1].step} are in {path}")


def _row(one: Checkpoint) -> dict[str, Any]:
    """What a list says of a checkpoint."""
    from nebula.checkpoint.reader import Reader
    from nebula.errors import BadInput

    row: dict[str, Any] = {"step": one.step, "folder": str(one.path), "complete": one.complete}
    if not one.complete:
        return row
    try:
        manifest = Reader(one.path).manifest
    except BadInput as error:
        return {**row, "complete": False, "fault": str(error)}
    facts = manifest.facts
    told = {name: facts.get(name) for name in ("model", "words", "ranks", "optimizer")}
    return {**row, "bytes": manifest.nbytes, "tensors": len(manifest.tensors), **told}


def _line(row: dict[str, Any]) -> str:
    """The same in a line for people."""
    from nebula.units import format_bytes

    if not row["complete"]:
        return f"step {row['step']} · {row.get('fault') or 'incomplete: it has no manifest'}"
    what = f"{row['model'] or 'a model'} with {row['optimizer']}"
    return f"step {row['step']} · {format_bytes(row['bytes'])} · {what} · saved under {row['words']}"
