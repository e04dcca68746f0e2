"""Nebula: plans, launches and adapts distributed training with PaddlePaddle on any cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nebula.runtime.checkpoints import Checkpoints as Checkpoints
    from nebula.runtime.parallelize import StepResult as StepResult
    from nebula.runtime.parallelize import parallelize as parallelize
    from nebula.runtime.start import init as init

__version__ = "0.1.0"

_LAZY = {
    "init": "nebula.runtime.start",
    "parallelize": "nebula.runtime.parallelize",
    "Checkpoints": "nebula.runtime.checkpoints",
    "StepResult": "nebula.runtime.parallelize",
}
"""What a training script calls, and its module; imported when asked for, because it imports paddle."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nebula' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
