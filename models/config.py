"""What an ERNIE 3.0 model is made of, as a value: its modules, vocabulary, lengths, and the parameters they add up to.

A config describes shapes alone. How the shapes compute stands in ernie.py; which figures belong to which published
model stands in presets.py. An impossible shape is refused when the value is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.errors import BadInput

MASKED_SHARE = 0.15
"""Share of a knowledge-masked sequence that the model has to restore (BERT, arXiv 1810.04805, section 3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleConfig:
    """A stack of equal Transformer layers.

    Attributes:
        layers: how many.
        hidden: width of the residual stream.
        heads: attention heads; they divide `hidden`.
        ffn: width between the two matrices of the feed-forward part.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "ffn"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} = {getattr(self, name)}: a module needs {name} of 1 or more")
        if self.hidden % self.heads:
            raise BadInput(
                f"hidden {self.hidden} % heads {self.heads} = {self.hidden % self.heads}: "
                "heads must divide hidden, change one of the two"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def matrix_parameters(self) -> int:
        """Elements of the attention and feed-forward matrices, biases apart: layers * (4 h^2 + 2 h ffn)."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.ffn)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErnieConfig:
    """One model of the ERNIE 3.0 family (arXiv 2107.02137, 2112.12731).

    Attributes:
        universal: the module that every task shares.
        nlu: the bidirectional task module.
        nlg: the causal task module; as wide as `nlu`, because both share one border tensor.
        vocabulary: entries of the tokenizer.
        seq_len: tokens of one sequence, S.
        memory_length: tokens of the previous segment that the document half attends to; 0 is no memory.
        max_distance: relative distances beyond it share one position bias.
        dropout: probability after attention and after the feed-forward part.
        biases: whether linears add a bias.
    """

    universal: ModuleConfig
    nlu: ModuleConfig
    nlg: ModuleConfig
    vocabulary: int
    seq_len: int
    memory_length: int = 0
    max_distance: int = 128
    dropout: float = 0.0
    biases: bool = True

    def __post_init__(self) -> None:
        if self.nlu.hidden != self.nlg.hidden:
            raise BadInput(
                f"nlu.hidden {self.nlu.hidden} != nlg.hidden {self.nlg.hidden}: "
                "the two task modules share one border tensor, give them one width"
            )
        if not 0 <= self.memory_length <= self.seq_len:
            raise BadInput(
                f"memory_length {self.memory_length} is outside 0..{self.seq_len} (seq_len): "
                "the memory is the end of one segment"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise BadInput(f"dropout {self.dropout} is outside [0, 1)")
        if self.vocabulary < 1 or self.seq_len < 2 or self.max_distance < 1:
            raise BadInput(
                f"vocabulary {self.vocabulary}, seq_len {self.seq_len}, max_distance {self.max_distance}: "
                "they must be at least 1, 2 and 1"
            )

    @property
    def masked_per_row(self) -> int:
        """Tokens of one knowledge-masked sequence that are restored; the same for every row."""
        return masked_count(self.seq_len)

    @property
    def task_layers(self) -> int:
        """Chain elements of the task modules: NLU layer i and NLG layer i share one."""
        return max(self.nlu.layers, self.nlg.layers)


def masked_count(seq_len: int) -> int:
    """How many of `seq_len` tokens are masked: 15 %, rounded, at least one.

    >>> masked_count(64), masked_count(512)
    (10, 77)
    """
    return max(1, round(MASKED_SHARE * seq_len))
