"""Are collectives between emulated devices right, do they cost what their formulas say, and do their failures speak?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from emulated_run import Outcome, busy_host, run_ranks

from nebula.emulator.table import Link, uniform_links

COUNT = 12_000
FAST, SLOW = Link(bytes_per_s=2e10, latency_s=3e-6), Link(bytes_per_s=5e9, latency_s=8e-6)


def links_of(ranks: int) -> dict[tuple[int, int], Link]:
    """Fast within a pair of ranks, slow between the pairs."""
    return {pair: FAST if pair[0] // 2 == pair[1] // 2 else SLOW for pair in uniform_links(ranks, FAST)}


@pytest.fixture(scope="module", params=[2, 4])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    ranks = request.param
    checks = ["collectives", "overlap", "sharding", "mismatches", "parting"]
    done = run_ranks("group_checks.py", tmp_path_factory.mktemp(f"ranks{ranks}"), ranks, links_of(ranks), *checks)
    assert done.exit_code == 0, "\n".join(text[-2000:] for text in done.outputs)
    return done


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Two ranks with little patience: one waits in vain, then the other dies."""
    folder = tmp_path_factory.mktemp("failures")
    return run_ranks("group_checks.py", folder, 2, links_of(2), "stuck", "death", patience_s=6)


def slowest(ranks: int) -> Link:
    return FAST if ranks == 2 else SLOW


def expected_s(name: str, ranks: int, whole_bytes: float) -> float:
    """The formulas of the plug-in, written out again: n ranks, slowest link, V bytes in the whole array."""
    n, a, b = ranks, slowest(ranks).latency_s, slowest(ranks).bytes_per_s
    return {
        "all_reduce": 2 * (n - 1) * a + 2 * (n - 1) / n * whole_bytes / b,
        "all_gather": (n - 1) * a + (n - 1) / n * whole_bytes / b,
        "reduce_scatter": (n - 1) * a + (n - 1) / n * whole_bytes / b,
        "broadcast": (n - 1) * a + whole_bytes / b,
        "reduce": (n - 1) * a + whole_bytes / b,
    }[name]


def column(outcome: Outcome, check: str) -> list[Any]:
    return [answer["collectives"][check] for answer in outcome.answers]


def collective_spans(outcome: Outcome, check: str) -> list[float]:
    """By rank: from the latest start to the own end."""
    calls = [entry["calls"][0] for entry in column(outcome, check)]
    latest = max(call[1] for call in calls)
    return [call[2] - latest for call in calls]


def test_collectives_give_the_right_values(outcome: Outcome) -> None:
    n = len(outcome.answers)
    part, offsets = COUNT // n, 1000 * sum(range(n))
    summed = [offsets, n * (COUNT - 1) + offsets]
    for rank in range(n):
        values = {check: entry["values"] for check, entry in outcome.answers[rank]["collectives"].items()}
        assert values["all_reduce"] == summed
        assert values["all_reduce_max"] == [1000 * (n - 1), COUNT - 1 + 1000 * (n - 1)]
        assert values["all_reduce_float16"] == pytest.approx(summed, rel=2e-3)
        assert values["all_reduce_bfloat16"] == pytest.approx(summed, rel=2e-2)
        assert values["all_gather"] == [1 + 1000 * r for r in range(n)]
        assert values["reduce_scatter"] == [
            n * part * rank + offsets,
            n * (part * (rank + 1) - 1) + offsets,
        ]
        assert values["broadcast"] == [1000, COUNT - 1 + 1000]
        assert rank != 0 or values["reduce"] == summed
        assert values["all_to_all"] == [part * rank + 1000 * r for r in range(n)]
        assert values["to_next"] == [1000 * ((rank - 1) % n), COUNT - 1 + 1000 * ((rank - 1) % n)]
        first = 1000 * 0 + 100 * sum(range(1, rank + 1))  # where rank 0's part for this rank begins
        assert values["uneven_all_to_all"][0] == first


