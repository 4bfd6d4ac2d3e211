"""What graded samples say of a policy: pass@1, pass@k and maj@k with their intervals, as rows. Pure.

With n samples of a problem, c of them right, the estimates of one problem are

    pass@1 = c / n
    pass@k = 1 - C(n - c, k) / C(n, k)      the chance that k of the n, drawn without replacement, hold a right one:
                                            unbiased (Chen et al. 2021, arXiv 2107.03374, equation 1)
    maj@k  = the share of the n // k blocks of k consecutive samples whose majority is right

and a source's value is their mean over problems. Intervals are over problems, however many samples each has: samples
of one problem are not independent of each other.
"""

import time
from collections.abc import Callable, Sequence
from math import comb

import msgspec
import numpy as np

from processors.adaptive import wilson
from processors.answers import answer_key, rational, words
from processors.chat import count_backtracks
from processors.grading import Verdict
from schemas.messages import Answers, Evaluation, Problem, Weights, content_id
from schemas.settings import EvaluateSection, Settings
from trainers.samples import Sample

ALL = "all"
RESAMPLES = 1000
Values = list[float]


class Answered(msgspec.Struct, frozen=True):
    """One response to one problem and its verdict."""

    problem: Problem
    sample: Sample
    verdict: Verdict

    @property
    def correct(self) -> bool:
        """Whether it is right."""
        return self.verdict.outcome == "correct"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of one value in [0, 1] a problem; (0, 1) for no problem.

    Wilson where every value is 0 or 1 (one sample a problem) or all are equal (a bootstrap would claim certainty), else
    the percentile bootstrap over problems, 1,000 resamples, the same ones each time.
    """
    if len(set(values)) <= 1 or all(value in (0.0, 1.0) for value in values):
        return wilson(sum(values), len(values))
    rng, array = np.random.default_rng(0), np.asarray(values)
    means = np.sort([array[rng.integers(len(array), size=len(array))].mean() for _ in range(RESAMPLES)])
    return float(means[round(0.025 * (RESAMPLES - 1))]), float(means[round(0.975 * (RESAMPLES - 1))])


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, from `correct` right ones of `samples` >= k."""
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def vote(problem: Problem, answer: str) -> str:
    """What counts as the same answer in a majority: equal as the problem's grader reads it; '' is no vote.

    Of the grader 'math' only what answer_key makes equal is one answer, so its maj@k errs on the low side; expressions
    of countdown are compared as they are written.
    """
    if problem.grader == "text":
        return words(answer)
    number = rational(answer, units=True) if problem.grader == "numeric" else None
    return answer_key(answer) if number is None else f"{number.value}{'%' if number.percent else ''}"


def majority(votes: Sequence[tuple[str, bool]]) -> bool:
    """Whether the answer that most samples give is right.

    Args:
        votes: each sample's answer key and verdict. Of equally frequent answers the one seen first counts; an empty
            key is no vote, and where nobody votes nothing is right.
    """
    counts: dict[str, int] = {}
    right: dict[str, bool] = {}
    for key, correct in votes:
        if key:
            counts[key] = counts.get(key, 0) + 1
            right.setdefault(key, correct)
    return bool(counts) and right[max(counts, key=counts.__getitem__)]  # max gives the first of equals


def maj_at_k(votes: Sequence[tuple[str, bool]], k: int) -> float:
    """The share of right majorities over the blocks of k consecutive samples; a rest of fewer than k is left out."""
    blocks = [votes[at : at + k] for at in range(0, len(votes) - k + 1, k)]
    return sum(majority(block) for block in blocks) / len(blocks)


def asked(draws: Sequence[tuple[str, Problem]], section: EvaluateSection) -> str:
    """Names an evaluation: equal for the same samples of the same problems, graded and counted alike, in any order.

    Args:
        draws: the name of every sample (trainers.samples.draws) and its problem.
        section: of the settings; evaluate.ks counts.
    """
    parts = sorted(content_id(draw, one.id, one.answer, one.grader, one.metadata) for draw, one in draws)
    return content_id(*parts, "ks", *section.every_k())


