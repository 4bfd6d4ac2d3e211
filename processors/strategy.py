"""What every search strategy shares, as generators: requests and their seeds, verdicts, votes, the reasons to stop.

Pure on purpose: no engine, no broker, no event loop and no clock, so that the same answers give the same tree and each
strategy is property-tested with a scripted policy. A strategy yields batches (all Ask, or all Check) and is sent their
answers in order; whoever drives it (search_driver.py) may have any number of trees in the engine at once. The tree is
consistent at every yield, so it can be published when time is up.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar, cast

import msgspec

from processors.adaptive import excluded
from processors.answers import answer_key
from processors.chat import STEP_END
from processors.mcts_tree import Arena, Branch
from processors.steps import Sampled, Speaker
from schemas.messages import Outcome
from schemas.search_settings import SearchSection


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to sample from the policy."""

    prompt_ids: list[int]
    max_tokens: int
    seed: int
    stop: list[str] = []


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One text whose answer is to be graded."""

    text: str


class Graded(Protocol):
    """What a grader answers to a Check (processors/grading.py's Verdict is one)."""

    @property
    def outcome(self) -> Outcome:
        """The verdict."""

    @property
    def answer(self) -> str:
        """The answer it read."""


Batch = list[Ask] | list[Check]
Answers = Sequence[Sampled] | Sequence[Graded]
R = TypeVar("R")
Talk = Generator[Batch, Answers, R]
VOTE_TOKENS = 64
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class Strategy(ABC):
    """One tree. Drive `run()`: send it the answers to each batch, in order and of the same length.

    Args:
        question: the problem's text (for the votes).
        speaker: tokenizer and chat format.
        settings: the [search] section.
        seed: every request's own seed derives from it and the request's number.
        context: tokens that prompt and response may have together.
        enough_wrong: distinct wrong answers at which a solved tree stops.

    Raises:
        ValueError: for a prompt that leaves no room for a step.
    """

    def __init__(
        self, question: str, speaker: Speaker, settings: SearchSection, *, seed: int, context: int, enough_wrong: int
    ) -> None:
        self.question, self.speaker, self.settings = question, speaker, settings
        self.seed, self.context, self.enough_wrong = seed, context, enough_wrong
        self.prompt = speaker.prompt_ids(question)
        room = context - len(self.prompt)
        if room < settings.step_tokens:
            raise ValueError(f"a prompt of {len(self.prompt)} tokens leaves no room in a context of {context}")
        self.arena = Arena(settings, room)
        self.iterations = self.requests = self.generated_tokens = self.prompt_tokens = self.cuts = 0
        self.graded = self.graded_correct = self.ballots = 0
        self.stopped = ""
        """Why it ended: 'complete', 'too easy', 'out of reach', 'tokens', 'budget' or 'exhausted'."""

    @abstractmethod
    def run(self) -> Talk[None]:
        """The search, to its end."""

    @property
    def solved(self) -> bool:
        """A correct terminal exists, that passed the votes where votes are on."""
        return any(node.verdict == "correct" and self._passed(node) for node in self.arena.nodes)

    def enough(self) -> str:
        """Why the tree should stop now, '' where it should go on (rules in adaptive.py, each behind its setting)."""
        settings, wrong = self.settings, self.graded - self.graded_correct
        if settings.stop_early and self.solved:
            answers = {answer_key(node.answer) for node in self.arena.nodes if node.verdict == "wrong"}
            if len(answers) >= self.enough_wrong:
                return "complete"
        if settings.adaptive:
            if excluded(self.graded_correct, self.graded, settings.reach):
                return "out of reach"
            if excluded(wrong, self.graded, settings.easy) and self.solved:
                return "too easy"
        return "tokens" if 0 < settings.max_tokens <= self.generated_tokens else ""

    def _passed(self, node: Branch) -> bool:
        return node.votes >= self.settings.votes and node.votes_yes == node.votes

    def _vote(self) -> Talk[None]:
        """Ask the policy, settings.votes times, whether each new correct solution is right."""
        pending = [node for node in self.arena.nodes if node.verdict == "correct" and node.votes < self.settings.votes]
        voting = [(node, self._ballots(node)) for node in pending]
        said = iter((yield from self._ask([ask for _, asks in voting for ask in asks])))
        for node, asks in voting:
            votes = [says_yes(self.speaker.decode(next(said).token_ids)) for _ in asks]
            node.votes, node.votes_yes = len(votes), sum(votes)

    def _ballots(self, node: Branch) -> list[Ask]:
        solution = STEP_END.join(step.text for step in node.path()[1:])
        prompt = self.speaker.prompt_ids(vote_question(self.question, solution))
        limit = min(VOTE_TOKENS, self.context - len(prompt))
        count = self.settings.votes if limit > 0 else 0
        return [self._request(prompt, limit, [], ballot=True) for _ in range(count)]

    def _request(self, prompt: list[int], max_tokens: int, stop: list[str], *, ballot: bool = False) -> Ask:
        """Votes have numbers of their own, so that asking for them changes no sample."""
        number = f"vote:{self.ballots}" if ballot else self.requests - self.ballots
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        self.requests += 1
        self.ballots += ballot
        return Ask(prompt_ids=prompt, max_tokens=max_tokens, seed=int.from_bytes(digest[:4], "big"), stop=stop)

    def _ask(self, asks: list[Ask]) -> Talk[list[Sampled]]:
        if not asks:
            return []
        answers = list(cast("Sequence[Sampled]", (yield asks)))
        assert len(answers) == len(asks)
        self.prompt_tokens += sum(len(ask.prompt_ids) for ask in asks)
        self.generated_tokens += sum(len(answer.token_ids) for answer in answers)
        return answers

    def _check(self, checks: list[Check]) -> Talk[list[Graded]]:
        if not checks:
            return []
        answers = list(cast("Sequence[Graded]", (yield checks)))
        assert len(answers) == len(checks)
        self.graded += len(answers)
        self.graded_correct += sum(answer.outcome == "correct" for answer in answers)
        return answers


def vote_question(question: str, solution: str) -> str:
    """What the policy is asked about its own solution."""
    return f"{question}\n\nProposed solution:\n{solution}\n\nIs this solution correct? Reply with yes or no only."


def says_yes(reply: str) -> bool:
    """The last yes or no of a reply; none of them is a no."""
    words = _YES_NO.findall(reply)
    return bool(words) and words[-1].lower() == "yes"
