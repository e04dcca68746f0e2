"""The verb calibrate: refits parameters to measured runs, says what moved and what that does to the errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Force, Json, Output
from nebula.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from nebula.cost_model.calibration.calibrate import Refit
    from nebula.cost_model.calibration.document import Refusals
    from nebula.cost_model.calibration.runs import Kept, Run
    from nebula.cost_model.runs.score import Errors


def calibrate(
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Argument(metavar="RUNS.YAML|FOLDER...", help="Measured runs, or run folders of nebula train."),
    ] = None,
    parameters: Annotated[
        str, typer.Option("--parameters", metavar="NAMES", help="Fit these alone: names, or step, host, devices.")
    ] = "",
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Predict every source with a fit to the others, too.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Print every parameter of the model; needs no runs.")] = False,
    output: Output = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Refit the cost model's parameters to measured runs."""
    from nebula.cli.console import log, print_json, results
    from nebula.cli.output import free
    from nebula.cost_model.calibration.calibrate import Wish
    from nebula.cost_model.calibration.calibrate import calibrate as refit_to
    from nebula.cost_model.calibration.document import document

    if table:
        _table(json=json)
        return
    if not runs:
        raise BadInput("no runs: name a file of measured runs or the folder of a run, or ask for --table")
    if output:
        free(output, force=force)
    found, refused = _read(runs)
    names = tuple(name.strip() for name in parameters.split(",") if name.strip())
    refit = refit_to(found, Wish(names=names, leave_out=leave_one_out, tell=log))
    if output:
        _write(output, refit, runs)
        log(f"wrote {output}: a cluster file takes the efficiencies of its devices with `calibration: {output.name}`")
    if json:
        print_json(document(refit, refused))
    else:
        _show(results(), refit, refused)


def _read(paths: Sequence[Path]) -> tuple[list[Run], Refusals]:
    """The runs that the model can price, and why others are not.

    Raises:
        BadInput: a file is damaged, or no run of one has a measured time.
    """
    from nebula.cost_model.calibration.runs import Kept

    kept = Kept()
    found: list[Run] = []
    refused: list[tuple[str, str]] = []
    for path in paths:
        runs, others = ([_own_run(path)], []) if path.is_dir() else _published(path, kept)
        refused += others
        for run in runs:
            try:
                run.seconds({})
            except BadInput as error:
                refused.append((run.id, str(error)))
            else:
                found.append(run)
    if not found and refused:
        raise BadInput(f"no run can be priced; the first, {refused[0][0]}: {refused[0][1]}")
    return found, refused


def _published(path: Path, kept: Kept) -> tuple[list[Run], list[tuple[str, str]]]:
    from nebula.cost_model.calibration.runs import PublishedRun
    from nebula.cost_model.runs.case import Refused, case_of
    from nebula.cost_model.runs.schema import load_rows
    from nebula.models.decoders_measured import described_run

    cases = [case_of(row, described_run) for row in load_rows(path)]
    refused = [(c.row.id, c.reason) for c in cases if isinstance(c, Refused)]
    # rows that measured memory alone say nothing here
    timed: list[Run] = [
        PublishedRun(case=c, kept=kept) for c in cases if not isinstance(c, Refused) and c.measured.time_s
    ]
    if not timed and not refused:
        raise BadInput(f"{path}: no row has a measured time; add `step_time_s` under `measured`")
    return timed, refused


