"""The errors that a user can cause, each with its exit code and one sentence that says what, where and what to do.

Our own bugs are not here: they stay plain exceptions with a traceback.
"""

from __future__ import annotations


class NebulaError(Exception):
    """A mistake or a fact that the user has to know of; the command line prints its text alone.

    Attributes:
        exit_code: what the command ends with.
    """

    exit_code = 2


class BadInput(NebulaError):
    """A file, an option or a value cannot be used as it is. Exit code 2."""


class Infeasible(NebulaError):
    """No plan exists under the given limits. Exit code 3."""

    exit_code = 3


class RunFailed(NebulaError):
    """A launched job ended with an error. Exit code 4."""

    exit_code = 4
