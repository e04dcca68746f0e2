"""A loss's own cross-entropy is replaced only by one that computes the same."""

import functools
import sys
from pathlib import Path

import paddle
import pytest
from paddle.nn import functional as F

from nebula.errors import BadInput
from nebula.models.objectives import token_cross_entropy
from nebula.runtime.nats import check

sys.path.insert(0, str(Path(__file__).parent.parent / "emulated"))
import own_models
import toy_chain


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")


@pytest.mark.parametrize("own", [token_cross_entropy, toy_chain.nats, own_models.nats, None])
def test_nats_of_each_position_are_let_through(own):
    check(own)


def nats(logits, labels, **more):
    return F.cross_entropy(logits, labels.unsqueeze(-1), reduction="none", **more).squeeze(-1)


def smoothed(logits, labels):
    return 0.9 * nats(logits, labels) + 0.1 * F.log_softmax(logits).mean(-1)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (functools.partial(nats, ignore_index=3), r"gives 0 for label 3 where there are .* nats: pass `ignore_index`"),
        (functools.partial(nats, ignore_index=-1), "leaves out the label -1, where the other leaves out -100"),
        (smoothed, r"gives .* for label 0 where"),
        (F.cross_entropy, r"returns \[\] for labels \[1, 64\], not the nats of each position"),
    ],
)
def test_another_cross_entropy_is_refused(own, words):
    with pytest.raises(BadInput, match=f"`cross_entropy` is replaced .* its own one {words}"):
        check(own)
