"""The peak of a rank: what is held by dtype and sharding, the moments of a step, what each measurement counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.activations import Activations
from nebula.cost_model.execution import Execution
from nebula.cost_model.held import held
from nebula.cost_model.peak import (
    COMMUNICATOR_BYTES,
    CONTEXT_BYTES,
    Chunk,
    Counted,
    LayerLoad,
    Peak,
    Setting,
    rank_peak,
)
from nebula.plan.plain import decode, encode
from nebula.plan.values import Sharding, StageMemory

WHOLE = Sharding()
NARROW = Execution(accumulation_dtype="bfloat16")


def load(elements=1e3, kept=100.0, **more) -> LayerLoad:
    activation = {k: more.pop(k) for k in ("restored", "passing", "logits") if k in more}
    fields = {"expert_elements": 0.0, "weights": (("w", (10, 100), 2e3),), "output_bytes": 10.0}
    return LayerLoad(elements=elements, activations=Activations(kept=kept, **activation), **(fields | more))


def setting(execution=NARROW, sharding=WHOLE, **more) -> Setting:
    return Setting(execution=execution, sharding=sharding, expert_sharding=more.pop("experts", sharding), **more)


def peak(*layers: LayerLoad, flight=1, sends=False, **more) -> Peak:
    return rank_peak([Chunk(layers=layers or (load(),), flight=flight, sends=sends)], setting(**more))


def held_bytes(execution: Execution, sharding: Sharding = WHOLE) -> tuple[float, float, float]:
    found = held(1.0, execution, sharding)
    return found.weights, found.gradients, found.states


def test_bytes_of_a_parameter_by_dtype() -> None:
    assert held_bytes(Execution()) == (2, 4, 12)
    assert held_bytes(NARROW) == (2, 2, 12)
    assert held_bytes(Execution(separate_sums=True)) == (2, 6, 12)
    whole = Execution(compute_dtype="float32", accumulation_dtype="float32", master_dtype="")
    assert held_bytes(whole) == (4, 4, 8)
    assert held_bytes(replace(NARROW, moments=1, moments_dtype="bfloat16")) == (2, 2, 6)


def test_sharding_cuts_states_then_gradients_then_weights_which_are_the_copy_that_is_updated() -> None:
    cut = [held_bytes(Execution(), Sharding(stage=stage, degree=4)) for stage in (1, 2, 3)]
    assert cut == [(2, 4, 3), (2, 1, 3), (1, 1, 2)]


def test_a_sharded_update_flattens_narrow_gradients_and_copies_them_to_the_width_of_its_weights() -> None:
    assert held(1.0, NARROW, Sharding(stage=1, degree=1)).update == 6
    assert held(1.0, NARROW, WHOLE).update == 0
    assert held(1.0, Execution(), Sharding(stage=1, degree=4)).update == 0


@given(
    st.integers(2, 64),
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from(["float32", ""]),
    st.integers(0, 2),
)
def test_what_is_held_falls_with_the_sharding_stage(degree: int, sums: str, master: str, moments: int) -> None:
    execution = Execution(accumulation_dtype=sums, master_dtype=master, moments=moments)
    totals = [sum(held_bytes(execution, Sharding(stage=s, degree=degree if s else 1))) for s in range(4)]
    assert all(more <= less + 1e-9 for less, more in pairwise(totals))


def test_moments_by_hand() -> None:
    """Two bytes of weights and of gradients, twelve of states; the gradient of the widest weight has 2,000."""
    states, weight = 16e3, 2e3
    backward = peak(load(restored=50.0, passing=8.0), flight=3, micro_batches=4)
    assert (backward.moment, backward.bytes) == ("last backward", states + weight + 3 * 100 + 58)
    loss = peak(load(), load(elements=0.0, logits=5e3, passing=8.0), flight=1, micro_batches=4)
    assert (loss.moment, loss.bytes) == ("loss", states + weight + 200 + 5e3 + 8)
    step = peak(load(kept=0.0), micro_batches=4, sharding=Sharding(stage=1, degree=1))
    assert (step.moment, step.bytes) == ("optimizer step", states + 6e3)
    sharded = peak(load(weights=()), sharding=Sharding(stage=3, degree=1000), micro_batches=4)
    assert (sharded.moment, sharded.holder) == ("gather", "buffers")


def test_before_anything_was_added_there_are_no_gradients() -> None:
    late, early = peak(load(kept=1e5), micro_batches=2), peak(load(kept=1e5), micro_batches=1)
    assert late.bytes - early.bytes == 2e3
    own = Execution()
    assert peak(load(kept=1e5), execution=own, micro_batches=1) == peak(load(kept=1e5), execution=own, micro_batches=2)


def test_sums_of_another_dtype_need_a_gradient_of_each_weight_on_its_way() -> None:
    layers = (load(), load(weights=(("v", (10, 100), 2e3),)), load())
    assert peak(*layers, execution=Execution(), micro_batches=2).memory.workspace_bytes == 4e3
    assert peak(*layers, execution=NARROW, micro_batches=2).memory.workspace_bytes == 2e3


def test_buffers_of_communication() -> None:
    def buffers(**more) -> float:
        return peak(**more).memory.buffers_bytes

    assert buffers(replicas=4, micro_batches=2) == 2e3
    assert buffers(replicas=4, micro_batches=2, execution=Execution()) == 0.0
    assert buffers(sharding=Sharding(stage=2, degree=4), micro_batches=2) == 0.75 * 2e3
    assert (
        rank_peak(
            [Chunk(layers=(load(elements=2.0**27, kept=1e9),), flight=1)],
            setting(sharding=Sharding(stage=2, degree=4), micro_batches=2),
        ).memory.buffers_bytes
        == 3 * 2**23 * 2
    )
    assert buffers(sharding=Sharding(stage=3, degree=4)) == 2 * 2 * 1e3


def test_a_stage_keeps_what_it_sent_until_the_gradient_comes() -> None:
    assert peak(flight=4, sends=True).bytes - peak(flight=4).bytes == 40


def test_experts_have_their_own_sharding_and_tied_weights_lie_there_once() -> None:
    layer = load(elements=0.0, expert_elements=1e3)
    found = peak(layer, sharding=Sharding(stage=1, degree=8), experts=Sharding(stage=1, degree=2))
    assert found.memory.optimizer_bytes == 6e3
    assert peak(load(), load(), tied_elements=1e3).memory.weights_bytes == peak(load()).memory.weights_bytes


@given(
    kept=st.floats(0, 1e6),
    logits=st.floats(1, 1e6),
    elements=st.floats(0, 1e6),
    communicators=st.integers(0, 4),
    stage=st.integers(0, 3),
)
def test_a_process_holds_what_is_reserved_and_that_what_is_allocated(kept, logits, elements, communicators, stage):
    def of(counted: Counted) -> Peak:
        layers = (load(elements=elements, kept=kept), load(elements=0.0, logits=logits))
        cut = Sharding(stage=stage, degree=4 if stage else 1)
        return peak(*layers, sharding=cut, counted=counted, communicators=communicators, micro_batches=2)

    allocated, reserved, process, emulated = (of(counted) for counted in Counted)
    assert allocated.bytes <= reserved.bytes + 1e-6
    assert emulated.memory.fragmentation_bytes == emulated.memory.context_bytes == 0.0
    assert process.bytes - reserved.bytes == pytest.approx(CONTEXT_BYTES + communicators * COMMUNICATOR_BYTES)
    low, high = reserved.interval_bytes
    assert low < reserved.bytes < high


@given(st.floats(0, 1e6), st.integers(1, 8), st.sampled_from(list(Counted)))
def test_more_in_flight_never_holds_less(kept: float, flight: int, counted: Counted) -> None:
    less, more = (peak(load(kept=kept), flight=f, counted=counted) for f in (flight, flight + 1))
    assert less.bytes <= more.bytes + 1e-6


def test_the_parts_of_a_peak_sum_to_it_and_survive_a_plan_file() -> None:
    memory = peak(load(), load(logits=1e4), counted=Counted.PROCESS).memory
    parts = {name: getattr(memory, name) for name in StageMemory.__slots__ if name != "limit_bytes"}
    assert memory.total_bytes == pytest.approx(sum(parts.values()))
    assert decode(StageMemory, encode(memory)) == memory
    older = {k: v for k, v in encode(memory).items() if k not in ("logits_bytes", "context_bytes")}
    assert decode(StageMemory, older).logits_bytes == 0.0
