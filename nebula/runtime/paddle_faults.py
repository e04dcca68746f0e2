"""Paddle 3.3's faults that a run of ours meets, each worked around here and nowhere else."""

from __future__ import annotations

from typing import Any


def keep_decay_rule(optimizer: Any) -> None:
    """Makes a weight-decay rule by parameter name hold under sharding stage 3.

    Stage 3 steps on slices called `slice@<name>`; AdamW asks `apply_decay_param_fun` with that name, so that a rule
    such as "not the biases" silently stops to match.
    """
    rule = getattr(optimizer, "_apply_decay_param_fun", None)
    if rule is not None:
        optimizer._apply_decay_param_fun = lambda name: rule(name.removeprefix("slice@"))
