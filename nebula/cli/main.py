"""The command `nebula`: its verbs, exit codes and how errors are shown.

A verb imports what it needs when it runs, so that `nebula --help` starts in a fraction of a second and Paddle is loaded
only by verbs that trace or train.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nebula import __version__
from nebula.cli import (
    asking,
    calibrating,
    certifying,
    checking,
    checkpointing,
    cluster,
    comparing,
    demo,
    deploying,
    doctor,
    elastic,
    emitting,
    explaining,
    outlasting,
    planning,
    profiling,
    rehearsing,
    replanning,
    reporting,
    running,
    scaling,
    sweeping,
    topping,
    validating,
    what_if,
)
from nebula.cli.console import forgive_encodings, log
from nebula.errors import NebulaError, Suspicious


class Verbs(TyperGroup):
    """Runs a verb and turns what a user can cause into one message and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of a day's work, not of the alphabet."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Exit codes: 0 fine, 2 bad input, 3 no feasible plan, 4 run failed, 130 interrupted."""
        try:
            return super().invoke(ctx)
        except NebulaError as error:
            log(f"nebula: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            log("nebula: interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # typer ends quietly when the reader of a pipe has left
        except OSError as error:
            log(f"nebula: {error.filename or 'cannot write the output'}: {error.strerror}")
            raise typer.Exit(NebulaError.exit_code) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 2 bad input, 3 no feasible plan, 4 run failed. Every verb has --json.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"nebula {__version__}")
        raise typer.Exit


@app.callback()
def nebula(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan, launch and train on any cluster with PaddlePaddle."""
    del version
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, category: type[Warning], *_where: object, **_more: object) -> None:
    """What is legal but probably not meant is said in a sentence; other warnings are not for users."""
    if issubclass(category, Suspicious):
        log(f"nebula: warning: {message}")


app.command()(demo.demo)
app.add_typer(cluster.app, name="cluster")
app.command()(planning.graph)
app.command()(planning.plan)
app.command()(explaining.explain)
app.command()(comparing.compare)
app.command()(checking.check)
app.command()(emitting.emit)
app.command()(planning.simulate)
app.command()(rehearsing.rehearse)
app.command()(outlasting.outlast)
app.command(name="what-if")(what_if.what_if)
app.command()(sweeping.sweep)
app.command()(sweeping.scaling)
app.command()(replanning.replan)
app.command()(replanning.family)
app.command()(reporting.report)
app.command()(validating.validate)
app.command()(profiling.profile)
app.command()(calibrating.calibrate)
app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})(running.launch)
app.command()(running.train)
app.command()(elastic.controller)
app.command()(elastic.agent)
app.command()(asking.status)
app.command()(topping.top)
app.command()(asking.events)
app.command()(scaling.scale)
app.command()(asking.drain)
app.command()(asking.chaos)
app.add_typer(certifying.app, name="cert")
app.add_typer(checkpointing.app, name="checkpoint")
app.add_typer(deploying.app, name="deploy")
app.command()(doctor.doctor)


def main() -> None:
    """The entry point of the console script."""
    forgive_encodings()
    app(prog_name="nebula")


if __name__ == "__main__":
    main()
