"""How large a tiny policy is and how it is taught, as values: a recipe's hash decides whether it was cooked already."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from trainers.tiny import first_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LANGUAGE = 2
"""Raise it when documents or tokenizer change: cached policies are then made anew."""
CONTEXT = 512
"""Longest sequence in tokens, in training and afterwards."""
SHORT = 128
"""Length of most training rows: attention over long rows is what costs most."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the weights."""

    hidden: int = 192
    layers: int = 4
    heads: int = 3
    feed_forward: int = 448
    tokens: int = 3_900_000
    """Training tokens: the budget (not minutes, so that the same recipe gives the same policy)."""
    batch_tokens: int = 2048
    """Tokens a step: rows of CONTEXT in every fourth, else of SHORT."""
    lr: float = 0.01
    """Of Muon, for the matrices."""
    lr_embedding: float = 3e-3
    """Of AdamW, for embeddings and norms."""
    weight_decay: float = 0.01
    warmup: float = 0.04
    """Share of the steps."""
    early: float = 0.3
    """Share of the steps with EARLY_SHARES of documents."""
    seed: int = 0
    examined: int = 400
    """Held-out problems a family at the end."""
    probes: int = 100
    """Teacher-forced probes a kind and distance at the end."""
    language: int = LANGUAGE

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return max(1, self.tokens // self.batch_tokens)

    @property
    def sha(self) -> str:
        """The recipe's name in the cache."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


SIZES = {
    "tiny": Recipe(),
    "mini": Recipe(hidden=64, layers=2, heads=2, feed_forward=128, tokens=120_000, examined=16, probes=10),
}
"""'tiny' is the packaged policy; 'mini' is for tests: it learns the format and little else."""


def model(recipe: Recipe, vocabulary: int, end: int, pad: int, numbers: Mapping[int, int]) -> "PreTrainedModel":
    """A fresh float32 LlamaForCausalLM, its weights drawn from the recipe's seed.

    Args:
        recipe: the sizes.
        vocabulary: number of tokens.
        end: id of the token that ends a response.
        pad: id of the padding token.
        numbers: the value of each token that is a number.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=-(-vocabulary // 32) * 32,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        use_cache=True,
        factory_format="plain",
    )
    built = LlamaForCausalLM(config)
    first_weights.lay_out(built, numbers, recipe.seed)
    return built


def is_matrix(name: str) -> bool:
    """Whether a parameter is a layer's matrix (not an embedding or a norm)."""
    return name.endswith("_proj.weight")
