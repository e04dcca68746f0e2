"""The numbers of the kernel models that no data sheet prints: fitted once, to measurements of an H200 and an H100.

They hold for every device that states its multiprocessors; what differs between device types (peaks, bandwidth,
attained shares, launch) stands in the catalogue. measurements/ holds the script and the raw figures.
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
    0.82, "of peak", (0.7, 0.95), "rate of one multiprocessor inside the loop over k while power does not limit"
)
FILL_S = Parameter(0.26e-6, "s", (0.05e-6, 1e-6), "filling and draining the pipeline of one tile of a matrix product")
STORE_SHARE = Parameter(
    0.67, "of the writing", (0.2, 1.5), "writing a tile that does not overlap with the loop of the next"
)
ATTENTION_SHARE = Parameter(0.93, "of peak", (0.8, 1.0), "rate of the products of fused attention, the softmax apart")
BACKWARD_SHARE = Parameter(
    0.88, "of that", (0.7, 1.0), "rate of those of its backward, whose operands come from shared memory more often"
)
BACKWARD_SOFTMAX = Parameter(
    2.36, "exponentials", (1.5, 4.0), "pointwise work on a score in the backward, the forward's being one exponential"
)
STARTUP_KEYS = Parameter(
    130.0, "keys", (50.0, 300.0), "what a block of queries costs beyond the keys that it sees: loads, rescaling, output"
)
BACKWARD_STARTUP_KEYS = Parameter(
    460.0, "keys", (200.0, 800.0), "the same of the backward, with the passes before and behind it over the rows"
)
TAIL = Parameter(
    0.79, "of the longest block", (0.3, 1.0), "how long devices wait for the last block under a causal mask"
)
POINTWISE_SHARE = Parameter(
    0.1, "of peak", (0.05, 0.3), "counted operations of element-wise work: an instruction each, special ones several"
)

PARAMETERS: dict[str, Parameter] = {
    "LOOP_SHARE": LOOP_SHARE,
    "FILL_S": FILL_S,
    "STORE_SHARE": STORE_SHARE,
    "ATTENTION_SHARE": ATTENTION_SHARE,
    "BACKWARD_SHARE": BACKWARD_SHARE,
    "BACKWARD_SOFTMAX": BACKWARD_SOFTMAX,
    "STARTUP_KEYS": STARTUP_KEYS,
    "BACKWARD_STARTUP_KEYS": BACKWARD_STARTUP_KEYS,
    "TAIL": TAIL,
    "POINTWISE_SHARE": POINTWISE_SHARE,
}
