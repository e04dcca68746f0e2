"""The errors that a user can cause, each with its exit code and one sentence that says what, where and what to do.

Our own bugs are not here: they stay plain exceptions with a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

LARGEST = 10**15
"""Whole numbers from here on are taken for mistakes: nothing that Nebula counts comes near."""

_SHOWN = 80


class NebulaError(Exception):
    """A mistake or a fact that the user has to know of; the command line prints its text alone.

    Attributes:
        exit_code: what the command ends with.
    """

    exit_code = 2


class BadInput(NebulaError):
    """A file, an option or a value cannot be used as it is. Exit code 2."""


class UnknownKey(BadInput):
    """A key, in a file or an override, that nothing has; the text names the closest one."""


class Infeasible(NebulaError):
    """No plan exists under the given limits. Exit code 3."""

    exit_code = 3


class RunFailed(NebulaError):
    """A launched job ended with an error. Exit code 4."""

    exit_code = 4


class Suspicious(UserWarning):
    """Input that is legal and probably not meant; the command line prints its sentence and goes on."""


def closest(name: str, names: Iterable[str]) -> str:
    """What to do about a name that does not exist: the closest one, or all of them.

    Example:
        >>> closest("fats", ["fast", "old"])
        "did you mean 'fast'?"
    """
    known = sorted(names)
    match = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    if match:
        return f"did you mean {next(k for k in known if k.lower() == match[0])!r}?"
    return f"there are {', '.join(known)}" if known else "there are none"


def shown(value: object) -> str:
    """A value as an error quotes it: `nothing`, `a mapping`, `a list`, or what was written, cut to a readable length.

    Example:
        >>> shown(None), shown({"a": 1}), shown("12 parsecs")
        ('nothing', 'a mapping', "'12 parsecs'")
    """
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return f"a number of more than {len(str(LARGEST)) - 1} digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