def summarize(answered: Sequence[Answered], weights: Weights, settings: Settings, seconds: float) -> list[Evaluation]:
    """One row a source, and last the one for 'all' (the mean over every problem).

    Args:
        answered: settings.evaluate.samples responses to each problem, those of a problem in the order of their number.
        weights: whose responses they are.
        settings: evaluate, sample.
        seconds: how long it took.
    """
    sources = sorted({one.problem.source for one in answered})
    groups = [(source, [one for one in answered if one.problem.source == source]) for source in sources]
    return [_row(source, group, weights, settings, seconds) for source, group in [*groups, (ALL, list(answered))]]


def tell(answered: Sequence[Answered], weights: Weights, settings: Settings) -> list[Answers]:
    """The answers themselves, a row a problem.

    Args:
        answered: as for summarize.
        weights: whose responses they are.
        settings: evaluate.
    """
    name = asked([(one.sample.draw, one.problem) for one in answered], settings.evaluate)
    by_problem: dict[str, list[Answered]] = {}
    for one in answered:
        by_problem.setdefault(one.problem.id, []).append(one)
    return [
        Answers(
            id=content_id("answers", name, weights.version, weights.sha256, key),
            asked=name,
            policy=weights.policy,
            version=weights.version,
            sha=weights.sha256,
            trainer=weights.trainer,
            problem=group[0].problem,
            texts=[one.sample.text for one in group],
            verdicts=[one.verdict.outcome for one in group],
            tokens=[one.sample.tokens for one in group],
            backtracks=[count_backtracks(one.sample.text) for one in group],
            finishes=[one.sample.finish for one in group],
            time=time.time(),
        )
        for key, group in by_problem.items()
    ]


def _row(source: str, group: Sequence[Answered], weights: Weights, settings: Settings, seconds: float) -> Evaluation:
    by_problem: dict[str, list[Answered]] = {}
    for one in group:
        by_problem.setdefault(one.problem.id, []).append(one)
    problems = list(by_problem.values())
    section, count = settings.evaluate, max(1, len(group))
    name = asked([(one.sample.draw, one.problem) for one in group], section)
    ks = section.every_k()
    shares = _each(problems, lambda marks: pass_at_k(len(marks), sum(marks), 1))
    passed = [_each(problems, lambda marks, k=k: pass_at_k(len(marks), sum(marks), k)) for k in ks]  # type: ignore[misc]
    voted = [_voted(problems, k) for k in ks]
    return Evaluation(
        id=content_id(weights.policy, weights.version, weights.sha256, source, name),
        policy=weights.policy,
        version=weights.version,
        sha=weights.sha256,
        trainer=weights.trainer,
        source=source,
        asked=name,
        problems=len(problems),
        samples=section.samples,
        greedy=section.greedy,
        temperature=0.0 if section.greedy else settings.sample.temperature,
        max_tokens=section.max_tokens,
        pass_at_1=_mean(shares),
        low=interval(shares)[0],
        high=interval(shares)[1],
        ks=ks,
        pass_at_k=[_mean(values) for values in passed],
        pass_at_k_low=[interval(values)[0] for values in passed],
        pass_at_k_high=[interval(values)[1] for values in passed],
        maj_at_k=[_mean(values) for values in voted],
        maj_at_k_low=[interval(values)[0] for values in voted],
        maj_at_k_high=[interval(values)[1] for values in voted],
        tokens=sum(one.sample.tokens for one in group) / count,
        backtracks=sum(count_backtracks(one.sample.text) for one in group) / count,
        unparsable=sum(one.verdict.outcome == "unparsable" for one in group) / count,
        truncated=sum(one.sample.finish == "length" for one in group) / count,
        seconds=seconds,
        time=time.time(),
    )


def _each(problems: Sequence[Sequence[Answered]], estimate: Callable[[list[bool]], float]) -> Values:
    return [estimate([one.correct for one in group]) for group in problems]


def _voted(problems: Sequence[Sequence[Answered]], k: int) -> Values:
    return [maj_at_k([(vote(one.problem, one.verdict.answer), one.correct) for one in group], k) for group in problems]


def _mean(values: Values) -> float:
    return sum(values) / max(1, len(values))
