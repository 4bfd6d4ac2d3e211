"""Sampled tokens read as steps: where a step ends, whether it answers, and which tokens are its own.

Search, rollouts and adopted paths must agree on this to the token, because a state is the prompt plus the tokens
of its path, never a re-tokenised text. So every text here is decoded from tokens, and every cut is made between them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Protocol

import msgspec

from processors.chat import RESERVED, STEP_END, cut_reserved, states_answer


class Sampled(Protocol):
    """What an engine answers to one request (processors/policy.py's Completion is one)."""

    @property
    def token_ids(self) -> list[int]:
        """The sampled tokens, the ones that completed the stop string or ended the response included."""

    @property
    def logprobs(self) -> list[float]:
        """One a token, in nats."""

    @property
    def finish(self) -> str:
        """'stop' for a stop string or the end token, 'length' for the limit."""


class Speaker(Protocol):
    """The policy's tokenizer and chat format (processors/chat.py's Chat is one)."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""

    def prompt_ids(self, question: str) -> list[int]:
        """The prompt that asks `question`."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a solution."""

    text: str
    """Decoded from token_ids, without the newlines around it; '' for a response that ended at once."""
    token_ids: list[int]
    """Delimiter included."""
    logprob: float
    """Mean log-probability (nats) of the sampled tokens that were kept."""
    end: Literal["delimiter", "eos", "length"]
    cut: bool = False

    @property
    def answers(self) -> bool:
        """Whether it states a final answer, which makes its node terminal."""
        return states_answer(self.text)

    @property
    def dead(self) -> bool:
        """Whether it can neither be graded nor extended: the response ended, or the step never did."""
        return not self.answers and self.end != "delimiter"


def mean(values: Sequence[float]) -> float:
    """The mean, 0 for nothing."""
    return sum(values) / len(values) if values else 0.0


def tidy(piece: str) -> str:
    """A step's text from the text of its tokens."""
    return piece.lstrip("\n").rstrip()


def _end(piece: str, finish: str) -> Literal["delimiter", "eos", "length"]:
    if STEP_END in piece:
        return "delimiter"
    return "length" if finish == "length" else "eos"


def read_step(sampled: Sampled, speaker: Speaker) -> Step | None:
    r"""The step in a completion that was sampled with stop "\n\n".

    A step that holds a reserved phrase ends before it: tokens from the first that begins at or past the cut (moved
    back over white space, because a word's token often begins with its blank) are dropped, and the delimiter's own
    tokens are put behind the kept ones, the one place where tokens are encoded and not sampled: without them the
    state would end inside a step, and its next step would be empty.

    Returns:
        None for an empty step (a bare delimiter, or nothing before a reserved phrase): it would change no state.
    """
    piece = speaker.decode(sampled.token_ids)
    kept, cut = cut_reserved(piece)
    if cut:
        length = len(kept.rstrip())
        starts = [len(text) for text in prefixes(sampled.token_ids, speaker)[:-1]]
        count = sum(start < length for start in starts)
        if not tidy(kept):
            return None
        own, ids = sampled.token_ids[:count], speaker.encode(STEP_END)
        logprob = mean(sampled.logprobs[:count])
        return Step(text=tidy(kept), token_ids=[*own, *ids], logprob=logprob, end="delimiter", cut=True)
    end = _end(piece, sampled.finish)
    if not piece.strip() and end != "eos":
        return None
    return Step(text=tidy(piece), token_ids=list(sampled.token_ids), logprob=mean(sampled.logprobs), end=end)


def prefixes(token_ids: list[int], speaker: Speaker) -> list[str]:
    """The texts of the first 0, 1, ..., n tokens; an unfinished character at an end is left out."""
    return [speaker.decode(token_ids[:count]).rstrip("\ufffd") for count in range(len(token_ids) + 1)]


def split(sampled: Sampled, speaker: Speaker) -> list[Step]:
    """A rollout as the steps that one-by-one sampling would have given, up to the first that answers.

    A step ends with the token that completes a blank line, as it does where the engine stops there; a token that
    reaches past the blank line belongs wholly to the earlier step, and leading newlines to the step they precede.
    """
    texts = prefixes(sampled.token_ids, speaker)
    bounds = [0]
    for count, text in enumerate(texts):
        if STEP_END in text[len(texts[bounds[-1]]) :].lstrip("\n"):
            bounds.append(count)
    if bounds[-1] < len(sampled.token_ids):
        bounds.append(len(sampled.token_ids))
    steps: list[Step] = []
    for start, stop in pairwise(bounds):
        piece = texts[stop][len(texts[start]) :]
        steps.append(
            Step(
                text=tidy(piece),
                token_ids=sampled.token_ids[start:stop],
                logprob=mean(sampled.logprobs[start:stop]),
                end=_end(piece.lstrip("\n"), sampled.finish),
            )
        )
        if steps[-1].answers:
            break
    return steps


def reflects(text: str) -> bool:
    """Whether a reserved phrase occurs in the text."""
    return any(phrase in text for phrase in RESERVED)


def final_text(text: str) -> str:
    """The part of a rollout that is graded: up to its first answer, where its path in a tree would end.

    A rollout that reflects is graded whole: it may take its first answer back, and its value is whether the policy
    gets there.
    """
    if reflects(text):
        return text
    paragraphs = text.split(STEP_END)
    for count, paragraph in enumerate(paragraphs, start=1):
        if states_answer(paragraph):
            return STEP_END.join(paragraphs[:count])
    return text
