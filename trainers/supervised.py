"""What SFT computes, without a process around it: the next-token loss and its gradient, on a rank's share of a step."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from schemas.settings import Settings
from trainers import model as policy
from trainers import objectives
from trainers.learner import Learned, Learner
from trainers.packing import Packing, Row, pack
from trainers.ranks import ALONE, Ranks


class SftLearner(Learner):
    """SFT's model on this rank."""

    def __init__(self, settings: Settings, ranks: Ranks) -> None:
        super().__init__(settings, "sft", ranks)
        step, row = settings.sft.batch_tokens, settings.sft.max_len
        self.check(max(step // row, 1), f"sft.batch_tokens = {step} holds {step // row} rows of sft.max_len = {row}")

    def update(self, shares: Sequence[Sequence[Row]], lr: float) -> Learned:
        """One optimizer step on the one share."""
        ((rows,), settings) = (shares, self.settings.sft)
        loss = train(
            self.model,
            rows,
            budget=settings.micro,
            total=sum(row.trained for row in rows),
            dtype=settings.dtype,
            packing=settings.packing,
            ranks=self.ranks,
        )
        return Learned(loss, self.apply(loss, lr))


def train(
    model: Any,  # noqa: ANN401 - transformers has no types
    rows: Sequence[Row],
    *,
    budget: int,
    total: int,
    dtype: str,
    packing: Literal["auto", Packing] = "auto",
    ranks: Ranks = ALONE,
) -> float:
    """Accumulate the gradient of the mean next-token loss over `total` trained tokens; returns the loss (nats).

    With several ranks each does its share; FSDP2 makes the mean of their gradients, which is wanted as a sum.
    """
    parts = []
    how = policy.packing(model, packing)
    for batch in pack(rows, budget, how, rank=ranks.rank, world=ranks.world):
        here = batch.to(model.device)
        logp = policy.target_logp(policy.forward(model, here, dtype=dtype), here.targets)
        part = objectives.next_token_loss(logp, total)
        (part * ranks.world if ranks.world > 1 else part).backward()  # type: ignore[no-untyped-call]
        parts.append(part.detach())
    return ranks.sum({"loss": float(torch.stack(parts).sum(dtype=torch.float64))})["loss"]
