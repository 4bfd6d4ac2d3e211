"""The tiny policy's card: how it was made and what it can do, in numbers with their intervals."""

import msgspec

from trainers.tiny.architecture import Recipe
from trainers.tiny.exam import Grade


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run of the bootstrap found out."""

    recipe: Recipe
    parameters: int
    loss: float
    """Nats a token over the last tenth of the training."""
    threads: int
    seconds_training: float
    seconds: float
    """All together: teaching, examining, writing."""
    grades: dict[str, Grade]
    probes: dict[str, float]


def text(report: Report) -> str:
    """The card in Markdown."""
    return repr(report)
