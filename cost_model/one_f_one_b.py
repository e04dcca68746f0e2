"""How long a step of 1F1B takes, in closed form for unequal stages, many pipelines at once.

1F1B is a longest path through slots of a forward or a backward each (closed_form.py runs them one by one). Such a path
repeats stages; which ones it does best to repeat is plain, so that no slot has to be run.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Numbers = TypeVar("Numbers", NDArray[np.float64], NDArray[np.int16])

NARROW = 64
"""Up to so many pipelines numpy's own accumulation is faster than a loop over the stages."""


def one_f_one_b_seconds(
    forward_s: Floats,
    backward_s: Floats,
    tail_s: Floats,
    micro_batches: NDArray[np.int64],
    met_s: Floats | None = None,
) -> Floats:
    """When the last stage of each pipeline has done all: its backwards, then its tail.

    A path goes up the stages by forwards, down by backwards, and stays where it is for others of the same stage. With
    p - 1 - k further forwards of stage k before its first backward, as many further backwards behind its last forward:

        warm(k)  = f_0 + ... + f_k + (p - 1 - k) max of f_j, j <= k
        drain(k) = max over e <= j <= k of b_e + ... + b_k + (p - 1 - k) b_j + tail_e
        first(c) = max over k >= c of warm(k) + b_c + ... + b_k
        last(c)  = max over k >= c of f_c + ... + f_k + drain(k)
        step     = max over c of first(c) + (m - 1 - p + c) (f_c + b_c) + last(c)

    first(c) ends with the first backward of c, last(c) begins with its last forward. Between them a path through c can
    do no better than to stay, where c has the longest pair of those that it passes: any way up and back is a mean of
    pairs. With m <= p micro-batches stages c < p + 1 - m have no such pairs: their forwards end before their backwards
    begin, and a path repeats a forward or a backward m - 1 times instead. For equal stages it is the (m + p - 1)(f + b)
    of Narayanan et al. (SC 2021, section 2.2). A test holds it equal to the slots to rounding.

    Where a stage takes the input of its next forward before it sends a gradient g back (Sends.MEET), a gradient keeps
    both its ends busy as long as forwards follow: the sender before its forward, the receiver before its backward. So
    the way down of first(c) has g_j+1 in place of g_j, a pair g_c+1 more, and the way up of last(c) g_j for each
    forward and then g_k+1 for the first backward behind the last forward. That is the simulation's end or up to 0.5 %
    less: ways that leave a stage's first pairs out count only where they do so for one.

    Args:
        forward_s: [stages, pipelines] of one micro-batch, what it sends included.
        backward_s: likewise.
        tail_s: likewise, after a stage's last backward.
        micro_batches: [pipelines], of one step.
        met_s: likewise as forward_s, what sending a gradient back is of backward_s where that is so; none: it is not.

    Returns:
        [pipelines].

    Example: two stages of 1 + 2 s, 4 micro-batches:
        >>> ones = np.ones((2, 1))
        >>> float(one_f_one_b_seconds(ones, 2 * ones, 0 * ones, np.array([4]))[0])
        15.0
    """
    stages, m = len(forward_s), micro_batches
    if stages == 1:
        met_s = None  # it sends nothing back
    short = bool((m <= stages).any())
    waits = np.arange(stages, dtype=np.float64)[::-1, None]
    repeats: Floats = np.minimum(waits, m - 1.0) if short else waits
    forwards_s, backwards_s = _running(np.add, forward_s), _running(np.add, backward_s)
    warm_s = forwards_s + repeats * _running(np.maximum, forward_s)
    ended_s = _running(np.maximum, tail_s - (backwards_s - backward_s))
    drain_s = backwards_s + _repeated(backward_s, ended_s, repeats)
    down_s, up_s, pair_s, turned_s = backwards_s, forwards_s, forward_s + backward_s, drain_s
    if met_s is not None:
        coming_s = np.concatenate([met_s[1:], np.zeros_like(met_s[:1])])
        down_s = backwards_s - met_s[:1] + coming_s
        up_s, pair_s, turned_s = forwards_s + _running(np.add, met_s), pair_s + coming_s, drain_s + coming_s
    first_s = _running(np.maximum, (warm_s + down_s)[::-1])[::-1] - down_s
    if met_s is not None:
        # what comes up to the first forward behind a gradient may come later than the backward before it is done
        later_s = warm_s[:-1] + (met_s + forward_s)[1:] + down_s[1:]
        later_s = _running(np.maximum, later_s[::-1])[::-1] - (down_s + pair_s)[1:]
        first_s[1:] = np.maximum(first_s[1:], later_s)
    last_s = _running(np.maximum, (up_s + turned_s)[::-1])[::-1] - up_s
    # first and last hold one pair of c
    pairs = m - 1 - waits
    steps_s = first_s + last_s + pairs * pair_s
    if short:
        steps_s = np.where(pairs > 0, steps_s, 0.0)
        repeated_s, up_s = (m - 1) * forward_s, forwards_s
        if met_s is not None:
            behind_s = met_s * (waits + 1 < m)
            met_before_s = _running(np.add, behind_s)
            repeated_s, up_s = repeated_s - met_before_s + behind_s, forwards_s + met_before_s
            turned_s, warm_s = drain_s + coming_s * (waits < m), warm_s + coming_s * (waits < m)
        many_f_s = up_s + _running(np.maximum, repeated_s) + turned_s
        many_b_s = warm_s + backwards_s + _running(np.maximum, (m - 1) * backward_s + ended_s)
        steps_s = np.maximum(steps_s, np.maximum(many_f_s, many_b_s))
    step_s: Floats = steps_s.max(axis=0)
    return step_s


def _repeated(backward_s: Floats, ended_s: Floats, repeats: Floats) -> Floats:
    """[stages, pipelines]: max over j <= k of repeats[k] b_j + ended_j, where `ended_s` never falls with j.

    Between two rises of `ended_s` the longest backward counts alone, and rises are few.
    """
    longest_s: Floats = repeats * _running(np.maximum, backward_s) + ended_s[0]
    rises = np.zeros(ended_s.shape, dtype=np.int16)
    np.greater(ended_s[1:], ended_s[:-1], out=rises[1:], casting="unsafe")
    rises = _running(np.add, rises)
    for rise in range(1, int(rises[-1].max(initial=0)) + 1):
        behind = rises >= rise
        from_s = np.where(rises <= rise, ended_s, 0.0).max(axis=0)
        own_s = repeats * _running(np.maximum, backward_s * behind) + from_s
        np.maximum(longest_s, own_s, out=longest_s, where=behind)
    return longest_s


def _running(operation: np.ufunc, rows: Numbers) -> Numbers:
    """Sums or maxima over the first rows, up to each."""
    if rows.shape[1] <= NARROW:
        return operation.accumulate(rows, axis=0)
    running = np.empty_like(rows)
    running[0] = rows[0]
    for index in range(1, len(rows)):
        operation(running[index - 1], rows[index], out=running[index])
    return running
