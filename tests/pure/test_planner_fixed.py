"""Fixed degrees of which no split can be made: one sentence each, with the equation and its numbers."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.errors import BadInput
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.search import search
from tests.pure.cost_samples import chain, cluster, device

EXAMPLE = Path(__file__).parents[2] / "examples/ernie-small.yaml"

IMPOSSIBLE = {
    "data": ({"data": 3}, "global_batch 8 % data 3 = 2"),
    "rows": ({"micro_batch_rows": 5}, "global_batch 8 % micro_batch_rows 5 = 3"),
    "data and rows": ({"data": 4, "micro_batch_rows": 4}, "global_batch 8 % (data 4 × micro_batch_rows 4) = 8"),
    "ranks": ({"data": 4, "tensor": 4}, "data 4 × tensor 4 = 16 > 4 devices"),
    "one degree alone": ({"data": 8}, "data 8 > 4 devices"),
    "layers": ({"pipeline": 12}, "pipeline 12 > 11 layers"),
    "tensor": ({"tensor": 3}, "256 % 3 = 1"),
    "sharding": ({"sharding": 5}, "sharding stage 5 is not 0..3"),
    "sharding degree": ({"data": 4, "sharding_degree": 3}, "data 4 % sharding_degree 3 = 1"),
    "sharding degree alone": ({"sharding_degree": 3}, "global_batch 8 % sharding_degree 3 = 2"),
    "sharding without replicas": ({"sharding": 2, "data": 1}, "sharding stage 2 cuts over replicas"),
    "sharding of nothing": ({"sharding": 0, "sharding_degree": 2}, "sharding_degree 2 != 1"),
    "no device left for sharding": ({"sharding": 1, "tensor": 4}, "data 2 × tensor 4 = 8 > 4 devices; sharding asks"),
    "recompute": ({"recompute": "some"}, "recompute 'some' is none of none, selective, full"),
    "no number": ({"tensor": 0}, "tensor must be a whole number from 1 on, not 0"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_split_is_refused_with_its_equation(name):
    fixed, equation = IMPOSSIBLE[name]
    with pytest.raises(BadInput) as caught:
        search(chain(11), cluster(nodes=2, per_node=2), Job(global_batch=8), Objective(fixed=fixed))
    assert equation in str(caught.value)


def test_a_split_that_no_engine_runs_there_says_what_is_missing():
    plain = cluster(per_node=4, kind=device(kind="cpu", emulated=False))
    with pytest.raises(BadInput, match="no engine runs tensor 2 on d: "):
        search(chain(4), plain, Job(global_batch=8), Objective(fixed={"tensor": 2}))


@pytest.mark.parametrize("degree", [3, 7])
def test_a_tensor_degree_that_lies_unevenly_over_nodes_is_priced_as_itself(degree):
    """On nodes of two devices a group of three or seven meets at levels that four or eight would fill."""
    where = cluster(nodes=4, per_node=2)
    found = search(chain(3, hidden=21 * 4), where, Job(global_batch=4), Objective(fixed={"tensor": degree})).plan
    even = search(chain(3, hidden=21 * 4), where, Job(global_batch=4), Objective(fixed={"tensor": 1, "data": 1})).plan
    assert found.stages[0].tensor == degree
    whole = sum(m.weights_bytes for m in even.prediction.memory)
    own = sum(m.weights_bytes for m in found.prediction.memory)
    assert whole / degree < own < whole / (degree - 0.5)


@pytest.mark.parametrize(
    ("overrides", "equation"),
    [
        (("objective.fixed.tensor=3",), "8192 % 3 = 2"),
        (("objective.fixed.data=4", "objective.fixed.tensor=4"), "data 4 × tensor 4 = 16 > 4 devices"),
    ],
)
def test_the_command_prints_the_equation_and_ends_with_2(overrides, equation):
    done = CliRunner().invoke(app, ["plan", str(EXAMPLE), *overrides], catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert equation in " ".join(done.stderr.split())
