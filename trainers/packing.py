"""Rows of different lengths become few dense batches, because a CPU or GPU wants rectangles.

'lines': rows stand end to end in lines of one width, so a micro-batch has little padding and one of few shapes: a CPU
generates code for each new shape of a matrix product, which takes longer than many a product (measured with bfloat16 on
a Xeon with AMX: rows of the same number 100 us, of ever new numbers 1,100 us). Position ids begin again with each row;
a mask keeps them apart, in a line and so over `width` columns only. Widths are 4 to 7 times a power of two.

'padded': rows are sorted by length and cut into micro-batches of at most a token budget; each is padded on the right.
Under causal attention a token never sees what stands to its right, so padding needs no mask and documents cannot see
each other: no cross-contamination by construction, for any model.

'packed': rows stand end to end as one row. Position ids begin again with each, from which transformers makes the mask
that keeps them apart; for attention that skips what is masked (a GPU's), where no token shall be padding.

Several ranks share a step: rows are dealt out by length, and every rank gets as many micro-batches, because each is a
collective of all; where a rank has fewer, empty ones follow.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

Tensor = torch.Tensor
Packing = Literal["lines", "padded", "packed"]
EFFICIENT = 768
"""Tokens from which a larger micro-batch is not faster on a core."""
WASTE = 0.1
NARROW = 64
"""Tokens of the narrowest line."""
LINEAR = 384
"""A token costs as much beside attention as attention over so many columns (measured with the tiny policy)."""


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
    """A micro-batch of B lines of width L (packed: B = 1); K = the trained tokens of all its rows, row after row.

    Attributes:
        input_ids: int64 (B, L), zeros on the right.
        positions: int64 (B, L): of each token in its row, padding counted as one more; None when padded.
        at_row, at_col: int64 (K,): where the logits stand that predict each trained token.
        sequence: int64 (K,): which of `rows`, counted from 0, each trained token belongs to.
        targets: int64 (K,): the trained tokens.
        advantages, behaviour, temperatures: float32 (K,); behaviour is zero where rows carry none.
        rows: the indices into the sequence that was packed, line after line.
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


def stack(lengths: Sequence[int], budget: int) -> list[tuple[int, list[list[int]]]]:
    """Indices grouped into micro-batches of lines: each its width, and the rows of each line.

    A micro-batch has at most `budget` tokens, padding included; a row longer than the budget stands alone. Its width is
    the one, from that of the longest row left to twice as much, at which its rows cost least. Deterministic.
    """
    left = sorted((length, -index) for index, length in enumerate(lengths))
    made = []
    while left:
        tried = [(width, *_lines(left, width, max(budget // width, 1))) for width in _widths(left[-1][0], budget)]
        width, lines, left = max(tried, key=lambda one: _worth(lengths, one[0], one[1]))
        made.append((width, lines))
    return made


def _widths(longest: int, budget: int) -> list[int]:
    """The widths to try for rows of which this is the longest."""
    found, size = [], NARROW // 4
    while 4 * size <= max(2 * longest, NARROW):
        found += [size * times for times in range(4, 8) if longest <= size * times <= max(2 * longest, NARROW)]
        size *= 2
    return [width for width in found if width <= budget] or [max(longest, budget)]


def _lines(rows: list[tuple[int, int]], width: int, most: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """At most so many lines, each the longest row left and then the longest that still fits; and the rows left.

    Args:
        rows: (length, -index), ascending.
        width: of a line, in tokens.
        most: lines.
    """
    left, lines = list(rows), list[list[int]]()
    while left and len(lines) < most:
        room, line = width, list[int]()
        while at := bisect_right(left, (room, 0)):
            length, index = left.pop(at - 1)
            room -= length
            line.append(-index)
        lines.append(line)
    return lines, left


def _worth(lengths: Sequence[int], width: int, lines: list[list[int]]) -> float:
    """Tokens of rows by what their lines cost."""
    return sum(lengths[index] for line in lines for index in line) / (len(lines) * width * (LINEAR + width))


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
    plans = [_layout([len(rows[bearing[at]].ids) for at in hand], budget, how) for hand in hands]
    mine = [(width, [[bearing[hands[rank][at]] for at in line] for line in lines]) for width, lines in plans[rank]]
    empty = _batch([], 2, [[]], how)
    return [_batch(rows, *one, how) for one in mine] + [empty] * (max(map(len, plans)) - len(mine))


def _layout(lengths: Sequence[int], budget: int, how: Packing) -> list[tuple[int, list[list[int]]]]:
    """Micro-batches: the width of their lines, and the indices of the rows of each line."""
    if how == "lines":
        return stack(lengths, budget)
    if how == "packed":
        return [(sum(lengths[index] for index in line), [line]) for line in fill(lengths, budget)]
    return [(lengths[group[0]], [[index] for index in group]) for group in plan(lengths, budget)]


def _batch(rows: Sequence[Row], width: int, lines: list[list[int]], how: Packing) -> Batch:
    """The batch of these lines of rows."""
    ids = np.zeros((len(lines), width), dtype=np.int64)
    positions = np.zeros_like(ids)
    none = np.zeros(0, dtype=np.int64)
    chosen, at_row, at_col = list[Row](), list[np.ndarray](), list[np.ndarray]()
    for number, line in enumerate(lines):
        begin = 0
        for index in line:
            row = rows[index]
            end = begin + len(row.ids)
            ids[number, begin:end] = row.ids
            positions[number, begin:end] = np.arange(len(row.ids))
            at_row.append(np.full(row.trained, number))
            at_col.append(np.arange(begin + row.loss_from, end))
            chosen.append(row)
            begin = end
        positions[number, begin:] = np.arange(width - begin)
    counts = [row.trained for row in chosen]
    line_of, column = np.concatenate([none, *at_row]), np.concatenate([none, *at_col])
    behaviour = [row.behaviour or [0.0] * row.trained for row in chosen]
    return Batch(
        input_ids=torch.from_numpy(ids),
        positions=None if how == "padded" else torch.from_numpy(positions),
        at_row=torch.from_numpy(line_of),
        at_col=torch.from_numpy(column - 1),
        sequence=torch.from_numpy(np.repeat(np.arange(len(chosen)), counts)),
        targets=torch.from_numpy(ids[line_of, column]),
        advantages=torch.from_numpy(np.repeat([row.advantage for row in chosen], counts).astype(np.float32)),
        behaviour=torch.from_numpy(np.concatenate([*behaviour, []]).astype(np.float32)),
        temperatures=torch.from_numpy(np.repeat([row.temperature for row in chosen], counts).astype(np.float32)),
        rows=[index for line in lines for index in line],
    )
