"""Two plans side by side: what they decide differently, and which is better by which term.

Works on plans alone, as a plan holds its prediction. Says so where one has none, and where the two were made from other
models or clusters or for other jobs, so that more than the split speaks from their times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from nebula.plan.degrees import degrees_of
from nebula.plan.values import Job, Plan, Prediction, Stage
from nebula.planner.explain import TERMS
from nebula.planner.fullest import too_full
from nebula.planner.why_not import ALIKE
from nebula.units import format_count, format_seconds

FEW = 4
"""So many stages are named that differ; of more the number is told."""

NEITHER = -1
UNKNOWN = "Which one is faster is not known, as only plans with a prediction can be compared."


class Difference(NamedTuple):
    """A subject in which two plans differ, with what each says."""

    subject: str
    first: str
    second: str


class Judgement(NamedTuple):
    """Which of two is better.

    Attributes:
        verdict: a sentence.
        better: 0 the first, 1 the second, NEITHER.
        term: by which the other is most behind, `memory` where it does not fit; empty where neither is better.
        term_s: by how many seconds, for as many tokens; 0 for memory.
        more_s: seconds of a step that the second takes more than the first.
    """

    verdict: str
    better: int = NEITHER
    term: str = ""
    term_s: float = 0.0
    more_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two plans.

    Attributes:
        judgement: which is better; only a sentence where a prediction is missing.
        differences: what they decide differently: degrees, stages, places.
        notes: what a reader must know before setting the two against each other.
    """

    judgement: Judgement
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(first: Plan, second: Plan, names: tuple[str, str]) -> Comparison:
    """Compares two plans, with their predictions or without; `names` is what sentences call them."""
    judgement, notes = Judgement(UNKNOWN), tuple(_notes(first, second, names))
    models = {plan.made_from.model_hash for plan in (first, second)}
    if len(models) > 1 and all(models):
        judgement = Judgement("They train unlike models, so neither is the better plan.")
    elif first.prediction and second.prediction:
        full = [too_full(prediction) for prediction in (first.prediction, second.prediction)]
        judgement = judge_fit(full, names) if any(full) else judge(first.prediction, second.prediction, names)
        notes += _overlap(first.prediction, second.prediction) if judgement.term_s else ()
    return Comparison(judgement=judgement, differences=tuple(_differences(first, second)), notes=notes)


def judge(first: Prediction, second: Prediction, names: tuple[str, str]) -> Judgement:
    """Which trains more tokens in a second, and the term by which the other is most behind.

    Steps of unlike batches are set against each other for as many tokens as the faster one has.
    """
    more_s = second.step_time_s - first.step_time_s
    if abs(first.tokens_per_s - second.tokens_per_s) <= ALIKE * first.tokens_per_s:
        words = f"{names[0]} and {names[1]} are as fast: {format_count(first.tokens_per_s)} tokens/s."
        return Judgement(words, more_s=more_s)
    faster = 0 if first.tokens_per_s > second.tokens_per_s else 1
    won, lost = (first, second) if faster == 0 else (second, first)
    scale = _tokens(won) / _tokens(lost)
    term, term_s = max(((name, scale * of(lost.parts) - of(won.parts)) for name, of in TERMS), key=lambda t: t[1])
    words = f"{names[faster]} is faster: {_won_by(won, lost, scale)}, because of {format_seconds(term_s)} less {term}."
    return Judgement(words, faster, term, term_s, more_s)


def judge_fit(too_full: Sequence[str], names: tuple[str, str]) -> Judgement:
    """Where at least one plan does not fit into memory: the one that does is better, however fast the other."""
    if all(too_full):
        return Judgement(f"Neither fits into memory: of {names[0]} {too_full[0]}, of {names[1]} {too_full[1]}.")
    better, other = (1, 0) if too_full[0] else (0, 1)
    return Judgement(f"{names[better]} is better: of {names[other]} {too_full[other]}.", better, "memory")


def _won_by(won: Prediction, lost: Prediction, scale: float) -> str:
    """The steps, or the rates where a step of one has other tokens than one of the other."""
    if abs(scale - 1.0) <= ALIKE:
        less = 1.0 - won.step_time_s / lost.step_time_s
        return f"{format_seconds(won.step_time_s)} a step against {format_seconds(lost.step_time_s)}, {less:.1%} less"
    more = won.tokens_per_s / lost.tokens_per_s - 1.0
    rates = f"{format_count(won.tokens_per_s)} tokens/s against {format_count(lost.tokens_per_s)}, {more:.1%} more"
    return f"{rates} for steps of {format_count(_tokens(won))} and {format_count(_tokens(lost))} tokens"


def _tokens(prediction: Prediction) -> float:
    """Tokens of one step."""
    return prediction.tokens_per_s * prediction.step_time_s


