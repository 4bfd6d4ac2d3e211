"""Where training starts: ordinary random weights, and among them a laid-out circuit for copying.

To copy, a transformer needs one head that looks at the token before and, a layer on, one that looks for the place where
its own token stood before and takes what followed (an induction head: Olsson et al. 2022, arXiv 2209.11895). A small
model finds these two by itself only after more tokens than minutes on two cores can give (measured here: with these
weights the loss after 140 steps was below that of 700 steps without), so they are given; everything is trained from
there on. The idea of structured first weights is from Trockman and Kolter (2023, arXiv 2305.09828); this one is ours.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.llama.modeling_llama import LlamaAttention

SPREAD = 0.5
"""Standard deviation of the embeddings."""
CONSTANT = 2.0
"""Value of dimension 0 of every embedding: what heads that look at a fixed distance read."""
SHARPNESS = 25.0
"""Squared length of such a head's query in each of its frequencies."""
OFFSETS = (1, 2, 3)
"""How far back the first layer's heads look."""
MATCHERS = (1, 2)
"""Layers whose head 0 looks for its own token's earlier place."""
FREQUENCIES = 6
"""How many of the fastest rotations a head at a fixed distance uses."""
MATCH = 1.7
"""Strength of their queries and keys."""
PERIODS = (2, 3, 5, 7, 10, 16, 25, 50, 100, 200, 400)
"""Circles on which numbers are laid out."""
FINAL_GAIN = 0.1
"""Of the last norm, so that the first predictions are near even."""


def lay_out(model: "PreTrainedModel", numbers: Mapping[int, int], seed: int) -> None:
    """Fills the weights of a LlamaForCausalLM with at least two layers, in place.

    Args:
        model: the model.
        numbers: the value of each token that is a number.
        seed: of the random part.
    """
    import torch

    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.normal_(std=0.1 * weight.shape[1] ** -0.5, generator=noise)
            elif name.endswith("_proj.weight"):
                weight.normal_(std=weight.shape[1] ** -0.5, generator=noise)
        embedding = model.model.embed_tokens.weight
        embedding.normal_(std=SPREAD, generator=noise)
        _numbers(embedding, numbers, noise)
        embedding[:, 0] = CONSTANT
        model.model.norm.weight.fill_(FINAL_GAIN)
        _copying(model, noise)


def _numbers(embedding: "torch.Tensor", numbers: Mapping[int, int], noise: "torch.Generator") -> None:
    """Tokens of one value are half alike, and a few dimensions of each tell the value as angles on circles.

    Sums are turns on such circles; networks that learn to add find this form by themselves, late (Nanda et al. 2023,
    arXiv 2301.05217).
    """
    import torch

    ids = torch.tensor(list(numbers))
    values = torch.tensor(list(numbers.values()))
    shared = torch.randn(int(values.max() - values.min()) + 1, embedding.shape[1], generator=noise) * SPREAD
    embedding[ids] = 0.5**0.5 * (embedding[ids] + shared[values - values.min()])
    for place, period in enumerate(PERIODS):
        angle = 2 * torch.pi * values / period
        embedding[ids, 1 + 2 * place] = 2**0.5 * SPREAD * torch.cos(angle)
        embedding[ids, 2 + 2 * place] = 2**0.5 * SPREAD * torch.sin(angle)


def _copying(model: "PreTrainedModel", noise: "torch.Generator") -> None:
    import torch

    size = model.config.head_dim
    hidden = model.config.hidden_size
    basis = torch.linalg.qr(torch.randn(hidden - 1, hidden - 1, generator=noise))[0]
    # Orthonormal rows that leave dimension 0 alone; the last one is empty, for want of a further dimension.
    basis = torch.nn.functional.pad(basis, (1, 0, 0, 1))
    said, before = basis[:size], basis[size : 2 * size]  # where a token stands, where the one before it will stand
    first = model.model.layers[0].self_attn
    for head, offset in enumerate(OFFSETS[: model.config.num_attention_heads]):
        _look_back(first, head, offset, size)
    first.v_proj.weight[:size] = said
    first.o_proj.weight[:, :size] = before.T
    earlier = torch.zeros_like(said)  # where the token before that will stand, as far as there is room
    room = min(size, max(0, hidden - 1 - 2 * size))
    earlier[:room] = basis[2 * size : 2 * size + room]
    if model.config.num_attention_heads > 1:
        first.v_proj.weight[size : 2 * size] = said
        first.o_proj.weight[:, size : 2 * size] = earlier.T
    # The slower half of the rotations: what they compare survives distance. In the second matcher a half of that half
    # compares the tokens one further back: it finds where the last TWO tokens stood before.
    pairs = torch.arange(size // 4, size // 2)
    one, two = (torch.cat([half, half + size // 2]) for half in (pairs[::2], pairs[1::2]))
    both = torch.cat([one, two])
    for layer, strength in zip(MATCHERS[: len(model.model.layers) - 1], (MATCH, 1.2 * MATCH), strict=False):
        attention = model.model.layers[layer].self_attn
        attention.q_proj.weight[:size] = 0.0
        attention.k_proj.weight[:size] = 0.0
        attention.q_proj.weight[both] = strength * said[both]
        attention.k_proj.weight[both] = strength * before[both]
        if layer > 1:
            attention.q_proj.weight[two] = strength * before[two]
            attention.k_proj.weight[two] = strength * earlier[two]
        attention.v_proj.weight[:size] = said
        attention.o_proj.weight[:, :size] = said.T
    if model.config.num_attention_heads > 1:  # one that looks for other places of the token before: is it the target?
        attention = model.model.layers[1].self_attn
        rows = slice(size, 2 * size)
        for projection, read in ((attention.q_proj, before), (attention.k_proj, said)):
            projection.weight[rows] = 0.0
            projection.weight[both + size] = MATCH * read[both]
        attention.v_proj.weight[rows] = before
        attention.o_proj.weight[:, rows] *= 5.0


def _look_back(attention: "LlamaAttention", head: int, offset: int, size: int) -> None:
    """Makes a head look at the token `offset` before: its scores are the sum of cos(w (distance - offset))."""
    import torch

    half = size // 2
    speeds = 10_000.0 ** (-torch.arange(half) / half)
    length = SHARPNESS**0.5 / (CONSTANT / SPREAD)
    used = (torch.arange(half) < FREQUENCIES).float() * length
    rows = slice(head * size, (head + 1) * size)
    for projection, turn in ((attention.q_proj, 0.0), (attention.k_proj, float(offset))):
        projection.weight[rows] *= 0.3
        projection.weight[rows, 0] = torch.cat([used * torch.cos(speeds * turn), used * torch.sin(speeds * turn)])
