"""How many examples hypothesis draws for a law: few and always the same in `make test`, many and new ones in -all.

The former so that a change passes or fails for what it changes, the latter so that laws are tried on ever new cases.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def plans(tmp_path_factory):
    """The plans of an elastic job of two nodes; without one of them there is the same plan, which it cannot run."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
    from elastic_job import RUN

    from nebula.cli.details import chosen_in_depth
    from nebula.cli.subject import load_subject
    from nebula.elastic.controller.plans import Plans

    path = tmp_path_factory.mktemp("plans") / "run.yaml"
    path.write_text(RUN.format(steps=10, every=5))
    subject = load_subject(path, None)
    plan, _ = chosen_in_depth(subject, None)
    return Plans(subject.run.cluster, plan, lambda _: plan)
