"""Attributes of Paddle's operators under canonical names: axes counted from the front, bounds within the tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_RENAMED = {"axis": "axes", "repeat_times": "repeats", "y": "exponent"}
_REDUCTIONS = frozenset({"sum", "mean", "max", "min", "amax", "amin", "prod", "any", "all", "logsumexp"})


def canonical_attributes(
    kind: str,
    attributes: dict[str, object],
    inputs: Sequence[tuple[int, ...]],
    outputs: Sequence[tuple[int, ...]],
) -> tuple[tuple[str, object], ...]:
    """The attributes under their canonical names, axes counted from the front."""
    rank = len(inputs[0]) if inputs else 0
    plural = kind in _REDUCTIONS or kind in ("squeeze", "unsqueeze")
    out = {
        (_RENAMED[k] if k in _RENAMED and (k != "axis" or plural) and (k != "y" or kind == "pow") else k): v
        for k, v in attributes.items()
    }
    if kind == "split":
        out.pop("num", None)
        axis = _from_front(out.get("axis", 0), rank)
        assert isinstance(axis, int)
        out["sections"] = tuple(shape[axis] for shape in outputs)
    if kind in ("transpose", "unsqueeze", "stack") and outputs:
        rank = len(outputs[0])
    for key in ("axis", "axes", "perm", "begin_norm_axis"):
        if key in out:
            out[key] = _from_front(out[key], rank)
    if plural and kind in _REDUCTIONS:
        axes = out.get("axes", ())
        out["axes"] = tuple(range(rank)) if axes in ((), None) else axes if isinstance(axes, tuple) else (axes,)
    if plural and isinstance(out.get("axes"), int):
        out["axes"] = (out["axes"],)
    if kind == "slice":
        out |= _bounds(out, inputs[0])
    return tuple(sorted(out.items()))


def _from_front(axes: object, rank: int) -> object:
    if isinstance(axes, int):
        return axes + rank if axes < 0 else axes
    if isinstance(axes, tuple):
        return tuple(a + rank if isinstance(a, int) and a < 0 else a for a in axes)
    return axes


def _bounds(attributes: Mapping[str, object], shape: tuple[int, ...]) -> dict[str, object]:
    """Starts and ends of a slice within its tensor, counted from the front."""
    axes, decreased = attributes.get("axes", ()), attributes.get("decrease_axis", ())
    found: dict[str, object] = {"decrease_axis": decreased}
    for key in ("starts", "ends"):
        bounds = attributes.get(key)
        if isinstance(bounds, tuple) and isinstance(axes, tuple):
            pairs = zip(axes, bounds, strict=True)
            found[key] = tuple(min(b + shape[a] if b < 0 else b, shape[a]) for a, b in pairs)
    return found
