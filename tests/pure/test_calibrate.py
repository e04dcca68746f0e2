"""Parameters refitted to runs: what made rows is found, what none tells is refused, sources left out are unseen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster
from nebula.cost_model.calibration.calibrate import Refit, Wish, calibrate
from nebula.cost_model.calibration.determined import undetermined
from nebula.cost_model.calibration.fit import fit, start
from nebula.cost_model.calibration.parameters import Parameter, chosen, host_features, middle, parameters, usual_share
from nebula.cost_model.calibration.problem import SOURCE_ROWS, Problem
from nebula.cost_model.calibration.runs import Kept, OwnRun, PublishedRun, host_feature
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.runs.case import Measurement
from nebula.cost_model.runs.predict import predict
from nebula.errors import BadInput
from tests.pure import cost_samples
from tests.pure.runs_samples import case

HOST = host_feature(case(devices=1, tp=1, pp=1, dp=1).execution)
TRUE = {"A100-80GB-SXM.product_efficiency": 0.6, "intra_share": 0.85, HOST: 40e-6}
"""Values that are not the model's own."""

WIDE = {"hidden": 4096, "heads": 32, "ffn_hidden": 16384, "layers": 2, "seq_len": 2048, "micro_batch": 4}
"""Layers whose products last, so that nothing runs while they wait for their host."""

SHAPES = (
    {**WIDE, "devices": 1, "tp": 1, "pp": 1, "dp": 1},
    {**WIDE, "devices": 8, "tp": 8, "pp": 1, "dp": 1},
    {**WIDE, "devices": 8, "tp": 4, "pp": 1, "dp": 2},
    {"devices": 1, "tp": 1, "pp": 1, "dp": 1},
    {"devices": 2, "tp": 1, "pp": 1, "dp": 2, "micro_batch": 2},
)
REAL = cost_samples.device(emulated=False)
SOURCES = ("one", "two")


@cache
def synthetic() -> tuple[PublishedRun, ...]:
    """Runs that took what the model says under TRUE, each shape by each source with another batch."""
    kept = Kept()
    found = []
    for s, source in enumerate(SOURCES):
        for i, shape in enumerate(SHAPES):
            one = case(id=f"{source} {i}", source={"repo": source}, **{**shape, "global_batch": 8 * (s + 1)})
            run = PublishedRun(case=one, kept=kept)
            found.append(taking(run, run.seconds(TRUE)))
    return tuple(found)


def taking(run: PublishedRun, step_s: float) -> PublishedRun:
    """The run as if it had taken so long."""
    return replace(run, case=replace(run.case, measured=Measurement(step_s=step_s)))


@cache
def refit() -> Refit:
    return calibrate(synthetic(), Wish(names=tuple(TRUE), leave_out=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 8, "pp": 4, "vpp": 2, "dp": 1, "tp": 2},
        {"layers": 5, "pp": 4, "dp": 1, "tp": 2, "global_batch": 6},
        {"devices": 16, "dp": 4, "zero": "1", "inter": "4x 100 Gb/s"},
        {"devices": 12, "tp": 1, "dp": 4, "pp": 3, "devices_per_node": 8, "zero": "3"},
        {"tp": 1, "dp": 4, "ep": 2, "moe": {"experts": 4, "top_k": 2, "moe_ffn": 512}},
        {"kind": "layer", "measured": {"layer_total_ms": 1.0}},
        {"kind": "mixed_cluster", "device": "4x V100-16GB + 4x T4-16GB", "precision": "fp16"},
    ],
)
def test_what_is_kept_between_calls_changes_no_prediction(changes) -> None:
    one = case(**changes)
    expected = predict(one)
    run = PublishedRun(case=one, kept=Kept())
    other = {"nic_share": 0.5, "intra_share": 0.6, HOST: 50e-6, "A100-80GB-SXM.product_efficiency": 0.3}
    changed = run.seconds(other)
    assert run.seconds({}) == expected.time_s
    assert run.seconds(other) == changed != expected.time_s


