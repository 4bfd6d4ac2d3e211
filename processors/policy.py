"""The policy as a thing one asks: requests in, completions out, whichever engine is behind.

Search, sampler and evaluator know only these types. A request names the sha256 of the weights it wants, because a tree
or an evaluation stays with the version it began with while training goes on; the engine queues by sha and switches.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from processors.chat import Chat, resolve
from schemas.errors import Told
from schemas.messages import Filtered, Weights, content_id
from schemas.settings import Settings

Finish = Literal["stop", "length", "abort"]
MISSING_S = 30.0
"""A directory that is not there is looked for again after this long: a shared disk may show it late."""


class EngineDied(RuntimeError):
    """The engine cannot go on; every request in it failed and the process should end."""


class EngineNotStarted(Told, RuntimeError):
    """The engine in this process could not be built (policy, engine.args, memory); the text says why."""


class EngineUnreachable(Told, RuntimeError):
    """No engine answers at engine.url; the text says what to do."""


class UnknownWeights(RuntimeError):
    """A request names weights that were never announced, or that this engine cannot load."""


class ProbeFailed(RuntimeError):
    """The engine's log-probs disagree with the trainer's: these weights are not what was announced."""


class NothingToServe(Told, RuntimeError):
    """A worker can serve no version that it may use: it is at fault and not its input, which stays uncommitted."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to sample.

    `seed` makes the tokens the same alone and in a crowd; `stop` strings end the response and their tokens stay in it;
    `temperature` 0 is greedy. The end-of-text token always ends a response and is its last token.
    """

    prompt_ids: list[int]
    max_tokens: int
    temperature: float = 1.0
    stop: list[str] = []
    seed: int | None = None
    weights: str
    """sha256 of the weights."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What was sampled, token-exact.

    `logprobs[i]` (nats) is the log-probability of `token_ids[i]` under the distribution it was drawn from, temperature
    included (greedy: at temperature 1). `text` is what the tokens say, stop string included, special tokens left out.
    """

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: Finish
    version: int
    sha: str


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of an engine. `tokens` = generated since its start; version -1 and sha '' before the first weights."""

    tokens: int = 0
    running: int = 0
    waiting: int = 0
    version: int = -1
    sha: str = ""
    prompt_tokens: int = 0
    """Of all requests that ended."""
    cached_tokens: int = 0
    """Those of them that were found in the prefix cache."""
    steps: int = 0
    occupied: float = 0.0
    """Sum over the steps of the share of engine.max_num_seqs that was in use."""
    switches: int = 0
    """How often the weights were changed."""


class Catalog(Protocol):
    """What an engine asks of processors.versions.Versions."""

    def by_sha(self, sha: str) -> Weights | None:
        """The announced weights with this sha256, None where none are known."""


class Reporter(Protocol):
    """What an engine tells processors.status.Status."""

    def add(self, *, records: int = 0, errors: int = 0, tokens: int = 0) -> None:
        """Count."""

    def set(self, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Show."""


class Engine(Protocol):
    """An engine. Errors: UnknownWeights, ProbeFailed (this request), EngineDied (all; the process should end)."""

    async def generate(self, request: Request) -> Completion:
        """Sample one response. A prompt without room for a token gives no tokens and finish 'length'."""

    async def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample responses together, in the requests' order; the first error, never a group, ends all."""

    async def score(self, token_ids: Sequence[int], sha: str) -> list[float]:
        """Log-probs (nats, temperature 1) of token_ids[1:], each given what precedes it; shape [len - 1]."""

    def stats(self) -> EngineStats:
        """A moment of this engine."""

    def close(self) -> None:
        """Stop it; what is in it fails with EngineDied."""


class Aborted(RuntimeError):
    """The engine gave up a request; the message it was for is dead-lettered and can be replayed."""


class Generator(Protocol):
    """The part of an Engine that sampling many responses needs."""

    async def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order."""


async def ask_all(engine: Generator, requests: Sequence[Request], purpose: str) -> list[Completion]:
    """As the engine's generate_many; one error, not a group: what the host does with it depends on its type.

    Raises:
        Aborted: the engine gave a request up; the text names the purpose.
        UnknownWeights, ProbeFailed, EngineDied: the engine's.
    """
    try:
        completions = await engine.generate_many(requests)
    except ExceptionGroup as group:
        raise first_error(group) from group
    if any(completion.finish == "abort" for completion in completions):
        raise Aborted(f"the engine gave up a request of {purpose}")
    return completions


def first_error(group: ExceptionGroup[Exception]) -> Exception:
    """The one error that stands for a group: the engine's death where it is among them, else the first."""
    error: Exception = group.subgroup(EngineDied) or group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def for_good(error: Exception) -> bool:
    """Whether weights that were refused with this error stay refused; else their directory may still appear."""
    from processors.announced import WeightsElsewhere  # which needs this module

    return isinstance(error, ProbeFailed | WeightsElsewhere)


def none_left(errors: Sequence[Exception]) -> Exception:
    """What ends a worker that may use no other weights than those that were refused with these errors (oldest last)."""
    if late := [error for error in errors if not for_good(error)]:
        return late[0]
    return NothingToServe(
        f"{errors[-1]}. This worker can serve none of the weights that it may use: start it with the policy.path of "
        "the factory, on a machine that has the same files"
    )


def refused_until(error: Exception) -> float:
    """The monotonic time (seconds) at which weights that were refused with this error are tried again; inf = never."""
    return math.inf if for_good(error) else time.monotonic() + MISSING_S


def refusal(stage: str, weights: Weights, error: Exception, done: str = "sampled from") -> Filtered:
    """The row that says why a version is not `done` by a stage."""
    name, why = f"{weights.version}:{weights.sha256}", f"not {done}: {error}"
    return Filtered(
        id=content_id(stage, name, why), stage=stage, input_topic="weights", input_id=name, why=why, time=time.time()
    )


def open_engine(settings: Settings, versions: Catalog, status: Reporter) -> Engine:
    """The engine the settings ask for: a `vllm serve` at engine.url, or one in this process.

    The structure and tokenizer come from policy.path; weights are loaded when a request first names them.

    Raises:
        EngineUnreachable: nothing answers at engine.url.
        EngineNotStarted: the one in this process could not be built.
        BadPolicy: policy.path is not a policy.
    """
    chat = Chat(resolve(settings.policy.path), settings.policy)
    if settings.engine.url:
        from processors.engine_remote import RemoteEngine

        return RemoteEngine(settings, versions, status, chat)
    from processors.engine_vllm import VllmEngine

    return VllmEngine(settings, versions, status, chat)
