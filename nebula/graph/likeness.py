"""When are two layers alike, so that one trace serves both? By class, configuration, parameters and sublayers.

A value that cannot be compared (a closure, an object without a readable form) makes its layer equal to itself only:
it is then traced on its own, which costs time and is never wrong.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from paddle import nn

_OWN = frozenset(vars(nn.Layer()))
_PLAIN = (bool, int, float, str, bytes, type(None))


def layer_signature(layer: nn.Layer) -> tuple[object, ...]:
    """A hashable value, equal for layers that compute alike; private names and weights' values play no part."""
    config = tuple(sorted((k, _value(v)) for k, v in vars(layer).items() if k not in _OWN))
    parameters = tuple(
        (name, tuple(p.shape), str(p.dtype), bool(p.stop_gradient))
        for name, p in (*layer._parameters.items(), *layer._buffers.items())
        if p is not None
    )
    sublayers = tuple((name, layer_signature(sub)) for name, sub in layer._sub_layers.items() if sub is not None)
    return (type(layer), layer.training, config, parameters, sublayers)


def _value(value: Any) -> object:
    """A comparable form of an attribute, as text of its type and content."""
    if isinstance(value, (enum.Enum, *_PLAIN)):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(str(_value(v)) for v in value)})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{k!r}: {_value(v)}' for k, v in value.items())})"
    if dataclasses.is_dataclass(value):
        return repr(value)
    if type(value).__module__.split(".")[0] == "paddle" and not isinstance(value, nn.Layer):
        return type(value).__qualname__
    qualified = getattr(value, "__qualname__", "")
    if qualified and "<locals>" not in qualified and "<lambda>" not in qualified:
        return f"{getattr(value, '__module__', '')}.{qualified}"
    return f"{type(value).__qualname__}@{id(value)}"
