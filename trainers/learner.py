"""The model and its optimizer on one rank, and all that is done with them: the part of a trainer that every rank runs.

Each act on rank 0 is also an order to the other ranks, which then do the same: the collectives of FSDP2 inside it meet
on all of them. With one rank there is nobody to tell, and nothing here knows the difference.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from schemas.settings import Settings
from schemas.training_settings import RlSection, SftSection
from trainers import checkpoint
from trainers import model as policy
from trainers.packing import Row
from trainers.ranks import Ranks, WorldDoesNotFit


class Load(msgspec.Struct, frozen=True, tag=True):
    """Open a model directory and, where there is one, a checkpoint."""

    base: str
    checkpoint: str


class Learn(msgspec.Struct, frozen=True, tag=True):
    """Train on these rows; each share is one optimizer step."""

    shares: Sequence[Sequence[Row]]
    lr: float


class Save(msgspec.Struct, frozen=True, tag=True):
    """Write this rank's part of a checkpoint into a directory that is there."""

    directory: str


class Gather(msgspec.Struct, frozen=True, tag=True):
    """Hand over each parameter to be written as a version."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Nothing more comes."""


Order = Load | Learn | Save | Gather | Stop


class Learned(msgspec.Struct, frozen=True):
    """What came of a `Learn`: the loss, the largest gradient norm, and (RL) the sums of objectives.sums."""

    loss: float
    norm: float
    sums: dict[str, float] = {}


class Learner:
    """A trainer's model on this rank.

    Args:
        settings: all of them.
        trainer: whose section of them.
        ranks: this process among its like.
    """

    def __init__(self, settings: Settings, trainer: Literal["sft", "rl"], ranks: Ranks) -> None:
        self.settings, self.trainer, self.ranks = settings, trainer, ranks
        self.section: SftSection | RlSection = settings.sft if trainer == "sft" else settings.rl
        self.model: Any = None
        self.optimizer: Any = None

    def check(self, most: int, why: str) -> None:
        """Refuse more ranks than a step has work for.

        Raises:
            WorldDoesNotFit: naming the settings in question.
        """
        if self.ranks.world > most:
            raise WorldDoesNotFit(f"{self.ranks.world} ranks are too many: {why}; start {most} ranks or fewer")

    def tell(self, order: Order) -> None:
        """Rank 0: let the others do the same."""
        if self.ranks.leads:
            self.ranks.tell(msgspec.msgpack.encode(order))

    def opened(self, base: str) -> Any:  # noqa: ANN401
        """A model as the section wants it, this rank's share of it."""
        section, alone = self.section, self.ranks.world == 1
        device = None if alone else "cpu"
        model = policy.load(base, attention=section.attention, compiled=section.compile, device=device)
        policy.packing(model, section.packing)  # or it is refused now
        blocks = policy.fit(model, checkpointing=section.checkpointing, compiled=section.compile, alone=alone)
        self.ranks.shard(model, blocks)
        return model

    def load(self, base: str, path: Path | None = None) -> None:
        """Begin from a model directory, or from the checkpoint of a run that began there."""
        self.tell(Load(base, str(path or "")))
        policy.prepare(self.section.threads, self.settings.factory.seed)
        self.model = self.opened(base)
        self.optimizer = policy.optimizer(self.model, lr=self.section.lr, weight_decay=self.section.weight_decay)
        if path:
            checkpoint.restore(path, self.model, self.optimizer, self.ranks)

    def learn(self, shares: Sequence[Sequence[Row]], lr: float) -> Learned:
        """An optimizer step on each share, at this learning rate.

        Raises:
            FloatingPointError: for a loss or gradient that is not finite, on every rank; the weights stay as they were
                before that optimizer step.
        """
        self.tell(Learn(shares, lr))
        return self.update(shares, lr)

    def update(self, shares: Sequence[Sequence[Row]], lr: float) -> Learned:
        """`learn` on this rank."""
        raise NotImplementedError

    def apply(self, loss: float, lr: float) -> float:
        """The optimizer step for a loss (of all ranks) whose gradient is there. Returns the gradient's norm."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        return policy.apply_gradients(self.model, self.optimizer, lr=lr, clip=self.section.grad_clip)

    def save(self, root: Path, state: checkpoint.State) -> Path:
        """Rank 0: a checkpoint, to which every rank writes its part. Returns its directory."""

        def together(directory: Path) -> None:
            self.tell(Save(str(directory)))
            self.write(directory)

        return checkpoint.save(root, state, together)

    def write(self, directory: Path) -> None:
        """This rank's part of a checkpoint; back when all have written theirs."""
        checkpoint.write(directory, self.model, self.optimizer, self.ranks)
        self.ranks.meet()

    def gather(self) -> None:
        """The others' part of a publication: rank 0 asks for each parameter as a whole, in order."""
        self.tell(Gather())
        if self.ranks.rank:
            for parameter in self.model.parameters():
                policy.whole(parameter)

    def free(self) -> None:
        """Let the model go; the other ranks end."""
        self.model = self.optimizer = None
        with contextlib.suppress(RuntimeError):  # the others may be gone, which is why we end
            self.tell(Stop())
        self.ranks = Ranks()

    def follow(self) -> None:
        """The others' whole life: do as rank 0 says until it says stop, or is gone."""
        while not isinstance(order := msgspec.msgpack.decode(self.ranks.hear(), type=Order), Stop):
            match order:
                case Load(base, path):
                    self.load(base, Path(path) if path else None)
                case Learn(shares, lr):
                    with contextlib.suppress(FloatingPointError):  # rank 0 has met it too, and says what follows
                        self.update(shares, lr)
                case Save(directory):
                    self.write(Path(directory))
                case Gather():
                    self.gather()
