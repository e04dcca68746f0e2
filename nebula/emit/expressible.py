"""Whether a format of others has words for a plan; where it has none, the sentence that names the feature.

What fleet can be told stands in the legality table's predicates (nebula.plan.engines); what is particular to the
formats, one recompute setting and an even deal of layers, stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan import engines
from nebula.plan.layout import FLEET, Order, order_of
from nebula.plan.legality import Case
from nebula.plan.values import Plan


class Inexpressible(BadInput):
    """A format has no words for a feature of a plan.

    Attributes:
        sentence: which feature, without the format.
    """

    def __init__(self, form: str, sentence: str, remedy: str = "") -> None:
        super().__init__(f"{form} cannot express this plan: {sentence}{remedy}")
        self.sentence = sentence


Predicate = Callable[[Case], Iterator[str]]


def require(form: str, plan: Plan, *predicates: Predicate) -> None:
    """Refuses a plan that breaks one of the predicates.

    Args:
        form: name of the format.

    Raises:
        Inexpressible: with the first sentence of the first predicate that is broken.
    """
    case = Case(plan=plan, layers=plan.stages[-1].layers[1])
    for predicate in predicates:
        for sentence in predicate(case):
            of_executor = plan.engine == "executor"
            raise Inexpressible(form, sentence, "; objective.fixed.engine=fleet asks for a plan of fleet" * of_executor)


def one_recompute(case: Case) -> Iterator[str]:
    """All stages recompute alike, and all their layers."""
    first = case.plan.stages[0].recompute
    for index, stage in enumerate(case.plan.stages):
        if stage.recompute != first:
            yield f"recompute is {stage.recompute} in stage {index} and {first} in stage 0, it has one setting for all"
            return
        if stage.recompute_layers:
            yield f"recompute is {stage.recompute_words} in stage {index}, it has one setting for all layers"
            return


def no_sequence(case: Case) -> Iterator[str]:
    """Norms and residuals are not cut along the sequence."""
    if case.plan.sequence_parallel:
        yield "sequence_parallel, which the model's layers decide"


ON_FLEET: tuple[Predicate, ...] = (
    engines.no_experts,
    engines.no_context,
    engines.fleet_schedule,
    engines.no_offload,
    engines.alike,
    engines.fleet_order,
)
"""What fleet's hybrid topology, and every tool above it, asks of a plan."""


def order_notes(plan: Plan, orders: tuple[Order, ...] = (FLEET,)) -> tuple[str, ...]:
    """What to say of a plan whose ranks are numbered otherwise than a format can; the numbers it trains are the same.

    Args:
        orders: in which the format can number ranks.
    """
    order = order_of(plan.stages)
    if order is None or order in orders:
        return ()
    own = ", ".join(order)
    return (
        f"the plan's ranks lie {own} from the outside in, which this format cannot say: groups meet on other links",
    )


def dealt_layers(form: str, graph: DistributedGraph, plan: Plan) -> tuple[int, ...]:
    """How many layers of the model's body each stage holds, the embedding and the head apart.

    Tools that deal layers to stages put the embedding on the first stage and the head on the last.

    Raises:
        Inexpressible: a stage holds layers that are neither body, embedding nor head.
    """
    if len(plan.stages) == 1:
        return (sum(_is_body(graph, layer) for layer in range(len(graph.layers))),)
    for layer in range(len(graph.layers)):
        if not _is_body(graph, layer) and layer not in (0, len(graph.layers) - 1):
            name = graph.layer_names[layer]
            raise Inexpressible(
                form,
                f"between its stages it deals decoder layers alone, and layer {name} of {graph.name} is none; plan "
                "with objective.fixed.pipeline=1",
            )
    return tuple(sum(_is_body(graph, layer) for layer in range(*stage.layers)) for stage in plan.stages)


def even(form: str, counts: tuple[int, ...]) -> None:
    """Refuses stages that hold unlike numbers of layers.

    Raises:
        Inexpressible: with the numbers.
    """
    if len(set(counts)) > 1:
        held = "|".join(map(str, counts))
        raise Inexpressible(form, f"its stages hold {held} decoder layers, it deals them evenly")


def _is_body(graph: DistributedGraph, layer: int) -> bool:
    """Whether a layer is one of those that repeat; a model without named parts is all body."""
    return graph.block_of(layer).module in ("decoder", "")
