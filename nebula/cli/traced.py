"""From `package.module:factory` in a run file to the graph of the layer that the factory makes. Imports paddle."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from nebula.errors import BadInput

if TYPE_CHECKING:
    from nebula.graph.values import DistributedGraph
    from nebula.plan.job import ModelSpec


def factory_of(name: str) -> Any:
    """The callable that `package.module:factory` names; modules of the current folder are found too.

    Raises:
        BadInput: there is no such module, or no such name in it.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise BadInput(f"model.layer: there is no module {error.name} (looked in {os.getcwd()} and the packages)") from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise BadInput(f"model.layer: module {module_name} has no {attribute!r}") from None