@pytest.mark.parametrize("check", ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"])
def test_collectives_start_with_the_last_rank_and_cost_their_formula(outcome: Outcome, check: str) -> None:
    n = len(outcome.answers)
    for span in collective_spans(outcome, check):
        assert math.isclose(span, expected_s(check, n, 4 * COUNT), rel_tol=1e-9)


def test_half_types_put_half_the_bytes_on_the_wire(outcome: Outcome) -> None:
    n = len(outcome.answers)
    for check in ("all_reduce_float16", "all_reduce_bfloat16"):
        for span in collective_spans(outcome, check):
            assert math.isclose(span, expected_s("all_reduce", n, 2 * COUNT), rel_tol=1e-9)


def test_all_to_all_costs_the_bytes_of_its_pairs(outcome: Outcome) -> None:
    n = len(outcome.answers)
    links = links_of(n)
    for rank in range(n):
        others = [other for other in range(n) if other != rank]
        even = sum(links[rank, o].latency_s + 4 * COUNT / n / links[rank, o].bytes_per_s for o in others)
        assert math.isclose(collective_spans(outcome, "all_to_all")[rank], even, rel_tol=1e-9)
        uneven = sum(links[rank, o].latency_s + 400 * (rank + 1) * (o + 1) / links[rank, o].bytes_per_s for o in others)
        assert math.isclose(collective_spans(outcome, "uneven_all_to_all")[rank], uneven, rel_tol=1e-9)


def test_messages_take_the_link_of_their_pair(outcome: Outcome) -> None:
    n = len(outcome.answers)
    links = links_of(n)
    entries = [entry["calls"] for entry in column(outcome, "to_next")]
    for rank, calls in enumerate(entries):
        (sent,) = [call for call in calls if call[0].startswith("send")]
        (got,) = [call for call in calls if call[0].startswith("recv")]
        (sent_to_me,) = [call for call in entries[(rank - 1) % n] if call[0].startswith("send")]
        there, here = links[rank, (rank + 1) % n], links[(rank - 1) % n, rank]
        assert math.isclose(sent[2] - sent[1], there.latency_s + 4 * COUNT / there.bytes_per_s, rel_tol=1e-9)
        arrival = sent_to_me[1] + here.latency_s + 4 * COUNT / here.bytes_per_s
        assert math.isclose(got[2], max(got[1], arrival), rel_tol=1e-9)


def test_an_asynchronous_collective_overlaps_with_work(outcome: Outcome) -> None:
    n = len(outcome.answers)
    wire = expected_s("all_reduce", n, 4 * 2_000_000)
    for answer in outcome.answers:
        spans = answer["overlap"]
        assert math.isclose(spans["both"], max(spans["work"], wire), rel_tol=1e-9)
        assert math.isclose(spans["serial"], spans["work"] + wire, rel_tol=1e-9)


def test_what_a_rank_sent_before_it_ended_arrives(outcome: Outcome) -> None:
    assert outcome.answers[1]["parting"] == [3, 3]


@pytest.mark.parametrize("outcome", [2], indirect=True)
def test_virtual_times_are_the_same_on_a_loaded_host(outcome: Outcome, tmp_path: Path) -> None:
    with busy_host():
        loaded = run_ranks("group_checks.py", tmp_path, 2, links_of(2), "collectives", "overlap")
    for check in ("collectives", "overlap"):
        assert [a[check] for a in loaded.answers] == [a[check] for a in outcome.answers]


def test_sharding_2_and_3_train_as_one_process_does(outcome: Outcome) -> None:
    for answer in outcome.answers:
        serial = answer["sharding"]["serial"]
        assert serial[-1] < 0.9 * serial[0]
        assert answer["sharding"]["os_g"] == pytest.approx(serial, rel=1e-6)
        assert answer["sharding"]["p_g_os"] == pytest.approx(serial, rel=1e-6)


def lines_of(outcome: Outcome, rank: int) -> str:
    return "\n".join(line for line in outcome.outputs[rank].splitlines() if line.startswith("[sim_npu]"))


def test_calls_that_do_not_fit_are_named(outcome: Outcome) -> None:
    assert outcome.answers[0]["mismatches"] == {"shape": "OSError", "order": "OSError"}
    said = lines_of(outcome, 0)
    assert "[sim_npu] rank 0: rank 1 sent 32 bytes where this rank expects 16 in all_reduce of ranks 0 1" in said
    assert "[sim_npu] rank 0: rank 1 is in broadcast while this rank is in all_reduce of ranks 0 1" in said


def test_a_rank_that_waits_in_vain_says_for_whom(failures: Outcome) -> None:
    stuck = failures.answers[1]["stuck"]
    assert stuck["error"] == "OSError"
    assert 6 <= stuck["waited_s"] < 30
    assert "[sim_npu] rank 1: rank 0 sent nothing for 6 s" in lines_of(failures, 1)


def test_a_dead_rank_is_named(failures: Outcome) -> None:
    assert failures.exit_code != 0
    assert "[sim_npu] rank 0: rank 1 went away during all_reduce of ranks 0 1" in lines_of(failures, 0)
