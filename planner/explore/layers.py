"""What each layer costs one rank of a way, on each pool of equal devices: seconds of both passes, memory, parameters.

Layers of one block cost the same, so a way's inner half is priced block by block and spread over the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.topology import HostShare
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.activations import activations_under
from nebula.cost_model.by_stage import ByStage
from nebula.cost_model.chain import Chains
from nebula.cost_model.communication import Fabric
from nebula.cost_model.cut_blocks import CutBlocks
from nebula.cost_model.eager import COMPUTED_AGAIN, paddle_execution
from nebula.cost_model.execution import Execution, Recompute
from nebula.cost_model.offload import holds_activations
from nebula.cost_model.passes import later_weights, passes_under
from nebula.cost_model.peak import LayerLoad as MemoryLoad
from nebula.cost_model.peak import layer_load as memory_load
from nebula.cost_model.replicas import LayerLoad, Replicas, layer_load
from nebula.cost_model.step import StepPricing
from nebula.cost_model.step_parameters import parameters_on
from nebula.cost_model.traffic import Axes, attained
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Replica, Sharding, Stage
from nebula.planner.explore.ways import ALL, Inner

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LayerSeconds:
    """Seconds of every layer of the chain, [layers], once forward and once backward, exposed communication included.

    `weight_s` is the part of a backward that a split one leaves for later, `sets_s` what comes to it where it is split.
    """

    forward_s: Floats
    backward_s: Floats
    weight_s: Floats
    sets_s: Floats
    border_bytes: Floats

    @cached_property
    def total_s(self) -> Floats:
        """Both passes."""
        return self.forward_s + self.backward_s


class Layers:
    """Prices layers for ways of one graph on one cluster, each once.

    Args:
        graph: the model.
        cluster: with links as a file says; what they attain is worked out here.
        job: precision and optimizer.
        execution: what the software does, recomputation apart.
        chains: of the graph; what they have cut already is not cut again.
    """

    def __init__(
        self,
        graph: DistributedGraph,
        cluster: Cluster,
        job: Job,
        execution: Execution | None = None,
        chains: Chains | None = None,
    ) -> None:
        self.graph, self.job = graph, job
        self.parameters = parameters_on(cluster)
        self.fabric = Fabric(attained(cluster, self.parameters))
        own = execution or paddle_execution(job, cluster)
        self.pricings = {
            policy: StepPricing(graph, cluster, replace(own, recompute=Recompute(what=COMPUTED_AGAIN[policy])))
            for policy in RECOMPUTE
        }
        # a cut does not depend on what is computed again
        cuts = CutBlocks(graph, by_tensor=own.by_tensor, stretches=True)
        if chains is not None:
            cuts.know(chains.exact_blocks())
        for pricing in self.pricings.values():
            pricing.cuts, pricing.fabric = cuts, self.fabric
        self._loads: dict[tuple[object, ...], list[LayerLoad]] = {}
        self._memory: dict[tuple[object, ...], MemoryLoad] = {}
        self._uncut: set[tuple[int, ...]] = set()

    def loads(self, inner: Inner, device: DeviceType) -> list[LayerLoad]:
        """What each block of the graph brings to a rank.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        if inner.degrees in self._uncut:
            raise BadInput(
                f"tensor {inner.tensor}, context {inner.context}, expert {inner.expert} do not cut {inner.rows} rows"
            )
        key = (inner.degrees, inner.recompute, device.name)
        if key not in self._loads:
            try:
                self._load(inner)
            except BadInput:
                self._uncut.add(inner.degrees)
                raise
        return self._loads[key]

    def _load(self, inner: Inner) -> None:
        """Prices the blocks on every device under every policy at once."""
        first, every = self.pricings[inner.recompute], list(self.pricings.values())
        for index in range(len(self.graph.blocks)):
            block = first.block(index, inner.degrees)
            keys = [first.load_key(index, inner.degrees, device) for device in self._types]
            if keys[0] not in first._loads:
                on = passes_under(block, self._types, [pricing.execution for pricing in every])
                load = layer_load(block, on[0][0], later_weights(block, first.execution))
                for key, under in zip(keys, on, strict=True):
                    for pricing, passes in zip(every, under, strict=True):
                        pricing._loads[key] = replace(load, passes=passes)
        for device, (policy, pricing) in product(self._types, self.pricings.items()):
            self._loads[inner.degrees, policy, device.name] = [
                pricing.load(index, inner.degrees, device) for index in range(len(self.graph.blocks))
            ]

    @cached_property
    def _types(self) -> list[DeviceType]:
        return list({group.device.name: group.device for group in self.fabric.cluster.groups}.values())

    def memory(self, inner: Inner) -> tuple[MemoryLoad, ...]:
        """What each block holds on a rank."""
        return tuple(self._held(index, inner) for index in range(len(self.graph.blocks)))

    def pricing(self, inner: Inner) -> StepPricing:
        """What prices whole plans of that inner half, with what its layers hold."""
        pricing = self.pricings[inner.recompute]
        if inner.degrees not in pricing.held:
            blocks = self.memory(inner)
            pricing.held[inner.degrees] = tuple(blocks[index] for index in self.graph.layers)
        return pricing if inner.layers == ALL else ByStage(self.pricings)

    def _held(self, index: int, inner: Inner) -> MemoryLoad:
        pricing = self.pricings[inner.recompute]
        block_key = pricing.cuts.key(index, inner.degrees)
        key = (*block_key, inner.recompute)
        if key not in self._memory:
            block = pricing.block(index, inner.degrees)
            under = activations_under(block, [each.execution for each in self.pricings.values()])
            load = memory_load(block, under[0])
            for policy, kept in zip(self.pricings, under, strict=True):
                self._memory[(*block_key, policy)] = replace(load, activations=kept)
        return self._memory[key]

    def seconds(
        self,
        inner: Inner,
        device: DeviceType,
        axes: Axes,
        sharding: Sharding,
        micro_batches: int,
        *,
        host: HostShare,
        slow: float = 1.0,
    ) -> LayerSeconds:
        """Seconds of every layer where its ranks meet as in `axes`, and have so much of their hosts."""
        loads, replicas = self.loads(inner, device), self.replicas(inner, device, axes, sharding, micro_batches, host)
        pricing = self.pricings[inner.recompute]
        copied = (
            [m.activations.kept for m in self.memory(inner)] if holds_activations(inner.offload) else [0.0] * len(loads)
        )
        both = [pricing._layer(load, replicas, slow, size) for load, size in zip(loads, copied, strict=True)]
        adds_s = [slow * replicas.adds_seconds([(load, 1)]) for load in loads]
        again_s = [slow * load.passes.again.kernels_s for load in loads]
        return LayerSeconds(
            forward_s=self.spread([f.total_s for f, _ in both]),
            backward_s=self.spread(
                [b.total_s + more + again for (_, b), more, again in zip(both, adds_s, again_s, strict=True)]
            ),
            weight_s=self.spread([slow * replicas.later_seconds([(load, 1)]) for load in loads]),
            sets_s=self.spread([slow * replicas.sets_seconds([(load, 1)]) for load in loads]),
            border_bytes=self.spread([load.border_bytes for load in loads]),
        )

    def replicas(
        self,
        inner: Inner,
        device: DeviceType,
        axes: Axes,
        sharding: Sharding,
        micro_batches: int,
        host: HostShare,
    ) -> Replicas:
        """The replicas of a stage of a way."""
        stub = Stage(
            layers=(0, 1),
            replicas=(Replica(ranks=(0,), tensor_shares=(1,), micro_batch_rows=inner.rows),),
            context=inner.context,
            expert=inner.expert,
            sharding=sharding,
            offload=inner.offload,
        )
        return Replicas(
            stage=stub,
            micro_batches=micro_batches,
            axes=axes,
            device=device,
            execution=self.pricings[inner.recompute].execution,
            parameters=self.parameters,
            host=host,
        )

    @cached_property
    def _blocks(self) -> NDArray[np.int64]:
        return np.array(self.graph.layers)

    def spread(self, by_block: Sequence[float]) -> Floats:
        """[layers]: what each layer has of a figure of the blocks."""
        return np.array(by_block, dtype=float)[self._blocks]
