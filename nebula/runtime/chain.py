"""What a model must be to be cut into stages: a list of elements, each of which reads what the one before returns.

An element takes and returns one tensor or one tuple of tensors. A model offers the list as `.chain`; an nn.Sequential
without a forward of its own is such a list itself, and the chain of a causal language model is known
(nebula.runtime.decoder_chain). Other models run whole, which data parallelism and sharding allow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.runtime import decoder_flow
from nebula.runtime.circles import from_all
from nebula.runtime.decoder_chain import base_of, decoder_chain


class ChainModel(nn.Layer):
    """Elements run one after the other."""

    def __init__(self, elements: Iterable[nn.Layer]) -> None:
        super().__init__()
        self.elements = nn.LayerList(list(elements))

    def forward(self, x: Any) -> Any:
        """Feeds each element with what the one before returned."""
        for element in self.elements:
            x = element(x)
        return x


def elements(model: nn.Layer) -> list[nn.Layer]:
    """The chain of a model, or the model itself as its only element."""
    chain = _offered(model)
    if chain is not None:
        return list(chain)
    base = base_of(model)
    return [model] if base is None else decoder_chain(model, base)


def _offered(model: nn.Layer) -> Iterable[nn.Layer] | None:
    """The list that a model has or is; None where it offers none."""
    chain: Iterable[nn.Layer] | None = getattr(model, "chain", None)
    # a subclass may do more than run its members
    plain = getattr(model.forward, "__func__", None) in (nn.Sequential.forward, nn.Layer.forward)
    if chain is None and plain and isinstance(model, (nn.Sequential, nn.LayerList)):
        chain = model
    return chain


def check_found(model: nn.Layer) -> None:
    """Refuses a model whose chain was found by its names, if its own forward does more than the elements do.

    Raises:
        BadInput: with what it does.
    """
    base = base_of(model) if _offered(model) is None else None
    if base is not None:
        decoder_flow.check(model, base)


def check_trained(model: nn.Layer, elements: Iterable[nn.Layer], trained: Iterable[paddle.Tensor]) -> None:
    """Refuses weights that would stay as they are, although someone means to train them.

    Args:
        elements: of the whole chain, before they are cut.
        trained: what the optimizer steps on.

    Raises:
        BadInput: an element has a weight that is not the model's; or the optimizer one that no element has.
    """
    names, held = parameter_names(model), {id(p): p for element in elements for p in element.parameters()}
    odd = [parameter.name for key, parameter in held.items() if key not in names and not parameter.stop_gradient]
    if odd:
        raise BadInput(
            f"{odd[0]} is a weight of the chain and not of the model: nothing would train it; make it a layer of the "
            "model, or freeze it (stop_gradient)"
        )
    odd = [names.get(id(p), p.name) for p in trained if id(p) not in held and not p.stop_gradient]
    if odd:
        raise BadInput(
            f"the optimizer has {odd[0]}, which no element of the model's chain holds (a weight of the loss, or what "
            "the chain leaves out): nothing would train it; put it into an element, or leave it out of the optimizer"
        )


def check_length(count: int, plan_layers: int) -> None:
    """Refuses a plan made for a chain of another length.

    Raises:
        BadInput: the lengths differ.
    """
    if plan_layers not in (count, -1):
        raise BadInput(
            f"the plan splits {plan_layers} layers, the model's chain has {count} elements: plan again for this model"
        )


def check_alike(model: nn.Layer) -> None:
    """Refuses models that ranks have not built with the same weights and buffers, or of which they train others.

    Raises:
        BadInput: a rank's weights differ from rank 0's, or it has others frozen.
    """
    digest = 0
    for tensor in (*model.parameters(), *model.buffers()):
        digest = zlib.crc32(tensor.numpy().tobytes(), digest)
    frozen = [name for name, parameter in model.named_parameters() if parameter.stop_gradient]
    told = from_all((digest, frozen), paddle.distributed.get_world_size())
    for rank, (other, stopped) in enumerate(told):
        if other != told[0][0]:
            raise BadInput(
                f"rank {rank} has built the model with other weights or buffers than rank 0: "
                "seed every rank alike (nebula.init() does) and build the model the same way on all"
            )
        odd = sorted({*stopped} ^ {*told[0][1]})
        if odd:
            trains, freezes = (0, rank) if odd[0] in stopped else (rank, 0)
            raise BadInput(
                f"rank {trains} trains {odd[0]}, rank {freezes} has it frozen (stop_gradient): "
                "freeze the same weights on all ranks"
            )


def parameter_names(model: nn.Layer) -> dict[int, str]:
    """Structured name of each parameter, by its id; a shared parameter keeps its first name."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        names.setdefault(id(parameter), name)
    return names


def element_names(model: nn.Layer, chain: list[nn.Layer]) -> list[str]:
    """Structured name of each chain element; empty for the model itself."""
    names = {id(layer): name for name, layer in model.named_sublayers(include_self=True)}
    return [names.get(id(element), f"chain.{index}") for index, element in enumerate(chain)]


def shared_across(stages: list[list[nn.Layer]]) -> str:
    """Name of a parameter that elements of two stages share, or an empty text."""
    owner: dict[int, int] = {}
    for index, stage in enumerate(stages):
        for element in stage:
            for name, parameter in element.named_parameters():
                if owner.setdefault(id(parameter), index) != index:
                    return str(name)
    return ""