def test_what_made_the_rows_is_found_again() -> None:
    found = {m.parameter.name: m.after for m in refit().moved}
    assert found == {name: pytest.approx(value, rel=0.03) for name, value in TRUE.items()}
    assert refit().errors(refit().after)[""].mean_abs_pct < 0.5 < refit().errors(refit().before)[""].mean_abs_pct
    for m in refit().moved:
        assert m.sources == 2
        assert 0 < m.error < 0.2 * m.after


def test_a_source_that_is_left_out_does_not_help_to_predict_itself() -> None:
    wrong = [taking(run, 3.0 * run.measured_s) if run.source == "two" else run for run in synthetic()]
    other = calibrate(wrong, Wish(names=tuple(TRUE), leave_out=True))
    mine, theirs = ({one.source: one for one in found.left_out} for found in (refit(), other))
    assert theirs["two"].values == mine["two"].values
    assert theirs["two"].residuals == pytest.approx(mine["two"].residuals - math.log(3.0))
    assert theirs["one"].values != mine["one"].values
    assert refit().errors(refit().unseen)[""].rows == len(synthetic())


def test_a_device_that_occurs_nowhere_else_keeps_the_usual_share_of_its_kind() -> None:
    lonely = PublishedRun(
        case=case(id="v", device="V100-16GB", source={"repo": "four"}, precision="fp16", **SHAPES[0]), kept=Kept()
    )
    found = calibrate([*synthetic(), lonely], Wish(names=("devices",), leave_out=True))
    (left,) = [one for one in found.left_out if one.source == "four"]
    name = "V100-16GB-SXM2.product_efficiency"
    assert left.alone == (name,)
    assert left.values[name] == pytest.approx(usual_share(lonely.cluster.groups[0].device))
    assert left.values["A100-80GB-SXM.product_efficiency"] == pytest.approx(0.6, rel=0.1)


@pytest.mark.parametrize(
    ("names", "rows", "sentence"),
    [
        (("pcie_share",), slice(None), "no row depends on pcie_share; add runs on devices that PCIe joins"),
        (("nic_share", "jitter"), slice(None), "no row depends on nic_share"),
        (("intra_share", "start_s"), slice(1, 2), "cannot tell .* apart; add runs .*, or fit fewer"),
        (("intra_shar",), slice(None), "no parameter 'intra_shar'; did you mean 'intra_share'?"),
        (("host", "devices", "step"), slice(0, 1), "no row depends on .*pcie_share"),
        (("T4-16GB.product_efficiency",), slice(None), "no parameter 'T4-16GB.product_efficiency'"),
        ((), slice(0, 0), "no run has a measured time"),
    ],
)
def test_what_rows_do_not_tell_is_refused_by_name(names, rows, sentence) -> None:
    with pytest.raises(BadInput, match=sentence):
        calibrate(synthetic()[rows], Wish(names=names))


def test_without_names_what_rows_do_not_tell_stays_and_says_why() -> None:
    found = calibrate(synthetic()[:5])
    kept = {p.name for k in found.kept for p in k.parameters}
    assert {"pcie_share", "nic_share", "jitter"} <= kept
    assert "A100-80GB-SXM.product_efficiency" in {m.parameter.name for m in found.moved}
    assert all(k.sentence for k in found.kept)


def test_groups_stand_for_their_parameters() -> None:
    known = parameters(run.cluster for run in synthetic())
    assert {p.group for p in chosen(("devices",), known)} == {"devices"}
    assert {p.name for p in chosen(("host", "intra_share"), known)} == {"intra_share", *host_features()}
    assert chosen((), known) == known


def test_memory_sizes_of_one_chip_share_an_efficiency() -> None:
    small, large = case(device="A100-40GB-SXM"), case(device="A100-80GB-SXM", **SHAPES[0])
    (one,) = chosen(("devices",), parameters([small.cluster, large.cluster]))
    assert one.types == ("A100-40GB-SXM", "A100-80GB-SXM")
    run = PublishedRun(case=large, kept=Kept())
    problem = Problem([run], [one])
    slow, fast = (problem.residuals(np.array([one.scaled(v)]))[0] for v in (0.3, 0.9))
    assert slow > fast


