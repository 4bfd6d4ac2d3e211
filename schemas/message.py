"""What every message is made from: the base of all, ids, and the problem that most of them carry."""

import hashlib
from typing import Literal

import msgspec

Outcome = Literal["correct", "wrong", "unparsable", "timeout", "rejected"]
Grader = str
"""countdown, numeric, math, text, gym, or one that a package adds (schemas/plugins.py)."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages; unknown or missing fields are refused at decoding."""


def content_id(*parts: object) -> str:
    """The first 20 hex digits of the sha256 over the parts, each length-prefixed so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:20]


class Problem(Message, frozen=True, kw_only=True):
    """A question with a gold answer."""

    id: str
    """content_id(source, question, answer): the same question is the same problem, wherever and whenever it is
    produced."""
    question: str
    """As the policy is asked it."""
    answer: str
    """The gold answer, or one of several where the grader takes others (countdown)."""
    grader: Grader = "math"
    """Which grader's verdicts count: countdown, numeric, math, text, gym, or one that a package adds."""
    source: str
    """Where it came from: 'countdown', 'chain_sum', 'gsm8k_train', ..."""
    index: int = 0
    """Position within its source (generator index or line number), for resuming."""
    difficulty: float = 0.0
    """The source's own measure, in its own unit; 0 where it has none."""
    metadata: str = ""
    """JSON for the grader, never evaluated. countdown: {"numbers": [...], "target": n}; gym: gym_graders.Scored."""
