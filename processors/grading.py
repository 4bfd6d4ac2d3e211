r"""Whether a response is right, as one of five outcomes, however hostile the response is.

A ladder, cheapest first: string equality, exact rationals (processors/answers.py), and for the 'math' grader our own
rules and algebra (processors/grading_forms.py) and, where they do not decide, math-verify in processes that can be
killed (processors/grading_pool.py); there, too, run those of reasoning-gym's scorers that are safe (gym_graders.py) and
the graders that packages add (docs/extending.md).
The pool starts at its first use: most policies never pay for it. Outcomes are no bare bools: 'unparsable' (no readable
answer), 'timeout' and 'rejected' (refused unread by a guard, or the grading process died on it) are told apart from
'wrong'.
"""

import asyncio
import re
import time

import msgspec

from processors import countdown
from processors.answers import answer_key, extract_answer, normal, rational, words
from processors.grading_forms import compare
from processors.grading_pool import By, Pool
from processors.grading_stated import stated
from processors.gym_graders import may_score
from schemas import plugins
from schemas.messages import Grader as Kind
from schemas.messages import Outcome, Problem
from schemas.settings import Settings, VerifySection

__all__ = ["Grader", "Verdict", "answer_key", "extract_answer", "grade_fast", "guard", "reward"]

MAX_NESTING = 30
_OPEN, _CLOSE = "{([", "})]"
_DANGER = (
    re.compile(r"[0-9]{101}"),
    re.compile(r"(?:\^|\*\*)\s*[{(]*\s*[-+]?(?:[0-9]{5,}|[0-9]{1,3},[0-9]{3})"),
    re.compile(r"(?:\^|\*\*)\s*[{(]*\s*[-+]?[0-9.,]+\s*(?:\^|\*\*|!)"),
    re.compile(r"[0-9]{4,}[\s})]*!"),
    re.compile(r"![\s})]*!"),
    re.compile(r"![\s})]*(?:\^|\*\*)|(?:\^|\*\*)[^,;=]{0,40}!"),
    re.compile(r"\\[dt]?binom[\s{(]*[^}]{0,40}[0-9]{5,}|[0-9]{5,}\s*\\choose"),
    re.compile(r"[0-9](?:[0-9.,]|\s){0,40}[eE][-+]?[0-9]{4,}"),
)
"""Shapes whose evaluation costs seconds or gigabytes: towers, huge exponents, factorials, binomials."""


class Verdict(msgspec.Struct, frozen=True):
    """The outcome for one response, the answer it stated (cut to the limit) and the seconds the grading took."""

    outcome: Outcome
    answer: str
    seconds: float = 0.0


def reward(outcome: Outcome) -> float:
    """+1 for correct, -1 for everything else (docs/architecture.md, RL)."""
    return 1.0 if outcome == "correct" else -1.0


def grade_fast(problem: Problem, text: str, max_chars: int = VerifySection().max_answer_chars) -> Outcome | None:
    """The outcome of a response without math-verify, or None where only that can tell."""
    return _ladder(problem, extract_answer(text), max_chars)


def guard(answer: str) -> bool:
    """Whether an answer may go to a computer algebra system (the deadline and the memory limit come on top)."""
    depth = deepest = 0
    for character in answer:
        depth += (character in _OPEN) - (character in _CLOSE)
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING and not any(pattern.search(answer) for pattern in _DANGER)


def _ladder(problem: Problem, answer: str, max_chars: int) -> Outcome | None:
    if not answer:
        return "unparsable"
    if len(answer) > max_chars or len(problem.answer) > max_chars:
        return "rejected"
    if problem.grader == "countdown":
        return countdown.grade(problem.metadata, answer)
    if problem.grader == "text":
        return "correct" if words(answer) == words(problem.answer) != "" else "wrong"
    if problem.grader in ("numeric", "math"):
        return _numbers(answer, problem.answer, units=problem.grader == "numeric")
    return _by_scorer(problem, answer) if problem.grader == "gym" else None


