"""Which keys the `config.json` of each dense family of decoders has, and the decoder that they mean.

Names and defaults are those of the config classes of Hugging Face's transformers; a key without a default there, or
whose default is one model's size, must be given. A shape that a decoder here cannot have is refused. Families with
experts stand in hugging_face_experts.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nebula.errors import BadInput
from nebula.models.decoders import BIASED, DecoderConfig
from nebula.models.decoders_parts import DENSE, Experts
from nebula.validation import Whole

Count = Annotated[Whole, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
MOST_LAYERS = 10_000
"""More layers than this are taken for a mistake."""

SILU = ("silu", "swish")
GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
ATTENTION = ("query key value", "out")
REMEDY = "give the model as a Paddle layer with model.layer"


class Family(BaseModel):
    """What all families share; keys that no shape depends on are ignored."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: Count = Field(description="<entries of the tokenizer>")
    hidden_size: Count = Field(description="<width of the residual stream>")
    num_hidden_layers: Annotated[Count, Field(le=MOST_LAYERS)] = Field(description="<layers>")
    num_attention_heads: Count = Field(description="<query heads>")
    num_key_value_heads: Count | None = Field(description="<key and value heads>")
    intermediate_size: Count = Field(description="<inner width of the feed-forward part>")
    max_position_embeddings: Count = Field(description="<tokens of the longest context>")
    head_dim: Count | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False

    @property
    def context(self) -> int:
        """Tokens of the longest context."""
        return self.max_position_embeddings

    def decoder(self, seq_len: int) -> DecoderConfig:
        """The decoder for rows of `seq_len` tokens.

        Raises:
            BadInput: keys contradict each other, or ask for what no decoder here has.
        """
        shape: dict[str, Any] = {
            "style": self.style(),
            "layers": self.num_hidden_layers,
            "hidden": self.hidden_size,
            "heads": self.num_attention_heads,
            "kv_heads": self._shared_heads(),
            "ffn": self.intermediate_size,
            "vocabulary": self.vocab_size,
            "head_width": self.head_width(),
            "tied": self.tie_word_embeddings,
            "experts": self.experts(),
        }
        return DecoderConfig(**(shape | self.differing() | {"seq_len": seq_len}))

    def style(self) -> str:
        """The style of the activation; experts have swiglu alone."""
        if self.hidden_act in SILU:
            return "llama"
        if self.hidden_act in GELU and not self.experts().count:
            return "gemma"
        raise BadInput(f"hidden_act {self.hidden_act!r} is not described, {', '.join((*SILU, *GELU))} are; {REMEDY}")

    def experts(self) -> Experts:
        """The mixture in place of dense feed-forward parts."""
        return DENSE

    def differing(self) -> dict[str, Any]:
        """Attributes of the decoder that the family sets in its own way."""
        return {}

    def _shared_heads(self) -> int:
        heads, shared = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if heads % shared:
            rest = f"{self.key('num_attention_heads')} {heads} % num_key_value_heads {shared} = {heads % shared}"
            raise BadInput(f"{rest}: each key head serves equally many query heads; change one of the two")
        return shared

    def head_width(self) -> int:
        """Width of one head; 0: hidden over heads."""
        hidden, heads = self.hidden_size, self.num_attention_heads
        if not self.head_dim and hidden % heads:
            rest = f"{self.key('hidden_size')} {hidden} % {self.key('num_attention_heads')} {heads} = {hidden % heads}"
            raise BadInput(f"{rest}: heads divide the width unless head_dim is given; change one of the two")
        return self.head_dim or 0

    def key(self, name: str) -> str:
        """What the file calls a field."""
        return type(self).model_fields[name].alias or name


class Llama(Family):
    """Llama 1 to 3: `llama`."""

    num_key_value_heads: Count | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    def differing(self) -> dict[str, Any]:
        """Biases."""
        return {"biased": (*(ATTENTION if self.attention_bias else ()), *(("ffn",) if self.mlp_bias else ()))}


class Mistral(Family):
    """Mistral 7B and its successors: `mistral`."""

    sliding_window: Count | None = 4096

    def differing(self) -> dict[str, Any]:
        """The window of every layer."""
        return {"window": self.sliding_window or 0}


class Qwen2(Family):
    """Qwen2 and Qwen2.5: `qwen2`; queries, keys and values have biases."""

    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: Annotated[Whole, Field(ge=0)] = 28
    layer_types: list[str] | None = None

    def differing(self) -> dict[str, Any]:
        """Biases and windows."""
        return {"biased": BIASED[:1], **self.windows()}

    def windows(self) -> dict[str, Any]:
        """The window and the layers without it: as `layer_types` lists them, else those before `max_window_layers`."""
        window = self.sliding_window or 0
        if not self.use_sliding_window or not window:
            return {}
        layers = self.num_hidden_layers
        kinds = self.layer_types or [
            "full_attention" if i < self.max_window_layers else "sliding_attention" for i in range(layers)
        ]
        if len(kinds) != layers:
            raise BadInput(f"layer_types lists {len(kinds)} layers, num_hidden_layers is {layers}; make them equal")
        return {"window": window, "unwindowed": tuple(i for i, k in enumerate(kinds) if k != "sliding_attention")}


class Qwen3(Qwen2):
    """Qwen3, dense: `qwen3`; heads of queries and keys are normalised."""

    head_dim: Count | None = 128
    attention_bias: bool = False

    def differing(self) -> dict[str, Any]:
        """Norms, biases and windows."""
        return {"query_key_norm": True, "biased": ATTENTION if self.attention_bias else (), **self.windows()}


class Gemma(Family):
    """Gemma 1: `gemma`; its scaling of embeddings, one pass over an activation, is left out."""

    head_dim: Count | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True


class Ernie45(Family):
    """ERNIE 4.5 text models, dense: `ernie4_5`."""

    head_dim: Count | None = 128
    tie_word_embeddings: bool = True
    use_bias: bool = False

    def differing(self) -> dict[str, Any]:
        """None but biases, which would stand in the projection to the vocabulary too."""
        if self.use_bias:
            raise BadInput(f"use_bias is true: ERNIE 4.5 is described without biases; {REMEDY}")
        return {}


class Gpt2(Family):
    """GPT-2: `gpt2`; learned positions, biases everywhere, a projection tied to the embedding."""

    hidden_size: Count = Field(alias="n_embd", description="<width of the residual stream>")
    num_hidden_layers: Annotated[Count, Field(le=MOST_LAYERS)] = Field(alias="n_layer", description="<layers>")
    num_attention_heads: Count = Field(alias="n_head", description="<heads>")
    max_position_embeddings: Count = Field(alias="n_positions", description="<entries of the table of positions>")
    num_key_value_heads: Count | None = None
    # null means four times the width
    intermediate_size: Count | None = Field(default=None, alias="n_inner")  # type: ignore[assignment]
    hidden_act: str = Field(default="gelu_new", alias="activation_function")
    resid_pdrop: Rate = 0.1
    tie_word_embeddings: bool = True

    def style(self) -> str:
        """GPT's own, whose activation is one form of GELU."""
        if self.hidden_act not in GELU:
            raise BadInput(f"activation_function {self.hidden_act!r} is not described, {', '.join(GELU)} are; {REMEDY}")
        return "gpt"

    def differing(self) -> dict[str, Any]:
        """Inner width, positions and dropout."""
        ffn = self.intermediate_size or 4 * self.hidden_size
        return {"ffn": ffn, "positions": self.max_position_embeddings, "dropout": self.resid_pdrop}
