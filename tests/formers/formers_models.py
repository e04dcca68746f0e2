"""Models of PaddleFormers at the size of a toy, as its users make them; none of their code is changed."""

import functools

import own_models
from paddleformers.transformers import Ernie4_5Config, Ernie4_5ForCausalLM, LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": own_models.VOCABULARY,
    "hidden_size": own_models.WIDTH,
    "intermediate_size": 2 * own_models.WIDTH,
    "num_hidden_layers": own_models.BLOCKS,
    "num_attention_heads": own_models.HEADS,
    "num_key_value_heads": own_models.HEADS // 2,
    "max_position_embeddings": 64,
    # these two train on any device; the fused ones on GPUs alone
    "fuse_rms_norm": False,
    "_attn_implementation": "eager",
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))


def ernie(tied=False):
    return Ernie4_5ForCausalLM(Ernie4_5Config(**SIZES, head_dim=8, tie_word_embeddings=tied))


OWN = {
    "llama": own_models.Own(llama),
    "ernie 4.5": own_models.Own(ernie),
    "ernie 4.5 tied": own_models.Own(functools.partial(ernie, tied=True)),
}
LAYERS = dict.fromkeys(OWN, own_models.BLOCKS + 3)
