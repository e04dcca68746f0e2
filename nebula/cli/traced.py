"""From `package.module:factory` in a run file to the graph of the layer that the factory makes. Imports paddle."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebula.errors import BadInput, NebulaError
from nebula.plan.job import ROWS

if TYPE_CHECKING:
    from nebula.graph.values import DistributedGraph
    from nebula.plan.job import InputSpec as InputSpecOfRun
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
        with _users_code(f"module {module_name} cannot be imported"):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"model.layer: there is no module {error.name} (looked in {os.getcwd()} and the packages)"
        ) from None
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        raise BadInput(f"model.layer: module {module_name} has no {attribute!r}") from None
    if not callable(factory):
        raise BadInput(
            f"model.layer: {name} is a {type(factory).__name__}; name a class or function that makes a Layer"
        )
    return factory


@contextmanager
def _users_code(what: str) -> Iterator[None]:
    """Runs code of the user: what it prints goes to stderr, what it raises becomes a sentence with its place.

    A module that is missing is passed on.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ModuleNotFoundError, KeyboardInterrupt, NebulaError):
        raise
    except BaseException as error:  # SystemExit too: a script may not end nebula
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = str(error).strip().splitlines() or [""]
        words = f"{type(error).__name__}: {told[0]} ({Path(place.filename).name}, line {place.lineno})"
        raise BadInput(f"model.layer: {what}: {words}") from None


def traced_graph(model: ModelSpec, precision: str) -> DistributedGraph:
    """Traces the layer of a run file without memory for its weights.

    A list of layers or a Sequential is a chain that a pipeline can cut; another layer is cut where the trace shows that
    its repeated sublayers run one after the other, else it is a chain of one. Rows of token ids ([rows, length], whole
    numbers) count as `length` tokens, other rows as one.

    Raises:
        BadInput: there is no such factory, it makes no layer, or the layer cannot be traced.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle warns on every trace of what no user can act on
    import paddle
    from paddle.static import InputSpec

    from nebula.graph.capture import About, capture, capture_whole
    from nebula.graph.found_splits import splits_of
    from nebula.plan.values import PRECISION_DTYPE

    factory, before = factory_of(model.layer), paddle.get_default_dtype()
    paddle.set_default_dtype(PRECISION_DTYPE[precision])
    try:
        with paddle.LazyGuard(), _users_code(f"{model.layer} cannot be made"):
            made = factory()
    finally:
        paddle.set_default_dtype(before)
    chain = list(made) if isinstance(made, list | tuple | paddle.nn.Sequential) else [made]
    strangers = [type(layer).__name__ for layer in chain if not isinstance(layer, paddle.nn.Layer)]
    if strangers or not chain:
        raise BadInput(f"model.layer: {model.layer} made {', '.join(strangers) or 'nothing'}, not Paddle layers")
    inputs = [InputSpec([None if d == ROWS else d for d in spec.shape], spec.dtype, spec.name) for spec in model.inputs]
    whole = made if isinstance(made, paddle.nn.Layer) else paddle.nn.LayerList(chain)
    about = About(name=model.layer, tokens_per_row=_tokens(model.inputs[0]), splits=tuple(splits_of(whole).items()))
    with redirect_stdout(sys.stderr):  # what the user's code prints is no result of ours
        if isinstance(made, paddle.nn.Layer) and not isinstance(made, paddle.nn.Sequential):
            return capture_whole(made, inputs, about)
        return capture(chain, inputs, about)


def _tokens(first: InputSpecOfRun) -> int:
    """Tokens of one row of the first input."""
    ids = len(first.shape) == 2 and first.shape[0] == ROWS and first.dtype.startswith("int")
    return first.shape[1] if ids else 1