def _overlap(first: Prediction, second: Prediction) -> tuple[str, ...]:
    """Whether the ranges of two predictions leave open which is faster."""
    (low, high), (other_low, other_high) = (tuple(s / _tokens(p) for s in p.interval_s) for p in (first, second))
    if high < other_low or other_high < low:
        return ()
    return ("Their ranges overlap; most errors are the same for both, so the order is surer than the times.",)


def _notes(first: Plan, second: Plan, names: tuple[str, str]) -> Iterator[str]:
    for plan, name in zip((first, second), names, strict=True):
        if plan.prediction is None:
            yield f"{name} holds no prediction; name its run file with --run, and it is predicted."
    a, b = first.made_from, second.made_from
    yield from _unlike("model", (a.model, a.model_hash), (b.model, b.model_hash), names)
    yield from _unlike("cluster", (a.cluster, a.cluster_hash), (b.cluster, b.cluster_hash), names)
    for name in (field.name for field in fields(Job) if field.name not in ("steps", "tokens")):
        one, other = getattr(first.job, name), getattr(second.job, name)
        if one != other:
            yield f"They are for unlike jobs: {name} {one} and {other}."


def _unlike(what: str, one: tuple[str, str], other: tuple[str, str], names: tuple[str, str]) -> Iterator[str]:
    """What two names with hashes say about whether the plans speak of the same thing."""
    silent = [name for name, (_, made_hash) in zip(names, (one, other), strict=True) if not made_hash]
    if silent:
        yield f"Whether both are for one {what} is not known: {' and '.join(silent)} names no hash of it."
    elif one[1] != other[1]:
        yield f"They were made from unlike {what}s: {one[0]} ({one[1]}) and {other[0]} ({other[1]})."


def _differences(first: Plan, second: Plan) -> Iterator[Difference]:
    decided = [{**degrees_of(p), **{n: getattr(p, n) for n in ("micro_batches", "engine")}} for p in (first, second)]
    for name, value in decided[0].items():
        if value != decided[1][name]:
            words = name.replace("micro_", "micro-").replace("_", " ")
            yield Difference(words, str(value), str(decided[1][name]))
    if first.sequence_parallel != second.sequence_parallel:
        yield Difference("sequence parallel", *("yes" if p.sequence_parallel else "no" for p in (first, second)))
    if len(first.stages) == len(second.stages):
        yield from _few("layers", *([_layers(stage) for stage in plan.stages] for plan in (first, second)))
        yield from _few("split", _ways(first), _ways(second))
    yield from _places(first, second)


def _few(what: str, first: list[str], second: list[str]) -> Iterator[Difference]:
    """The first stages that differ, and how many there are of more."""
    other = [index for index, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    for index in other[:FEW]:
        yield Difference(f"{what} of stage {index}", first[index], second[index])
    if len(other) > FEW:
        yield Difference(f"{what} of {len(other) - FEW} more stages", "differ", "differ")


def _places(first: Plan, second: Plan) -> Iterator[Difference]:
    """Ranks that run elsewhere."""
    if len(first.ranks) != len(second.ranks):
        yield Difference("devices", f"{first.world_size:,}", f"{second.world_size:,}")
        return
    moved = [rank for rank, (a, b) in enumerate(zip(first.ranks, second.ranks, strict=True)) if a != b]
    if moved:
        places = [plan.ranks[moved[0]] for plan in (first, second)]
        more = f" and of {len(moved) - 1:,} more" if len(moved) > 1 else ""
        yield Difference(f"place of rank {moved[0]}{more}", *(f"{p.node} device {p.device}" for p in places))


def _layers(stage: Stage) -> str:
    first, end = stage.layers
    return f"{first}–{end - 1}" if end - first > 1 else str(first)


def _ways(plan: Plan) -> list[str]:
    """For each stage how it is held, as far as the degrees of the plan do not tell it."""
    degrees = degrees_of(plan)
    told = (
        f"data {degrees['data']}",
        f"tensor {degrees['tensor']}",
        f"{degrees['micro_batch_rows']} rows",
        f"sharding {degrees['sharding']} over {degrees['sharding_degree']}",
        f"recompute {degrees['recompute']}",
        f"offload {degrees['offload']}",
    )
    return [" · ".join(w for w in _way(stage) if w not in told) or "as the first" for stage in plan.stages]


def _way(stage: Stage) -> tuple[str, ...]:
    tensor, rows = {len(r.ranks) for r in stage.replicas}, {r.micro_batch_rows for r in stage.replicas}
    return (
        f"data {stage.data}",
        f"tensor {'/'.join(map(str, sorted(tensor)))}",
        f"{'/'.join(map(str, sorted(rows)))} rows",
        f"sharding {stage.sharding.stage} over {stage.sharding.degree}",
        f"recompute {stage.recompute_words}",
        f"offload {stage.offload}",
    )
