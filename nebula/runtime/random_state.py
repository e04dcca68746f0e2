"""The random state of a rank as bytes: Paddle's generators of the host and the device, numpy's and Python's.

No pickle: JSON of numbers and of the text in which Paddle's engine describes itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.base import core

from nebula.checkpoint.boxes import whole
from nebula.checkpoint.copies import RANDOM
from nebula.checkpoint.shard_file import Part

KEY = RANDOM
APART = "nebula_shares_of_a_sequence"
"""Name of a generator that the ranks of a tensor group do not have in common."""


def part(rank: int) -> Part:
    """The random state of this process, as what a checkpoint keeps of rank `rank`."""
    state = _drawn() | {"python": random.getstate(), "numpy": _numpy()}
    array = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return Part(key=f"{KEY}{rank}", dtype="uint8", shape=array.shape, box=whole(array.shape), array=array)


def draws(run: Callable[[], Any]) -> bool:
    """Whether a function draws random numbers of Paddle's; those that it draws are drawn again by who comes next."""
    host, device, tracked = paddle.get_rng_state("cpu"), paddle.get_rng_state(), _tracker().get_states_tracker()
    before = _drawn()
    try:
        run()
        return before != _drawn()
    finally:
        paddle.set_rng_state(host, "cpu")
        paddle.set_rng_state(device)
        _tracker().set_states_tracker(tracked)


def restore(content: npt.NDArray[np.uint8]) -> None:
    """Goes on from a state that `part` took on such a device."""
    state = json.loads(content.tobytes())
    paddle.set_rng_state([_state(state["host"])], "cpu")
    paddle.set_rng_state([_state(text) for text in state["device"]])
    tracked = {name: [_state(text) for text in texts] for name, texts in state["tracked"].items()}
    _tracker().set_states_tracker(tracked)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, np.array(words, np.uint32), *rest))


def reseed(seed: int, tensor_rank: int) -> None:
    """Starts all generators of this process anew: alike in a tensor group, but for those that fleet tracks."""
    paddle.seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    host = paddle.get_rng_state("cpu")
    for name in _tracker().states_:
        with _tracker().rng_state(name):
            paddle.seed(seed + 1 + tensor_rank)
    paddle.set_rng_state(host, "cpu")  # as in draw_apart


def draw_apart(elements: Iterable[nn.Layer], seed: int) -> None:
    """Makes elements draw from a generator of their own, which the ranks of a tensor group seed differently.

    They work on other positions and other heads than those of the other ranks. Fleet's tracker holds the generator, so
    that it is saved, and set back where activations are computed again.
    """
    tracker, host = _tracker(), paddle.get_rng_state("cpu")
    if APART not in tracker.states_:
        tracker.add(APART, max(tracker.seeds_, default=0) + 1)
    with tracker.rng_state(APART):
        paddle.seed(seed)
    paddle.set_rng_state(host, "cpu")  # Paddle seeds the host as well, whichever generator is in use
    for element in elements:
        element.forward = _apart(element.forward)


def _apart(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        with _tracker().rng_state(APART):
            return forward(*inputs)

    return run


def _drawn() -> dict[str, Any]:
    """The state of Paddle's generators."""
    tracked = _tracker().get_states_tracker().items()
    return {
        "host": _text(paddle.get_rng_state("cpu")[0]),
        "device": [_text(state) for state in paddle.get_rng_state()],
        "tracked": {name: [_text(state) for state in states] for name, states in tracked},
    }


def _tracker() -> Any:
    from paddle.distributed.fleet.layers.mpu.random import get_rng_state_tracker

    return get_rng_state_tracker()


def _text(state: Any) -> list[Any]:
    """Device, seed, offset, and the engine's own description."""
    device, seed, offset, engine = state.__getstate__()
    return [device, seed, offset, bytes(engine).decode("ascii")]


def _state(text: list[Any]) -> Any:
    device, seed, offset, engine = text
    state = core.GeneratorState.__new__(core.GeneratorState)
    state.__setstate__((device, seed, offset, list(engine.encode("ascii"))))
    return state


def _numpy() -> list[Any]:
    kind, words, *rest = np.random.get_state(legacy=True)
    return [kind, np.asarray(words).tolist(), *rest]
