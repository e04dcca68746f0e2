"""The numbers of the kernel models that no data sheet prints, fitted to measurements of an H200 and tried on an H100.

They hold for every device that states its multiprocessors; what differs between device types (peaks, bandwidth,
sustained shares, launch) stands in the catalogue. measurements/ holds the script and the raw figures.
"""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """One number: its value, unit, plausible range and meaning."""

    value: float
    unit: str
    range: tuple[float, float]
    meaning: str


LOOP_SHARE = Parameter(
    0.84, "of peak", (0.7, 0.95), "rate of a multiprocessor in a product's loop over k, power permitting"
)
THROTTLE_S = Parameter(
    12e-3, "s", (2e-3, 0.1), "of work that a rested device does beyond its sustained rate before its power limit acts"
)
ATTENTION_SHARE = Parameter(0.94, "of peak", (0.8, 1.0), "rate of the products of fused attention, the softmax apart")
BACKWARD_SHARE = Parameter(
    0.9, "of that", (0.7, 1.0), "rate of those of its backward, whose operands come from shared memory more often"
)
BACKWARD_SOFTMAX = Parameter(
    2.44, "exponentials", (1.5, 4.0), "pointwise work on a score in the backward; the forward's is one exponential"
)
STARTUP_KEYS = Parameter(
    118.0, "keys", (50.0, 300.0), "what a block of queries costs beyond the keys that it sees: loads, rescaling, output"
)
POINTWISE_SHARE = Parameter(
    0.1,
    "of peak",
    (0.05, 0.3),
    "rate of counted operations of element-wise work, of which each is several instructions",
)
SOFTMAX_INSTRUCTIONS = Parameter(
    2.2, "of counted", (1.0, 4.0), "instructions of a softmax: the maximum and the sum of a row across threads"
)
CAST_OPERATIONS = Parameter(
    3.0, "per byte", (1.0, 6.0), "operations of a conversion, which is not vectorised over unequal widths"
)

PARAMETERS: dict[str, Parameter] = {
    "LOOP_SHARE": LOOP_SHARE,
    "THROTTLE_S": THROTTLE_S,
    "ATTENTION_SHARE": ATTENTION_SHARE,
    "BACKWARD_SHARE": BACKWARD_SHARE,
    "BACKWARD_SOFTMAX": BACKWARD_SOFTMAX,
    "STARTUP_KEYS": STARTUP_KEYS,
    "POINTWISE_SHARE": POINTWISE_SHARE,
    "SOFTMAX_INSTRUCTIONS": SOFTMAX_INSTRUCTIONS,
    "CAST_OPERATIONS": CAST_OPERATIONS,
}
