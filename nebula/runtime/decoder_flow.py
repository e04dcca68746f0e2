"""What a causal language model does around its parts: does a chain of these compute the same?

Its own forward runs while embedding, layers, norm and head are stand-ins that compute nothing, note what they are
called with, and return tensors that are known again. So nothing is lost without a word: hidden states or logits that
are changed on the way are refused, and what each layer is given beside hidden states is handed to that layer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime.batch import leaves

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Of a call: those by position, those by name."""

FORMS: tuple[Callable[[paddle.Tensor], Any], ...] = (
    lambda hidden: hidden,
    lambda hidden: (hidden,),
    lambda hidden: (hidden, None),
    lambda hidden: (hidden, None, None),
)
"""What a layer may return: hidden states, alone or before what is not asked of it (attention weights, a cache)."""

_LOST = ", which a chain of its layers would not"


def check(model: nn.Layer, base: nn.Layer) -> None:
    """Refuses a model that does more than its embedding, layers, norm and head do one after the other.

    Args:
        base: the sublayer that holds all but the head.

    Raises:
        BadInput: with the place.
    """
    name, ids = type(model).__name__, paddle.arange(8).reshape([2, 4])
    logits = paddle.arange(8 * base.embed_tokens.parameters()[0].shape[0], dtype="float32").reshape([2, 4, -1])

    def ends(flow: _Flow) -> Mapping[nn.Layer, Callable[..., Any]]:
        def head(x: Any, *_: Any, **__: Any) -> paddle.Tensor:
            flow.meet(x, f"{name} changes hidden states between its norm and its lm_head{_LOST}")
            flow.headed = True
            return logits

        embed = base.embed_tokens.forward
        return {
            base.embed_tokens: lambda *given, **named: flow.begin(embed(*given, **named)),
            base.norm: lambda x, *_, **__: flow.leave(x),
            model.lm_head: head,
        }

    def run(flow: _Flow) -> None:
        returned = list(leaves(model(ids)))
        if not flow.headed:
            raise _Strayed(f"{name} does not call its lm_head", math.inf)
        if not any(isinstance(each, paddle.Tensor) and _same(each.astype("float32"), logits) for each in returned):
            raise _Strayed(f"{name} changes logits behind its lm_head (scales, caps or drops some){_LOST}", math.inf)

    _followed(base, run, ends)


def layer_calls(base: nn.Layer, hidden: paddle.Tensor) -> tuple[Arguments, ...]:
    """What a base model gives each of its layers beside hidden states of that shape.

    Raises:
        BadInput: it changes them on the way, or gives a layer something that is made of them.
    """
    # the second time with other hidden states: what does not change is no function of them
    told, again = (_calls(base, x) for x in (hidden.detach(), 2 * hidden.detach() + 1))
    for index, pair in enumerate(zip(told, again, strict=True)):
        first, second = ([each for each in leaves(call) if isinstance(each, paddle.Tensor)] for call in pair)
        if len(first) != len(second) or not all(map(_same, first, second)):
            raise BadInput(
                f"{type(base).__name__} gives its layer {index} a tensor that is made of hidden states{_LOST}; "
                "say how it is cut with `chain`"
            )
    return told


def _calls(base: nn.Layer, hidden: paddle.Tensor) -> tuple[Arguments, ...]:
    def run(flow: _Flow) -> None:
        flow.begin(hidden)
        base(inputs_embeds=hidden, use_cache=False)

    return _followed(base, run, lambda flow: {base.norm: lambda x, *_, **__: flow.stop(x)})


class _Strayed(Exception):
    """A part did not get what the one before returned; `place` grows along the chain."""

    def __init__(self, sentence: str, place: float) -> None:
        super().__init__(sentence)
        self.place = place


class _Reached(Exception):
    """The norm was called as it should be: nobody asks for more."""


