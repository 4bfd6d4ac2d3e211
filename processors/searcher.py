"""The stage 'search': Problem in, Tree out. A thin shell around search_driver.py, which drives the pure mcts.py.

The weights are pinned when a tree starts and stay its own while training goes on: a tree is one policy's search.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Protocol

from processors.app import attach, stage_app
from processors.chat import Chat, resolve
from processors.grading import Grader
from processors.kafka import BrokerMissing
from processors.policy import Engine, ProbeFailed, UnknownWeights, for_good, none_left, refusal
from processors.search_driver import Driver
from processors.status import Status
from schemas.messages import Message, Problem, Weights
from schemas.settings import Settings
from schemas.topics import BY_NAME

STAGE = "search"


class Catalog(Protocol):
    """What a search asks of processors.versions.Versions."""

    def base(self) -> Weights | None:
        """Version 0."""

    def latest(self, trainers: Collection[str] | None = None, refused: Collection[str] = ()) -> Weights | None:
        """The newest version of these trainers, or of all, but for those with a sha that was refused."""


def build(settings: Settings, engine: Engine, versions: Catalog, grader: Grader, status: Status) -> Any:  # noqa: ANN401 - a faust.App
    """The Faust app of this stage, ready for app.run."""
    path = resolve(settings.policy.path)
    chat = Chat(path, settings.policy)
    driver = Driver(settings, engine, grader, chat, context=context(path, settings))
    app = stage_app(STAGE, settings)

    refused: set[str] = set()
    told: set[str] = set()

    async def handle(problem: Problem, _source: object) -> list[Message]:
        rows: dict[str, Message] = {}
        errors: list[Exception] = []
        while True:
            weights = await pinned(settings, versions, refused=refused | rows.keys())
            try:
                tree, search = await driver.grow(problem, weights)
                break
            except (ProbeFailed, UnknownWeights) as error:
                errors.append(error)
                if weights.version == 0:
                    raise none_left(errors) from error
                rows[weights.sha256] = refusal(STAGE, weights, error)  # this tree has the version before
                if for_good(error):
                    refused.add(weights.sha256)  # and so have later ones
        status.add(solved=int(tree.solved), cuts=search.cuts)  # the engine counts tokens
        status.set(version=weights.version)
        news = [row for sha, row in rows.items() if sha not in told]
        told.update(rows)
        return [tree, *news]

    attach(app, BY_NAME["problems"], handle, status, settings, limit=settings.search.trees_in_flight)
    return app


def context(path: str, settings: Settings) -> int:
    """Tokens that prompt and response may have together: engine.max_model_len, or what the model's config says."""
    if settings.engine.max_model_len:
        return settings.engine.max_model_len
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(path).max_position_embeddings)


def choose(settings: Settings, versions: Catalog, refused: Collection[str] = ()) -> Weights | None:
    """The weights that settings.search.policy names now: the base while SFT has published none that can be served."""
    if settings.search.policy == "latest":
        return versions.latest(refused=refused)
    trained = versions.latest({"sft"}, refused) if settings.search.policy == "sft" else None
    return trained or versions.base()


async def pinned(settings: Settings, versions: Catalog, wait_s: float = 60.0, refused: Collection[str] = ()) -> Weights:
    """The chosen weights, waited for: a worker may start before the base is announced.

    Raises:
        BrokerMissing: nobody announced weights in `wait_s` seconds; the worker ends and the message is delivered again.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    while (weights := choose(settings, versions, refused)) is None:
        if asyncio.get_running_loop().time() > deadline:
            raise BrokerMissing(f"no weights were announced in {wait_s:.0f} s: is the topic `weights` readable?")
        await asyncio.sleep(0.1)
    return weights
