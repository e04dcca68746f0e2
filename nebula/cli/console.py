"""Where the command line writes: results on stdout, everything else on stderr, JSON instead of tables when asked for.

Colour and width follow the terminal; a pipe and NO_COLOR get plain text of 100 columns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
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


class Line:
    """A line on a terminal's stderr that says how far something is, ten times a second at most; silent elsewhere."""

    def __init__(self) -> None:
        self.shown_s, self.width = 0.0, 0

    def show(self, words: Callable[[], str]) -> None:
        """Replaces the line."""
        now_s = time.monotonic()
        if not sys.stderr.isatty() or now_s - self.shown_s < 0.1:
            return
        text = words()
        sys.stderr.write("\r" + text.ljust(self.width))
        sys.stderr.flush()
        self.shown_s, self.width = now_s, len(text)

    def clear(self) -> None:
        """Takes the line away."""
        if self.width:
            sys.stderr.write("\r" + " " * self.width + "\r")
            sys.stderr.flush()


class CountLine(Line):
    """How many of a number of things are done."""

    def __init__(self, doing: str, whole: int, things: str) -> None:
        super().__init__()
        self.doing, self.whole, self.things = doing, whole, things

    def __call__(self, done: int) -> None:
        """Says so."""
        self.show(lambda: f"{self.doing}: {done:,} of {self.whole:,} {self.things}")


def print_json(document: Any) -> None:
    """A document for machines on stdout, with real characters and sorted by nobody."""
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def forgive_encodings() -> None:
    """Characters that a terminal cannot show become question marks instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