def test_runs_of_our_own_tell_the_efficiency_of_their_device() -> None:
    """Several, because what is assumed counts against a single run."""
    graph, cluster, plan = cost_samples.chain(hidden=1024), cost_samples.cluster(kind=REAL), cost_samples.plan()
    device = cluster.groups[0].device
    slower = replace(cluster, groups=(replace(cluster.groups[0], device=replace(device, product_efficiency=0.4)),))
    step_s = evaluate(graph, slower, plan).step_time_s
    runs = [OwnRun(id=f"run {i}", graph=graph, cluster=cluster, plan=plan, measured_s=step_s) for i in range(8)]
    (moved,) = calibrate(runs, Wish(names=("devices",))).moved
    assert moved.after == pytest.approx(0.4, rel=0.05)


@dataclass(frozen=True)
class Straight:
    """A run whose time is a product of powers of the parameters."""

    powers: dict[str, float]
    measured_s: float = 1.0
    id: str = "run"
    source: str = "source"
    cluster: Cluster = synthetic()[0].cluster

    def touched(self, parameter: Parameter) -> bool:
        return parameter.name in self.powers

    def seconds(self, values) -> float:
        return math.prod(values[name] ** power for name, power in self.powers.items())


def knob(name: str) -> Parameter:
    return Parameter(name=name, group="step", value=2.0, prior=2.0, low=1.0, high=4.0, unit="", meaning="")


SHARES = st.floats(1.1, 3.9)


@given(SHARES, SHARES, st.floats(20, 1000))
@settings(max_examples=20)
def test_a_run_that_is_far_off_does_not_carry_the_fit_away(x: float, y: float, off: float) -> None:
    rows = [Straight({"x": a, "y": b}) for a, b in ((1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (1, -1))]
    rows = [replace(run, measured_s=run.seconds({"x": x, "y": y})) for run in rows]
    problem = Problem([*rows, Straight({"x": 1.0}, measured_s=off * x)], [knob("x"), knob("y")])
    found = fit(problem, start(problem), np.ones(len(rows) + 1, dtype=bool))
    assert problem.values(found.scaled) == {"x": pytest.approx(x, rel=0.02), "y": pytest.approx(y, rel=0.02)}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=80))
def test_a_source_of_many_rows_counts_as_few(sources: list[str]) -> None:
    problem = Problem([Straight({}, source=s) for s in sources], [])
    for source in set(sources):
        assert problem.weights[problem.sources == source].sum() <= SOURCE_ROWS + 1e-9


@given(st.floats(0.2, 5.0), st.floats(0.2, 5.0))
def test_columns_that_go_together_are_named_together(first: float, second: float) -> None:
    slopes = np.outer(np.linspace(1, 2, 9), [first, second, 0.0])
    found = undetermined([knob("x"), knob("y"), knob("z")], slopes, np.ones(9), 0.01)
    assert found[0].parameters[0].name == "z"
    assert all("z" not in [p.name for p in one.parameters] for one in found[1:])
    if 0.5 < first / second < 2:
        assert {p.name for p in found[1].parameters} == {"x", "y"}


@given(st.floats(0, 0.5) | st.floats(0.01, 1.0), st.booleans())
def test_the_fitted_scale_goes_both_ways(value: float, from_zero: bool) -> None:
    low, high = (0.0, 0.5) if from_zero else (0.01, 1.0)
    one = Parameter(name="p", group="step", value=low, prior=middle(low, high), low=low, high=high, unit="", meaning="")
    assert one.at(one.scaled(value)) == pytest.approx(min(max(value, low), high), abs=1e-12)
    assert (one.scaled(low), one.scaled(high)) == (pytest.approx(-1.0), pytest.approx(1.0))
