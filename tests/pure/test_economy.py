"""Days, money and energy of a plan: worked out by hand, against published runs, and laws that hold for all."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
from cost_samples import chain, cluster, device, plan
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.economy import Outlook, checkpoint, checkpoint_bytes, devices_used, exposure, outlook
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.goodput import goodput
from nebula.errors import BadInput
from nebula.plan.conditions import Conditions, PowerUse, Reliability
from nebula.plan.values import Job, Prediction

GRAPH = chain()
PRICED = device(name="p", price_per_hour=2.0, power_w=400.0, sources=(("price_per_hour", "a list"),))
SAFE = Reliability(failures_per_device_hour=0.0)


@cache
def predicted(nodes: int) -> Prediction:
    """Prices and powers do not change it, so one does for all."""
    return evaluate(GRAPH, cluster(nodes=nodes, kind=PRICED), plan(data=8 * nodes))


def ahead(
    reliability: Reliability = SAFE, *, kind=PRICED, tokens=1e9, nodes=1, power: PowerUse | None = None
) -> Outlook:
    """The outlook of 8 replicas a node."""
    machine = cluster(nodes=nodes, kind=kind)
    chosen = plan(data=8 * nodes, job=Job(global_batch=32 * nodes, tokens=tokens), prediction=predicted(nodes))
    under = Conditions(reliability=reliability, power=power or PowerUse())
    return outlook(GRAPH, machine, chosen, under)


def test_without_failures_everything_follows_from_the_rate():
    found = ahead(power=PowerUse(idle_share=1.0, pue=1.5))
    hours = 1e9 / predicted(1).tokens_per_s / 3600
    assert found.goodput.useful == 1.0
    assert found.days.with_failures == found.days.without_failures == pytest.approx(hours / 24)
    assert found.device_hours == pytest.approx(8 * hours)
    assert found.money.per_hour == 16.0
    assert found.money.budget == pytest.approx(16 * hours)
    assert found.money.per_million_tokens == pytest.approx(16 * hours / 1000)
    assert found.energy.training_w == pytest.approx(8 * 400 * 1.5)
    assert found.energy.budget_j == pytest.approx(8 * 400 * 1.5 * hours * 3600)


def test_a_device_at_rest_draws_its_idle_share():
    found = ahead(power=PowerUse(idle_share=0.25, pue=1.0)).energy
    assert 0 < found.busy_share < 1
    assert found.training_w == pytest.approx(8 * 400 * (0.25 + 0.75 * found.busy_share))


def test_what_has_no_price_or_power_is_named_and_not_guessed():
    found = ahead(kind=device(name="bare"))
    assert (found.money.unknown, found.energy.unknown) == (("bare",), ("bare",))
    assert found.money.budget == found.money.per_hour == found.energy.budget_j == 0.0


def test_without_a_budget_there_are_rates_and_no_totals():
    found = ahead(Reliability(), tokens=0.0)
    assert (found.days.with_failures, found.days.failures, found.device_hours, found.money.budget) == (0, 0, 0, 0)
    assert found.days.tokens_per_day > 0
    assert found.money.per_million_tokens > 0


def test_groups_of_one_type_are_counted_together():
    (used,) = devices_used(plan(data=16), cluster(nodes=2, kind=PRICED))
    assert used == (PRICED, 16)


reliabilities = st.builds(
    Reliability,
    failures_per_device_hour=st.floats(0.0, 1e-3),
    node_loss_share=st.floats(0.0, 1.0),
    detect_s=st.floats(0.0, 3600.0),
    restart_s=st.floats(0.0, 3600.0),
    saves=st.sampled_from(["synchronous", "asynchronous"]),
    repair_s=st.floats(0.0, 1e5),
    lost_nodes=st.sampled_from(["continue", "wait"]),
    spares=st.integers(0, 3),
)


@given(reliabilities)
def test_failures_make_nothing_cheaper_or_faster(under):
    safe, real = ahead(replace(under, failures_per_device_hour=0.0), nodes=2), ahead(under, nodes=2)
    assert real.days.without_failures == safe.days.with_failures
    assert real.days.with_failures >= safe.days.with_failures * (1 - 1e-12)
    assert real.days.low <= real.days.with_failures <= real.days.high
    assert real.money.budget >= safe.money.budget * (1 - 1e-12)
    assert real.money.per_million_tokens * 1e3 == pytest.approx(real.money.budget)
    assert real.energy.per_million_tokens_j * 1e3 == pytest.approx(real.energy.budget_j)


@given(reliabilities)
def test_asynchronous_saves_hold_training_up_for_the_copy_to_the_hosts_alone(under):
    behind = ahead(replace(under, saves="asynchronous")).checkpoint
    standing = ahead(replace(under, saves="synchronous")).checkpoint
    assert behind.save_s == pytest.approx(behind.total_bytes / 8 / PRICED.host_bytes_per_s)
    assert behind.save_s < standing.save_s == standing.write_s == behind.write_s


def test_a_job_that_cannot_end_says_so_and_divides_by_nothing():
    found = ahead(Reliability(node_mtbf_s=1.0))
    assert math.isinf(found.days.with_failures)
    assert math.isinf(found.money.budget)
    assert found.days.without_failures > 0


def test_a_checkpoint_holds_weights_and_optimizer_states_once():
    used = devices_used(plan(data=8), cluster(kind=PRICED))
    saved = checkpoint(checkpoint_bytes(GRAPH, Job(global_batch=8)), used, Reliability(storage_bytes_per_s=1e6))
    assert saved.total_bytes == GRAPH.parameter_count * (4 + 8)
    assert saved.save_s == saved.load_s == saved.total_bytes / 1e6


def test_llama_3_405b_was_effective_more_than_nine_tenths_of_its_time():
    """16,384 H100 in 2,048 nodes of a larger cluster: more than 90 % (arXiv:2407.21783, section 3.3.4).

    Its failures and its storage are the defaults; 405 G parameters with 14 bytes each, steps of about 5 s.
    """
    under = Reliability(spares=64)
    write_s = 405e9 * 14 / under.storage(16_384)
    saved = replace(ahead().checkpoint, save_s=write_s, write_s=write_s, load_s=write_s)
    time = goodput(exposure(under, saved, 16_384, 2_048, step_s=5.0))
    assert time.mtbf_s / 3600 == pytest.approx(54 * 24 / 419, rel=0.01)
    assert 0.89 < time.useful < 0.95


def test_llama_65b_took_the_energy_that_its_authors_print():
    """1,022,362 hours of 400 W at a PUE of 1.1 are 449 MWh (arXiv:2302.13971, table 15)."""
    found = ahead(power=PowerUse(idle_share=1.0, pue=1.1))
    per_device_hour_j = found.energy.budget_j / found.device_hours
    assert per_device_hour_j * 1_022_362 / 3.6e9 == pytest.approx(449, abs=1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"node_loss_share": 1.5}, "reliability.node_loss_share must be from 0 to 1, not 1.5"),
        ({"restart_s": -1.0}, "reliability.restart_s must be at least 0, not -1"),
        ({"detect_s": math.inf}, "reliability.detect_s must be at least 0, not inf"),
        ({"saves": "never"}, "reliability.saves must be synchronous or asynchronous, not 'never'"),
    ],
)
def test_values_out_of_range_are_refused(wrong, words):
    with pytest.raises(BadInput, match=words):
        Reliability(**wrong)
