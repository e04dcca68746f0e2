"""Shapes of pipelines that every schedule can have, and durations for them."""

from hypothesis import strategies as st

from nebula.cost_model.simulate import Durations, Sends
from nebula.plan.schedule import SCHEDULES, chain_length

positive = st.floats(1e-3, 1e3) | st.sampled_from([1.0, 2.0, 0.5])


@st.composite
def pipelines(draw, most_devices=6, most_micro_batches=40):
    """Schedule, devices, micro-batches, chunks."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    schedule = SCHEDULES[name]
    least, most = schedule.chunks
    chunks = draw(st.integers(least, min(most, 4)))
    devices = 2 * draw(st.integers(1, most_devices // 2)) if schedule.even else draw(st.integers(1, most_devices))
    return name, devices, draw(st.integers(1, most_micro_batches)), chunks


@st.composite
def timed(draw, sends=(Sends.OCCUPY, Sends.BESIDE)):
    """Unequal durations of virtual stages, and what runs them: schedule, micro-batches, chunks."""
    name, devices, micro_batches, chunks = draw(pipelines())
    stages, length = devices * chunks, chain_length(name, devices, chunks)
    several = st.lists(positive, min_size=stages, max_size=stages)
    backward, part = draw(several), draw(st.sampled_from([0.0, 0.3, 0.5]))
    last, first = [length - 1, stages - 1], [0, stages - length]
    found = Durations(
        forward_s=tuple(draw(several)),
        backward_s=tuple(backward),
        send_forward_s=tuple(0.0 if v in last else s for v, s in enumerate(draw(several))),
        send_backward_s=tuple(0.0 if v in first else s for v, s in enumerate(draw(several))),
        weight_s=tuple(part * b for b in backward),
        sends=draw(st.sampled_from(sends)),
    )
    return found, (name, micro_batches, chunks)
