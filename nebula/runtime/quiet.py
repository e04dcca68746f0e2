"""Keeps Paddle's start-up chatter out of a run's output: what it says on every start and no user can act on."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops warnings, log records below errors and the table of changed flags; exceptions pass."""
    from paddle.distributed.fleet.utils.log_util import set_log_level

    set_log_level("ERROR")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
