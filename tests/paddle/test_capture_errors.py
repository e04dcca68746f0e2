"""What a user is told whose layer cannot be traced: the first line of Paddle's message, and where."""

from __future__ import annotations

import inspect

import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from nebula.errors import BadInput
from nebula.graph.capture import About, capture

SPEC = [InputSpec([None, 4], "float32")]


class Misshapen(nn.Layer):
    def forward(self, x):
        return x.reshape([7, 7])


class ByValue(nn.Layer):
    def forward(self, x):
        while x.sum() > 0:
            x = x - 1
        return x


class ByRows(nn.Layer):
    def forward(self, x):
        return paddle.tanh(x) if x.shape[0] == 2 else x


class Undefined(nn.Layer):
    def forward(self, x):
        return no_such_function(x)  # noqa: F821


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Misshapen, r"Misshapen cannot be traced: ValueError: .*ReshapeOp.*test_capture_errors\.py, line {line}\)"),
        (
            Undefined,
            r"Undefined cannot be traced: NameError: .*no_such_function.*test_capture_errors\.py, line {line}\)",
        ),
        (ByValue, r"branches on the value of a tensor"),
        (ByRows, r"computes other operators at 3 rows than at 2"),
    ],
)
def test_one_clear_sentence(layer: type[nn.Layer], message: str) -> None:
    line = inspect.getsourcelines(layer.forward)[1] + 1
    with pytest.raises(BadInput, match=message.format(line=line)) as caught:
        capture([layer()], SPEC)
    assert "\n" not in str(caught.value)


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(BadInput, match="has no layers"):
        capture([], SPEC, About(name="nothing"))
