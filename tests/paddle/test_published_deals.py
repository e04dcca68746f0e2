"""The even split of the papers' case is the one that Paddle's own PipelineLayer makes."""

import pytest

from tests.bench.published import EVEN, by_number


@pytest.mark.parametrize(("layers", "stages"), [(63, EVEN), (63, 60), (63, 7), (8, 8), (10, 4)])
def test_layers_by_number_are_dealt_as_by_paddle(layers, stages):
    from paddle.distributed.fleet.meta_parallel.parallel_layers.pp_layers import SegmentLayers

    dealt = SegmentLayers([None] * layers, num_parts=stages, method="uniform").do_segment()
    assert tuple(dealt) == by_number(layers, stages)
