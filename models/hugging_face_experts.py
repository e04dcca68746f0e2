"""Which keys the `config.json` of each family of decoders with experts has, and the mixture that they mean.

As hugging_face_families.py, whose dense families these extend: names and defaults are those of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, Field

from nebula.errors import BadInput
from nebula.models.decoders_parts import DENSE, Experts, LatentAttention
from nebula.models.hugging_face_families import REMEDY, Count, Ernie45, Family, Mistral, Qwen3
from nebula.validation import Whole


def mixture(family: Family, keys: tuple[str, str, str], moe_layers: Sequence[bool], *, shared: int = 0) -> Experts:
    """The experts that three keys of a family describe.

    Args:
        family: the keys.
        keys: names of those of the number of experts, of how many see a token, and of their inner width.
        moe_layers: for each layer whether it has experts.
        shared: experts that see every token.

    Raises:
        BadInput: the keys contradict each other, or one is missing.
    """
    count, top_k, width = (getattr(family, key) for key in keys)
    missing = next((key for key in keys if getattr(family, key) is None), "")
    if missing:
        raise BadInput(f"{keys[0]} is {count} and the key {missing!r} is missing; add it, or take {keys[0]} out")
    if top_k > count:
        raise BadInput(f"{keys[1]} {top_k} > {keys[0]} {count}: a token cannot see more experts than there are")
    if not any(moe_layers):
        raise BadInput(f"{keys[0]} is {count}, but no layer of {len(moe_layers)} has experts; see which layers should")
    first = moe_layers.index(True)
    dense = tuple(i for i in range(first, len(moe_layers)) if not moe_layers[i])
    return Experts(count=count, top_k=top_k, ffn=width, shared=shared, dense_layers=first, dense_also=dense)


class Mixtral(Mistral):
    """Mixtral: `mixtral`; `intermediate_size` is an expert's."""

    sliding_window: Count | None = None
    num_local_experts: Count = 8
    num_experts_per_tok: Count = 2

    def experts(self) -> Experts:
        """In every layer."""
        keys = ("num_local_experts", "num_experts_per_tok", "intermediate_size")
        return mixture(self, keys, [True] * self.num_hidden_layers)


class Qwen3Moe(Qwen3):
    """Qwen3 with experts: `qwen3_moe`; `intermediate_size` is that of the layers without."""

    head_dim: Count | None = None
    num_experts: Count = Field(
        validation_alias=AliasChoices("num_experts", "num_local_experts"), description="<experts>"
    )
    num_experts_per_tok: Count = Field(description="<experts that see a token>")
    moe_intermediate_size: Count = Field(description="<inner width of an expert>")
    decoder_sparse_step: Count = 1
    mlp_only_layers: list[Whole] | None = None

    def experts(self) -> Experts:
        """In every `decoder_sparse_step`-th layer but those of `mlp_only_layers`."""
        dense, step = self.mlp_only_layers or [], self.decoder_sparse_step
        moe_layers = [i not in dense and (i + 1) % step == 0 for i in range(self.num_hidden_layers)]
        return mixture(self, ("num_experts", "num_experts_per_tok", "moe_intermediate_size"), moe_layers)


class Deepseek(Family):
    """DeepSeek V2, V3 and R1: `deepseek_v2`, `deepseek_v3`."""

    num_key_value_heads: Count | None = None
    q_lora_rank: Count | None = Field(description="<width of compressed queries, or null>")
    kv_lora_rank: Count = Field(description="<width of compressed keys and values>")
    qk_nope_head_dim: Count = Field(description="<width of a key head without positions>")
    qk_rope_head_dim: Count = Field(description="<width of its part with positions>")
    v_head_dim: Count = Field(description="<width of a value head>")
    attention_bias: bool = False
    n_routed_experts: Count | None = None
    n_shared_experts: Annotated[Whole, Field(ge=0)] | None = None
    num_experts_per_tok: Count | None = None
    moe_intermediate_size: Count | None = None
    first_k_dense_replace: Annotated[Whole, Field(ge=0)] = 0
    moe_layer_freq: Count = 1

    def differing(self) -> dict[str, Any]:
        """Latent attention, in which every query head has keys of its own."""
        if self.attention_bias:
            raise BadInput(f"attention_bias is true: latent attention is described without biases; {REMEDY}")
        latent = LatentAttention(
            query_rank=self.q_lora_rank or 0,
            key_value_rank=self.kv_lora_rank,
            plain=self.qk_nope_head_dim,
            rotary=self.qk_rope_head_dim,
            value=self.v_head_dim,
        )
        return {"latent": latent, "kv_heads": self.num_attention_heads}

    def head_width(self) -> int:
        """Of a query and a key; `head_dim`, where a file has it, is the rotary part alone."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def experts(self) -> Experts:
        """In every `moe_layer_freq`-th layer behind the first, dense ones; without routed experts all are dense."""
        if self.n_routed_experts is None:
            return DENSE
        first, step = self.first_k_dense_replace, self.moe_layer_freq
        moe_layers = [i >= first and i % step == 0 for i in range(self.num_hidden_layers)]
        keys = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
        return mixture(self, keys, moe_layers, shared=self.n_shared_experts or 0)


class Ernie45Moe(Ernie45):
    """ERNIE 4.5 text models with experts: `ernie4_5_moe`."""

    head_dim: Count | None = None
    moe_num_experts: Count = Field(description="<experts>")
    moe_k: Count = Field(description="<experts that see a token>")
    moe_intermediate_size: Count = Field(description="<inner width of an expert>")
    moe_num_shared_experts: Annotated[Whole, Field(ge=0)] = 0
    moe_layer_start_index: Annotated[Whole, Field(ge=0)] = Field(description="<the first layer with experts>")
    moe_layer_end_index: Annotated[Whole, Field(ge=-1)] | None = None
    moe_layer_interval: Count = 1

    def experts(self) -> Experts:
        """From the start to the end index, in every `moe_layer_interval`-th layer; an end of -1 is the last layer."""
        first, last, step = self.moe_layer_start_index, self.moe_layer_end_index, self.moe_layer_interval
        end = self.num_hidden_layers - 1 if last in (None, -1) else last
        moe_layers = [first <= i <= end and (i + 1) % step == 0 for i in range(self.num_hidden_layers)]
        keys = ("moe_num_experts", "moe_k", "moe_intermediate_size")
        return mixture(self, keys, moe_layers, shared=self.moe_num_shared_experts)
