"""Rows of different lengths become few dense batches, because a CPU or GPU wants rectangles.

Rows are sorted by length and cut into micro-batches of at most a token budget; each is padded on the right. Under
causal attention a token never sees what stands to its right, so padding needs no mask and documents cannot see each
other: no cross-contamination by construction. Measured on one core with a 1.8M-parameter Llama: 4,900 tok/s for
100-token rows this way against 1,700 tok/s for one packed row of 4,096 under a block mask (attention grows with the
square of a row, and small rows waste little once sorted).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor
EFFICIENT = 768
"""Tokens from which a larger micro-batch is not faster on a core."""
WASTE = 0.1


@dataclass(frozen=True)
class Row:
    """One document. Tokens ids[loss_from:] bear loss; the first token never does (nothing predicts it).

    Args:
        ids: token ids, prompt and response.
        loss_from: index of the first trained token.
        advantage: RL only: what each of its tokens is worth.
        behaviour: RL only: log-probs (nats) of ids[loss_from:] when they were sampled.
        temperature: RL only: of the distribution that they were sampled from.
    """

    ids: Sequence[int]
    loss_from: int = 1
    advantage: float = 0.0
    behaviour: Sequence[float] = field(default_factory=tuple)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.loss_from <= max(len(self.ids), 1):
            raise ValueError(f"loss_from {self.loss_from} lies outside 1..{len(self.ids)}")
        if self.behaviour and len(self.behaviour) != self.trained:
            raise ValueError(f"{len(self.behaviour)} log-probs for {self.trained} trained tokens")

    @property
    def trained(self) -> int:
        """How many of its tokens bear loss."""
        return max(len(self.ids) - self.loss_from, 0)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows padded to L; K = the trained tokens of all of them, row after row.

    Attributes:
        input_ids: int64 (B, L), zeros on the right.
        at_row, at_col: int64 (K,): where the logits stand that predict each trained token.
        targets: int64 (K,): the trained tokens.
        advantages, behaviour, temperatures: float32 (K,); behaviour is zero where rows carry none.
        rows: the B indices into the sequence that was packed.
    """

    input_ids: Tensor
    at_row: Tensor
    at_col: Tensor
    targets: Tensor
    advantages: Tensor
    behaviour: Tensor
    temperatures: Tensor
    rows: list[int]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def plan(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped into micro-batches, longest first, each of at most `budget` tokens padding included.

    A micro-batch that is large enough to be efficient takes no row that would be more than a tenth padding. A row
    longer than the budget stands alone. Deterministic: equal lengths keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    for index in order:
        width = lengths[groups[-1][0]] if groups else 0
        wasteful = groups and width * len(groups[-1]) >= EFFICIENT and lengths[index] < (1 - WASTE) * width
        if groups and not wasteful and width * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def pack(rows: Sequence[Row], budget: int) -> list[Batch]:
    """All rows that bear loss as micro-batches of at most `budget` padded tokens."""
    bearing = [index for index, row in enumerate(rows) if row.trained]
    groups = plan([len(rows[index].ids) for index in bearing], budget)
    return [_batch(rows, [bearing[position] for position in group]) for group in groups]


def _batch(rows: Sequence[Row], indices: list[int]) -> Batch:
    width = max(len(rows[index].ids) for index in indices)
    ids = np.zeros((len(indices), width), dtype=np.int64)
    for line, index in enumerate(indices):
        ids[line, : len(rows[index].ids)] = rows[index].ids
    counts = [rows[index].trained for index in indices]
    starts = [rows[index].loss_from for index in indices]
    at_row = np.repeat(np.arange(len(indices)), counts)
    columns = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, counts, strict=True)])
    behaviour = [rows[index].behaviour or [0.0] * rows[index].trained for index in indices]
    return Batch(
        input_ids=torch.from_numpy(ids),
        at_row=torch.from_numpy(at_row),
        at_col=torch.from_numpy(columns - 1),
        targets=torch.from_numpy(ids[at_row, columns]),
        advantages=torch.from_numpy(np.repeat([rows[i].advantage for i in indices], counts).astype(np.float32)),
        behaviour=torch.from_numpy(np.concatenate(behaviour).astype(np.float32)),
        temperatures=torch.from_numpy(np.repeat([rows[i].temperature for i in indices], counts).astype(np.float32)),
        rows=indices,
    )
