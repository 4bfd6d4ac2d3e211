"""The stage 'sample': Prompt in, RolloutGroup out. All responses of a group under one version, token-exact.

The version is the newest that the engine accepts. How many groups are under way, and so how stale one can be when it is
trained on, is decided where they are let in (producers/admission.py).
"""

import time
from typing import Any, Protocol

from processors.app import attach, stage_app
from processors.chat import Chat, resolve
from processors.policy import Completion, Engine, ProbeFailed, Request, UnknownWeights, none_left, refusal
from processors.status import Status
from schemas.messages import Message, Prompt, Rollout, RolloutGroup, Span, Weights, content_id
from schemas.settings import Settings
from schemas.topics import BY_NAME

STAGE = "sample"


class Catalog(Protocol):
    """What a sampler asks of processors.versions.Versions."""

    def all(self) -> list[Weights]:
        """Every version, oldest first."""


def build(settings: Settings, engine: Engine, versions: Catalog, status: Status) -> Any:  # noqa: ANN401 - a faust.App
    """The Faust app of this stage, ready for app.run."""
    chat = Chat(resolve(settings.policy.path), settings.policy)
    app = stage_app(STAGE, settings)
    told: set[str] = set()

    async def handle(prompt: Prompt, _source: object) -> list[Message]:
        refused: dict[str, Message] = {}
        errors: list[Exception] = []
        for weights in reversed(versions.all()):
            try:
                group = await sample(prompt, weights, settings=settings, engine=engine, chat=chat)
            except (ProbeFailed, UnknownWeights) as error:  # the engine keeps serving the version before
                refused[weights.sha256] = refusal(STAGE, weights, error)
                errors.append(error)
                continue
            status.set(version=weights.version)
            news = [row for sha, row in refused.items() if sha not in told]
            told.update(refused)
            return [group, *news]
        raise none_left(errors or [UnknownWeights("no weights were announced: is the topic `weights` readable?")])

    attach(app, BY_NAME["prompts"], handle, status, settings, limit=settings.sample.groups_in_flight)
    return app


async def sample(prompt: Prompt, weights: Weights, *, settings: Settings, engine: Engine, chat: Chat) -> RolloutGroup:
    """settings.sample.group responses to one prompt, each with a seed of its own."""
    began = time.monotonic()
    prompt_ids = chat.prompt_ids(prompt.problem.question)
    requests = [
        Request(
            prompt_ids=prompt_ids,
            max_tokens=settings.sample.max_tokens,
            temperature=settings.sample.temperature,
            seed=int(content_id("rollout", prompt.id, number, settings.factory.seed)[:8], 16) >> 1,
            weights=weights.sha256,
        )
        for number in range(settings.sample.group)
    ]
    completions = await engine.generate_many(requests)
    return RolloutGroup(
        id=prompt.id,
        problem=prompt.problem,
        round=prompt.round,
        prompt_ids=prompt_ids,
        rollouts=[_rollout(completion, chat) for completion in completions],
        temperature=settings.sample.temperature,
        seconds=time.monotonic() - began,
    )


def _rollout(completion: Completion, chat: Chat) -> Rollout:
    span = Span(version=completion.version, sha=completion.sha, start=0, stop=len(completion.token_ids))
    return Rollout(
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        spans=[span],
        finish=completion.finish,
        text=chat.decode(completion.token_ids),
    )