def _by_scorer(problem: Problem, answer: str) -> Outcome | None:
    """Whether reasoning-gym's scorer must be asked; a problem file may name only those that are safe."""
    if not may_score(problem.metadata):
        return "rejected"
    return "correct" if answer == problem.answer else None


def _numbers(answer: str, gold: str, *, units: bool) -> Outcome | None:
    """Strings, then exact numbers; `units`: only numbers count ('numeric'), else math-verify comes next."""
    if normal(answer) == normal(gold):
        return "correct"
    said, wanted = rational(answer, units=units), rational(gold, units=units)
    if said is not None and wanted is not None:
        return "correct" if said.same(wanted) else "wrong"
    if units:
        return "unparsable" if said is None and wanted is not None else "wrong"
    if not (guard(answer) and guard(gold)):
        return "rejected"
    agrees = compare(gold, answer)
    return None if agrees is None else "correct" if agrees else "wrong"


def _by(problem: Problem) -> By:
    """Who judges where the ladder could not.

    Raises:
        BadPlugin: a grader that is not installed here.
    """
    if problem.grader in plugins.GRADERS.built_in:
        return By("gym", problem.metadata) if problem.grader == "gym" else By()
    if why := plugins.unknown(plugins.GRADERS, problem.grader):
        raise plugins.BadPlugin(why)
    return By(problem.grader, problem.metadata, problem.question)


class Grader:
    """Grades responses; safe to use from one event loop and from threads. `close()` ends its processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.verify
        self.pool = Pool(settings.verify)

    async def grade(self, problem: Problem, text: str) -> Verdict:
        """The verdict on one response.

        Raises:
            BadPlugin, GraderFailed: a grader that a package adds is not installed here, or has a defect.
            GraderBroken: where the grading process cannot be started at all.
        """
        return await self.judge(problem, extract_answer(text))

    async def grade_many(self, pairs: list[tuple[Problem, str]]) -> list[Verdict]:
        """The verdicts, one a pair and in the order of the pairs, whatever happens to single ones."""
        return list(await asyncio.gather(*(self.grade(problem, text) for problem, text in pairs)))

    async def grade_pair(self, gold: str, answer: str, kind: Kind = "math", metadata: str = "") -> Verdict:
        """The verdict on two texts from anywhere, each a bare answer or a whole solution (grading_stated.py)."""
        wanted = stated(gold) or gold.strip()
        problem = Problem(id="", question="", answer=wanted, grader=kind, source="", metadata=metadata)
        whole = len(answer) <= self.settings.max_answer_chars and words(answer) == words(wanted)
        return await self.judge(problem, answer.strip() if whole else stated(answer))

    async def judge(self, problem: Problem, answer: str) -> Verdict:
        """The verdict on an answer that was extracted already; `seconds` leaves out the wait for a free process."""
        start = time.perf_counter()
        outcome = _ladder(problem, answer, self.settings.max_answer_chars)
        seconds = time.perf_counter() - start
        if outcome is None:
            outcome, asked = await self.pool.ask(problem.answer, answer, _by(problem))
            seconds += asked
        return self._verdict(outcome, answer, seconds)

    def grade_sync(self, problem: Problem, text: str) -> Verdict:
        """As `grade`, for callers without an event loop; waits its turn for a grading process."""
        start = time.perf_counter()
        answer = extract_answer(text)
        outcome = _ladder(problem, answer, self.settings.max_answer_chars)
        if outcome is None:
            outcome = self.pool.ask_sync(problem.answer, answer, _by(problem))
        return self._verdict(outcome, answer, time.perf_counter() - start)

    def close(self) -> None:
        """End the grading processes; a later grade starts them again."""
        self.pool.close()

    def _verdict(self, outcome: Outcome, answer: str, seconds: float) -> Verdict:
        return Verdict(outcome, answer[: self.settings.max_answer_chars], seconds)
