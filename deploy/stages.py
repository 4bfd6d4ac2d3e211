"""What each stage is and how one process hosts it: alone, or several Faust stages on one engine and one event loop.

A stage keeps its name as its consumer group wherever it runs, so moving it to another process keeps its offsets.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from deploy.together import leads_its_machine
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
    with _observed([stage], settings) as statuses:
        _main(stage)(settings, statuses[stage])


def ranks(stage: str, settings: Settings) -> int:
    """How many processes a stage is made of."""
    return {"sft": settings.sft.ranks, "rl": settings.rl.ranks}.get(stage, 1)


def follow(stage: str, settings: Settings) -> None:
    """Be another rank of a trainer until its first one ends; signals are for the first, which then says stop.

    The first rank of each other machine serves that machine's memory and processor time: its pod is scraped as well.
    """
    from processors import metrics
    from trainers import rl, sft

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with metrics.serving(settings, []) if leads_its_machine() else contextlib.nullcontext():
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
    from processors import app

    with _observed(stages, settings) as statuses:
        if any(generates(stage, settings) for stage in stages):
            _host_engine(stages, settings, statuses)
        else:
            _host_words(stages, settings, statuses)
    app.leave()


@contextlib.contextmanager
def _observed(stages: list[str], settings: Settings) -> Iterator[dict[str, Status]]:
    """The status of each stage of this process, by its name, for people (status files) and for Prometheus."""
    from processors import metrics

    with contextlib.ExitStack() as stack:
        statuses = {stage: stack.enter_context(Status(settings, stage)) for stage in stages}
        stack.enter_context(metrics.serving(settings, list(statuses.values())))
        yield statuses


def _host_words(stages: list[str], settings: Settings, statuses: dict[str, Status]) -> None:
    from processors import app, linearizer, verifier
    from processors.grading import Grader
    from processors.rewriter import installed

    apps = []
    if "linearize" in stages:
        apps.append(linearizer.build(settings, statuses["linearize"], installed(settings)))
    grader = Grader(settings)
    if "verify" in stages:
        apps.append(verifier.build(settings, grader, statuses["verify"]))
    try:
        app.run(apps, settings)
    finally:
        grader.close()


def _host_engine(stages: list[str], settings: Settings, statuses: dict[str, Status]) -> None:
    from processors import app, linearizer, sampler, searcher, verifier
    from processors.grading import Grader
    from processors.policy import open_engine
    from processors.versions import Versions, ensure_base
    from trainers import evaluator

    for status in statuses.values():
        status.set(waiting="for its engine, which is being built")
    versions = Versions(settings)
    base = ensure_base(settings, versions)
    engine = open_engine(settings, versions, next(iter(statuses.values())))
    for status in statuses.values():
        status.set(waiting="")
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
    """Who words the steps of linearize: the model, a function that a package adds, or None (the template)."""
    from processors.rewriter import Rewriter, installed

    if settings.linearize.rewriter != "model":
        return installed(settings)
    from processors.chat import Chat, resolve
    from processors.searcher import context

    path = resolve(settings.policy.path)
    chat = Chat(path, settings.policy)
    return Rewriter(settings, engine, chat, weights=weights, context=context(path, settings))
