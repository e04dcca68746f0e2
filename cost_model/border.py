"""What the border between two pipeline stages costs either of them: fleet sends parts and gathers them.

Every formula takes numbers or arrays, so that evaluate prices one border and search all of them at once.
"""

from __future__ import annotations

from nebula.cost_model.communication import Amount, Levels, collective
from nebula.cost_model.groups import ALONE


def send_seconds(size_bytes: Amount, messages: Amount, border: Levels, tensor_ranks: int) -> Amount:
    """What sending to a neighbour stage occupies of the sender: each tensor rank sends its part of the tensors."""
    return collective("send", border).seconds(size_bytes / tensor_ranks, messages)


def receive_seconds(size_bytes: Amount, messages: Amount, border: Levels, tensor: Levels) -> Amount:
    """What the receiver does with it: an all_gather of the parts among its tensor group."""
    return collective("all_gather", tensor if border else ALONE).seconds(size_bytes, messages)
