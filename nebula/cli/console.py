"""Where the command line writes: results on stdout, everything else on stderr, JSON instead of tables when asked for.

Colour and width follow the terminal; a pipe and NO_COLOR get plain text of 100 columns.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_COLUMNS = 100


def console(stream: TextIO) -> Console:
    """A rich console on a stream."""
    from rich.console import Console

    width = None if stream.isatty() else PLAIN_COLUMNS
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def results() -> Console:
    """A console on stdout."""
    return console(sys.stdout)


def log(sentence: str) -> None:
    """A line for people on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """A document for machines on stdout, with real characters and sorted by nobody."""
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def forgive_encodings() -> None:
    """Characters that a terminal cannot show become question marks instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
