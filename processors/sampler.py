"""The stage 'sample': Prompt in, RolloutGroup out. All responses of a group under the newest version, token-exact.

It paces itself so that max_lag can be held: a group is begun only while the groups that RL has not consumed yet, those
in hand included, are fewer than RL consumes in max_lag versions. What is older when it is trained on stays within the
bound without being thrown away.
"""

import asyncio
import time
from typing import Any

from processors import kafka
from processors.app import attach, stage_app
from processors.chat import Chat, resolve
from processors.policy import Completion, Engine, Request
from processors.searcher import Catalog
from processors.status import Status
from schemas.messages import Message, Prompt, Rollout, RolloutGroup, Span, Weights, content_id
from schemas.settings import Settings
from schemas.topics import BY_NAME

STAGE = "sample"
LOOK_S = 1.0


class Pace:
    """How many groups may be under way between this worker and RL.

    Args:
        settings: rl.max_lag, rl.groups, rl.publish_steps.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.in_hand = 0
        self._behind = 0
        self._looked = -LOOK_S
        self._lock = asyncio.Lock()

    @property
    def allowed(self) -> int:
        """Groups that may wait for RL at once: what it consumes in max_lag versions."""
        rl = self.settings.rl
        return max(1, rl.max_lag) * rl.groups * rl.publish_steps

    async def admit(self) -> None:
        """Wait until one more group may be begun; count it as in hand."""
        while self.in_hand + await self._waiting() >= self.allowed:  # noqa: ASYNC110 - another process makes room
            await asyncio.sleep(LOOK_S / 4)
        self.in_hand += 1

    def done(self) -> None:
        """A group left our hands."""
        self.in_hand -= 1
        self._behind += 1  # until the next look it counts as waiting

    async def _waiting(self) -> int:
        """Groups on their way between us and RL, looked up at most once a second."""
        async with self._lock:
            if time.monotonic() - self._looked >= LOOK_S:
                self._behind = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
        return self._behind

    def _look(self) -> int:
        return kafka.lag(self.settings, "verify", "rollouts") + kafka.lag(self.settings, "rl", "rewards")


def build(settings: Settings, engine: Engine, versions: Catalog, status: Status) -> Any:  # noqa: ANN401 - a faust.App
    """The Faust app of this stage, ready for app.run."""
    chat = Chat(resolve(settings.policy.path), settings.policy)
    app = stage_app(STAGE, settings)
    pace = Pace(settings)

    async def handle(prompt: Prompt, _source: object) -> list[Message]:
        await pace.admit()
        try:
            weights = versions.latest()
            if weights is None:
                raise LookupError("no weights were announced")
            group = await sample(prompt, weights, settings=settings, engine=engine, chat=chat)
        finally:
            pace.done()
        status.set(version=weights.version)
        return [group]

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