def _own_run(folder: Path) -> Run:
    """The run in a folder of `nebula train`.

    Raises:
        BadInput: a file is missing or damaged, or the run was on emulated devices.
    """
    from nebula.cli.run_folder import CLUSTER, PLAN
    from nebula.cli.subject import check_origin, trained_graph
    from nebula.cluster.schema import load_cluster
    from nebula.cost_model.calibration.runs import OwnRun
    from nebula.plan.files import load_plan
    from nebula.report.measured import read_run
    from nebula.runtime.training import load

    if not (folder / PLAN).is_file():
        raise BadInput(f"{folder} is not the folder of a run: there is no {PLAN} (nebula train writes it)")
    plan, cluster, training = load_plan(folder / PLAN), load_cluster(folder / CLUSTER), load(folder)
    measured = read_run(folder)
    if measured.clock != "wall":
        raise BadInput(f"{folder}: its devices were emulated, and their virtual times say nothing of real ones")
    if not measured.step_time_s:
        raise BadInput(f"{folder}: no step was finished; train for some steps more")
    graph = trained_graph(training, plan.job.precision)
    check_origin(plan, graph, cluster)
    return OwnRun(id=str(folder), graph=graph, cluster=cluster, plan=plan, measured_s=measured.step_time_s)


def _write(output: Path, refit: Refit, runs: Sequence[Path]) -> None:
    import datetime

    import yaml

    from nebula.cost_model.calibration.document import file_content
    from nebula.whole_file import write_whole

    made = {"date": datetime.date.today().isoformat(), "runs": ", ".join(path.name for path in runs)}
    content = file_content(refit, made)
    write_whole(output, yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True))


def _table(*, json: bool) -> None:
    """Every parameter of the model, its meaning below it, and what the catalogue's devices attain."""
    from nebula.cli.console import print_json, results
    from nebula.cost_model.calibration.table import LIMIT, efficiencies, numbers
    from nebula.report.parameter_table import cells

    model, devices = numbers(), efficiencies()
    if json:
        print_json([{field: getattr(n, field) for field in n.__slots__} for n in (*model, *devices)])
        return
    console = results()
    for title, shown in ((f"{len(model)} parameters, {LIMIT} at most", model), ("efficiencies of devices", devices)):
        console.print(title)
        console.print(f"{'':22}{'value':22}{'plausible':22}origin", soft_wrap=True)
        for number in shown:
            name, value, unit, between, meaning, origin = cells(number)
            console.print(f"{name:22}{f'{value} {unit}':22}{between:22}{origin}", soft_wrap=True)
            if number.part != "devices":
                console.print(f"    {meaning}", soft_wrap=True)
        console.print()


def _show(console: Console, refit: Refit, refused: Refusals) -> None:
    """What moved, what did not and why, and the errors."""
    _moved(console, refit)
    for kept in refit.kept:
        console.print(f"not fitted: {kept.sentence}")
    for name, reason in refused:
        console.print(f"not priced: {name}: {reason}")
    for one in refit.left_out:
        if one.alone:
            console.print(f"only {one.source} tells {', '.join(one.alone)}: without it what is assumed stands")
    _errors(console, refit)


def _moved(console: Console, refit: Refit) -> None:
    from rich.table import Table

    from nebula.report.parameter_table import figure

    grid = Table(box=None, pad_edge=False)
    grid.add_column("parameter", overflow="fold")
    for heading in ("before", "after", "±", "rows", "sources"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for m in refit.moved:
        unit = m.parameter.unit
        figures = [figure(value, unit) for value in (m.parameter.value, m.after, m.error)]
        grid.add_row(m.parameter.name, *figures, str(m.rows), str(m.sources))
    console.print(grid)


def _errors(console: Console, refit: Refit) -> None:
    from rich.table import Table

    kinds = (("before", refit.before), ("after", refit.after), ("source left out", refit.unseen))
    for title, percents in kinds:
        if not percents:
            continue
        grid = Table(box=None, pad_edge=False)
        grid.add_column(f"\nerrors {title}", overflow="fold")
        for heading in ("rows", "median", "mean", "p90", "bias"):
            grid.add_column(f"\n{heading}", justify="right", no_wrap=True)
        for source, errors in refit.errors(percents).items():
            grid.add_row(source or "all", *_cells(errors))
        console.print(grid)


def _cells(errors: Errors) -> tuple[str, ...]:
    amounts = (errors.median_abs_pct, errors.mean_abs_pct, errors.p90_abs_pct)
    return (str(errors.rows), *(f"{a:.1f} %" for a in amounts), f"{errors.bias_pct:+.1f} %")
