"""What each stage is and how one process hosts it: alone, or several Faust stages on one engine and one event loop.

A stage keeps its name as its consumer group wherever it runs, so moving it to another process keeps its offsets.
"""

import signal
from collections.abc import Callable
from typing import Any

from processors.status import Status
from schemas.settings import Settings
from schemas.topics import TOPICS

ENGINE_STAGES = ("search", "sample", "evaluate")
"""Stages that generate: they share one engine when they share a process."""
WORD_STAGES = ("linearize", "verify")
LOOP_STAGES = ("produce", "prompts", "sink", "sft", "rl")
"""Stages with a blocking main of their own; each is a process."""
TRAINERS = ("sft", "rl")
"""Those that may be several processes, one of which is the stage (deploy/together.py)."""
STAGES = (*ENGINE_STAGES, *WORD_STAGES, *LOOP_STAGES)


def generates(stage: str, settings: Settings) -> bool:
    """Whether a stage needs an engine: linearize does where the model rewrites the steps."""
    return stage in ENGINE_STAGES or (stage == "linearize" and settings.linearize.rewriter == "model")


def run_stage(stage: str, settings: Settings) -> None:
    """Run one blocking stage until it is done or told to stop (SIGTERM)."""
    status = Status(settings, stage)
    status.start()
    try:
        _main(stage)(settings, status)
    finally:
        status.stop()


def ranks(stage: str, settings: Settings) -> int:
    """How many processes a stage is made of."""
    return {"sft": settings.sft.ranks, "rl": settings.rl.ranks}.get(stage, 1)


def follow(stage: str, settings: Settings) -> None:
    """Be another rank of a trainer until its first one ends; signals are for the first, which then says stop."""
    from trainers import rl, sft

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    (sft.follow if stage == "sft" else rl.follow)(settings)


def _main(stage: str) -> Callable[[Settings, Status], Any]:
    """The main function of a blocking stage; torch is imported by those that need it only."""
    if stage == "produce":
        from producers import problems

        return problems.run
    if stage == "prompts":
        from producers import prompts

        return prompts.run
    if stage == "sink":
        from processors import sink

        return lambda settings, status: sink.run(settings, [topic.name for topic in TOPICS], status)
    if stage == "sft":
        from trainers import sft

        return sft.run
    from trainers import rl

    return rl.run


def host(stages: list[str], settings: Settings) -> None:
    """Run several Faust stages (and the evaluator) in one process until told to stop."""
    if any(generates(stage, settings) for stage in stages):
        _host_engine(stages, settings)
    else:
        _host_words(stages, settings)


def _statuses(stages: list[str], settings: Settings) -> dict[str, Status]:
    statuses = {stage: Status(settings, stage) for stage in stages}
    for status in statuses.values():
        status.start()
    return statuses


def _host_words(stages: list[str], settings: Settings) -> None:
    from processors import app, linearizer, verifier
    from processors.grading import Grader

    statuses = _statuses(stages, settings)
    apps = []
    if "linearize" in stages:
        apps.append(linearizer.build(settings, statuses["linearize"]))
    grader = Grader(settings)
    if "verify" in stages:
        apps.append(verifier.build(settings, grader, statuses["verify"]))
    try:
        app.run(apps, settings)
    finally:
        grader.close()


def _host_engine(stages: list[str], settings: Settings) -> None:
    from processors import app, linearizer, sampler, searcher, verifier
    from processors.grading import Grader
    from processors.policy import open_engine
    from processors.versions import Versions, ensure_base
    from trainers import evaluator

    statuses = _statuses(stages, settings)
    versions = Versions(settings)
    base = ensure_base(settings, versions)
    engine = open_engine(settings, versions, next(iter(statuses.values())))
    grader = Grader(settings)
    apps: list[Any] = []
    also = []
    if "search" in stages:
        apps.append(searcher.build(settings, engine, versions, grader, statuses["search"]))
    if "sample" in stages:
        apps.append(sampler.build(settings, engine, versions, statuses["sample"]))
    if "linearize" in stages:
        apps.append(linearizer.build(settings, statuses["linearize"], _rewriter(settings, engine, base.sha256)))
    if "verify" in stages:
        apps.append(verifier.build(settings, grader, statuses["verify"]))
    if "evaluate" in stages:
        also.append(evaluator.run(settings, engine, versions, grader, statuses["evaluate"]))
    try:
        app.run(apps, settings, also=also)
    finally:
        engine.close()
        grader.close()


def _rewriter(settings: Settings, engine: Any, weights: str) -> Any:  # noqa: ANN401 - torch-side types load late
    """The model that words the steps of linearize, None where the template does."""
    if settings.linearize.rewriter == "template":
        return None
    from processors.chat import Chat, resolve
    from processors.rewriter import Rewriter
    from processors.searcher import context

    path = resolve(settings.policy.path)
    chat = Chat(path, settings.policy)
    return Rewriter(settings, engine, chat, weights=weights, context=context(path, settings))