class _Flow:
    """One run of a base model: what its parts return in a given form, and what its layers are called with."""

    def __init__(self, base: nn.Layer, form: Callable[[paddle.Tensor], Any]) -> None:
        self._name, self._count, self._form = type(base).__name__, len(base.layers), form
        self._expected: paddle.Tensor | None = None
        self.calls: list[Arguments] = []
        self.left = self.headed = False

    def begin(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """The hidden states that the first layer should get."""
        self._expected = hidden.detach()
        return self._expected

    def meet(self, x: Any, sentence: str) -> None:
        """Raises _Strayed if a part gets other hidden states than the one before returned."""
        if self._expected is None or not _same(x, self._expected):
            alike = self._expected is not None and isinstance(x, paddle.Tensor) and x.shape == self._expected.shape
            raise _Strayed(sentence, len(self.calls) + 0.5 * alike)

    def layer(self, layer: nn.Layer) -> Callable[..., Any]:
        """Stands in for a layer."""
        (first, *_) = inspect.signature(layer.forward).parameters

        def stand_in(*given: Any, **named: Any) -> Any:
            x, *rest = given or (named.pop(first, None),)
            index = len(self.calls)
            place = f"between its layers {index - 1} and {index}" if index else "before its first layer"
            self.meet(x, f"{self._name} changes hidden states {place} (scales, adds or drops some){_LOST}")
            self.calls.append((tuple(rest), named))
            self._expected = x + 1
            return self._form(self._expected)

        return stand_in

    def leave(self, x: Any) -> paddle.Tensor:
        """Stands in for the norm."""
        if len(self.calls) != self._count:
            raise _Strayed(f"{self._name} runs {len(self.calls)} of its {self._count} layers", len(self.calls))
        self.meet(x, f"{self._name} changes hidden states between its last layer and its norm{_LOST}")
        self._expected, self.left = x + 1, True
        return self._expected

    def stop(self, x: Any) -> None:
        """Stands in for the norm, never returns."""
        self.leave(x)
        raise _Reached


def _followed(
    base: nn.Layer,
    run: Callable[[_Flow], None],
    ends: Callable[[_Flow], Mapping[nn.Layer, Callable[..., Any]]],
) -> tuple[Arguments, ...]:
    """Runs a base model with stand-ins, whose layers return what it can read, and tells what these were called with."""
    furthest = _Strayed("", -1.0)
    for form in FORMS:
        flow = _Flow(base, form)
        try:
            with paddle.no_grad(), _standing_in({**{layer: flow.layer(layer) for layer in base.layers}, **ends(flow)}):
                run(flow)
            if flow.left:
                return tuple(flow.calls)
            lacking = "call its norm" if flow.calls else "run its `layers`"
            found = _Strayed(f"{type(base).__name__} does not {lacking}", len(flow.calls))
        except _Reached:
            return tuple(flow.calls)
        except _Strayed as strayed:
            found = strayed
        except Exception as error:  # a base model that cannot read this form
            found = _Strayed(f"{type(base).__name__} cannot be followed ({error})", len(flow.calls) - 0.5)
        furthest = max(furthest, found, key=lambda each: each.place)
    raise BadInput(f"{furthest}; say how it is cut with `chain`")


@contextmanager
def _standing_in(parts: Mapping[nn.Layer, Callable[..., Any]]) -> Iterator[None]:
    """Gives layers other forwards for a while."""
    own = {layer: vars(layer).get("forward") for layer in parts}
    try:
        for layer, forward in parts.items():
            layer.forward = forward
        yield
    finally:
        for layer, forward in own.items():
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _same(x: Any, expected: paddle.Tensor) -> bool:
    """Whether it is that tensor, in every bit."""
    if x is expected:
        return True
    alike = isinstance(x, paddle.Tensor) and x.shape == expected.shape and x.dtype == expected.dtype
    return alike and bool(paddle.allclose(x, expected, rtol=0.0, atol=0.0, equal_nan=True))
