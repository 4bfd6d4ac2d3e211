"""A policy of a few words for testing the search: random but reproducible, with every oddity a real one shows."""

import random
import re
from typing import Any, TypeVar

import msgspec

from processors.chat import STEP_END
from processors.mcts import Mcts
from processors.sampling import Sampling
from processors.strategy import Ask, Check, Strategy
from schemas.search_settings import SearchSection

PIECES = ["", "a", " b", " c", "\n", "\n\n", ".\n\n", "Answer: ", "1", "2", "3", "But wait", "?", " So", "yes", "no"]
S = TypeVar("S", bound=Strategy)
EOS, NEWLINE, BLANK, DOT, ANSWER = 0, 4, 5, 6, 7


class Said(msgspec.Struct, frozen=True):
    token_ids: list[int]
    logprobs: list[float]
    finish: str


class Mark(msgspec.Struct, frozen=True):
    outcome: Any
    answer: str


class Words:
    """A tokenizer whose tokens are PIECES."""

    def decode(self, token_ids: list[int]) -> str:
        return "".join(PIECES[token] for token in token_ids)

    def encode(self, text: str) -> list[int]:
        assert text == STEP_END
        return [BLANK]

    def prompt_ids(self, question: str) -> list[int]:
        return [12, 12, 1] if "correct?" not in question else [12, 12, 2]


class Policy:
    """Answers asks from their seed alone, as an engine does with seeded requests; remembers what it heard and said."""

    def __init__(self, seed: int = 0, reflects: float = 0.05, ends: float = 0.05) -> None:
        self.seed, self.reflects, self.ends = seed, reflects, ends
        self.asks: list[Ask] = []
        self.said: list[list[int]] = []

    def answer(self, ask: Ask) -> Said:
        rng = random.Random(f"{self.seed} {ask.seed}")
        tokens: list[int] = []
        finish = "length"
        while len(tokens) < ask.max_tokens:
            tokens.append(self.next(rng, ask.prompt_ids + tokens))
            text = "".join(PIECES[token] for token in tokens)
            if tokens[-1] == EOS or any(stop in text for stop in ask.stop):
                finish = "stop"
                break
        self.asks.append(ask)
        self.said.append(ask.prompt_ids + tokens)
        return Said(tokens, [-rng.random() for _ in tokens], finish)

    def next(self, rng: random.Random, context: list[int]) -> int:
        last = context[-1]
        if last == ANSWER:
            return rng.choice([8, 9, 10])
        if context[-2:-1] == [ANSWER]:
            return rng.choice([EOS, BLANK])
        if rng.random() < self.ends:
            return EOS
        if last in {BLANK, DOT, 12} or rng.random() < 0.1:
            return 11 if rng.random() < self.reflects else rng.choice([1, 2, 3, ANSWER, ANSWER])
        return rng.choice([1, 2, 3, 13, NEWLINE, BLANK, BLANK, DOT, 14, 15])


class Cycle(Policy):
    """Says the given responses, in turn, cut at the stop string."""

    def __init__(self, *texts: list[int]) -> None:
        super().__init__()
        self.texts = texts

    def answer(self, ask: Ask) -> Said:
        tokens = self.texts[len(self.asks) % len(self.texts)]
        self.asks.append(ask)
        for count in range(1, len(tokens) + 1):
            if any(stop in Words().decode(tokens[:count]) for stop in ask.stop):
                tokens = tokens[:count]
                break
        self.said.append(ask.prompt_ids + tokens)
        return Said(tokens, [-1.0] * len(tokens), "stop")


def grade(check: Check) -> Mark:
    answers = re.findall(r"Answer: (\d+)", check.text)
    if not answers:
        return Mark("unparsable", "")
    return Mark("correct" if answers[-1] == "1" else "wrong", answers[-1])


def new_search(settings: SearchSection, seed: int = 0, context: int = 400, enough_wrong: int = 3) -> Mcts:
    return Mcts("q", Words(), settings, seed=seed, context=context, enough_wrong=enough_wrong)


def new_sampling(settings: SearchSection, seed: int = 0, context: int = 400, enough_wrong: int = 3) -> Sampling:
    return Sampling("q", Words(), settings, seed=seed, context=context, enough_wrong=enough_wrong)


def drive(search: S, policy: Policy, each: Any = None) -> S:
    run = search.run()
    batch = next(run, None)
    while batch is not None:
        if each is not None:
            each(search)
        answers = [policy.answer(item) if isinstance(item, Ask) else grade(item) for item in batch]
        try:
            batch = run.send(answers)
        except StopIteration:
            break
    return search
