"""Rows of different lengths become few dense batches, because a CPU or GPU wants rectangles.

'padded': rows are sorted by length and cut into micro-batches of at most a token budget; each is padded on the right.
Under causal attention a token never sees what stands to its right, so padding needs no mask and documents cannot see
each other: no cross-contamination by construction. Measured on one core with a 1.8M-parameter Llama: 4,900 tok/s for
100-token rows this way against 1,700 tok/s for one packed row of 4,096 under a block mask (attention grows with the
square of a row, and small rows waste little once sorted).

'packed': rows stand end to end as one row. Position ids begin again with each, from which transformers makes the mask
that keeps them apart; for attention that skips what is masked (a GPU's), where no token shall be padding.

Several ranks share a step: rows are dealt out by length, and every rank gets as many micro-batches, because each is a
collective of all; where a rank has fewer, empty ones follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

Tensor = torch.Tensor
Packing = Literal["padded", "packed"]
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
    """A micro-batch of B rows padded to L (packed: B = 1); K = the trained tokens of all of them, row after row.

    Attributes:
        input_ids: int64 (B, L), zeros on the right.
        positions: int64 (1, L) when packed: of each token in its row; None when padded.
        at_row, at_col: int64 (K,): where the logits stand that predict each trained token.
        sequence: int64 (K,): which of `rows`, counted from 0, each trained token belongs to.
        targets: int64 (K,): the trained tokens.
        advantages, behaviour, temperatures: float32 (K,); behaviour is zero where rows carry none.
        rows: the B indices into the sequence that was packed.
    """

    input_ids: Tensor
    positions: Tensor | None
    at_row: Tensor
    at_col: Tensor
    sequence: Tensor
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


def fill(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped into packed rows of at most `budget` tokens: longest first, each into the first it fits in."""
    groups: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        at = next((at for at, room in enumerate(left) if room >= lengths[index]), len(groups))
        if at == len(groups):
            groups.append([])
            left.append(budget)
        groups[at].append(index)
        left[at] -= lengths[index]
    return groups


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices for each rank, the longest dealt first, so all get about the same lengths. One rank: all, in order."""
    if ranks == 1:
        return [list(range(len(lengths)))]
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[rank::ranks] for rank in range(ranks)]


def pack(rows: Sequence[Row], budget: int, how: Packing = "padded", *, rank: int = 0, world: int = 1) -> list[Batch]:
    """A rank's share of the rows that bear loss as micro-batches of at most `budget` tokens, padding included."""
    bearing = [index for index, row in enumerate(rows) if row.trained]
    hands = deal([len(rows[index].ids) for index in bearing], world)
    group = plan if how == "padded" else fill
    plans = [group([len(rows[bearing[at]].ids) for at in hand], budget) for hand in hands]
    batches = [_batch(rows, [bearing[hands[rank][at]] for at in indices], how) for indices in plans[rank]]
    return batches + [_batch([], [], how)] * (max(map(len, plans)) - len(batches))


def _batch(rows: Sequence[Row], indices: list[int], how: Packing) -> Batch:
    """The batch of these rows; of none, two tokens that bear no loss."""
    chosen = [rows[index] for index in indices]
    lengths = [len(row.ids) for row in chosen]
    packed = how == "packed"
    begins = np.cumsum([0, *lengths[:-1]]) if packed else np.zeros(len(chosen), dtype=np.int64)
    lines = np.zeros(len(chosen), dtype=np.int64) if packed else np.arange(len(chosen))
    shape = (1, sum(lengths)) if packed else (len(chosen), max(lengths, default=0))
    ids = np.zeros(shape if chosen else (1, 2), dtype=np.int64)
    for row, line, begin in zip(chosen, lines, begins, strict=False):
        ids[line, begin : begin + len(row.ids)] = row.ids
    counts = [row.trained for row in chosen]
    columns = [np.arange(row.loss_from, len(row.ids)) + begin for row, begin in zip(chosen, begins, strict=False)]
    at_row, at_col = np.repeat(lines, counts), np.concatenate([*columns, np.zeros(0, dtype=np.int64)])
    positions = np.concatenate([np.arange(n) for n in lengths or [2]])[None] if packed else None
    behaviour = [row.behaviour or [0.0] * row.trained for row in chosen]
    return Batch(
        input_ids=torch.from_numpy(ids),
        positions=None if positions is None else torch.from_numpy(positions),
        at_row=torch.from_numpy(at_row),
        at_col=torch.from_numpy(at_col - 1),
        sequence=torch.from_numpy(np.repeat(np.arange(len(chosen)), counts)),
        targets=torch.from_numpy(ids[at_row, at_col]),
        advantages=torch.from_numpy(np.repeat([row.advantage for row in chosen], counts).astype(np.float32)),
        behaviour=torch.from_numpy(np.concatenate([*behaviour, []]).astype(np.float32)),
        temperatures=torch.from_numpy(np.repeat([row.temperature for row in chosen], counts).astype(np.float32)),
        rows=indices,
    )
