"""What the benchmarks that sample share: problems, the tiny policy on a real vLLM engine, and fresh prefix caches."""

import itertools
from collections.abc import Iterator

import msgspec

from processors.chat import Chat, resolve
from processors.engine_vllm import VllmEngine
from processors.grading import Grader
from processors.policy import Generator
from processors.search_driver import Driver
from producers.sources.gym import Gym
from schemas.messages import Problem, Weights
from schemas.search_settings import SearchSection
from schemas.settings import Settings
from schemas.tiny_problems import CHAIN_SUM, COUNTDOWN

CONTEXT = 512
CHAINS = {"short": {**CHAIN_SUM, "max_terms": 7}, "long": {**CHAIN_SUM, "min_terms": 9}}


class Labels:
    """The same weights under any number of names: a prefix cache never crosses names, so each variant starts cold."""

    def __init__(self) -> None:
        self._path = resolve("tiny")
        self._count = itertools.count()
        self._known: dict[str, Weights] = {}
        self.trusted: set[str] = set()
        """The engine's, which would miss these names in the files."""

    def fresh(self) -> Weights:
        """The tiny policy under a name that was not used before."""
        sha = f"label-{next(self._count)}"
        self._known[sha] = Weights(policy="policy", version=0, parent=-1, path=self._path, sha256=sha, trainer="base")
        self.trusted.add(sha)
        return self._known[sha]

    def by_sha(self, sha: str) -> Weights | None:
        """As processors.policy.Catalog."""
        return self._known.get(sha)


class Silent:
    """A status that nobody reads."""

    def add(self, *, records: int = 0, errors: int = 0, tokens: int = 0) -> None:
        """As processors.policy.Reporter."""

    def set(self, **fields: object) -> None:
        """As processors.policy.Reporter."""


class Bench:
    """An engine, a grader, and drivers for any search settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.labels = settings, Labels()
        self.chat = Chat(resolve("tiny"), settings.policy)
        self.engine = VllmEngine(settings, self.labels, Silent(), self.chat)
        self.labels.trusted = self.engine.trusted
        self.grader = Grader(settings)

    def driver(self, search: SearchSection, engine: Generator | None = None) -> Driver:
        """The factory's own driver for these search settings, on the shared engine or on a wrapper around it."""
        settings = msgspec.structs.replace(self.settings, search=search)
        return Driver(settings, engine or self.engine, self.grader, self.chat, context=CONTEXT)

    def close(self) -> None:
        """End the engine and the grader."""
        self.engine.close()
        self.grader.close()


def countdown(count: int, seed: int) -> list[Problem]:
    """Problems of the tiny policy's countdown."""
    return _take(Gym("countdown", COUNTDOWN, seed), count)


def chains(count: int, seed: int, length: str) -> list[Problem]:
    """Chains of sums of one length: 'short' are 7 terms, 'long' are 9."""
    return _take(Gym("chain_sum", CHAINS[length], seed), count)


def mixed(count: int, seed: int) -> list[Problem]:
    """Both families in turn: other lengths, other difficulties."""
    pairs: Iterator[tuple[Problem, Problem]] = zip(
        countdown(count, seed), _take(Gym("chain_sum", CHAIN_SUM, seed), count), strict=True
    )
    return list(itertools.chain.from_iterable(pairs))[:count]


def _take(gym: Gym, count: int) -> list[Problem]:
    problems = (item.problem for item in gym.items() if item.problem is not None)
    return list(itertools.islice(problems, count))
