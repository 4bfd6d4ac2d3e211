"""Which stages share a process on this machine. Placement never changes a consumer group, so never its offsets."""

import os

import msgspec

from deploy.process import Spec
from deploy.stages import ENGINE_STAGES, LOOP_STAGES, STAGES, WORD_STAGES, generates
from schemas.settings import Settings

SHARED_BELOW_CORES = 8


def has_gpu() -> bool:
    """Whether an NVIDIA device file is there (asking torch would cost seconds)."""
    return os.path.exists("/dev/nvidiactl")  # noqa: PTH110 - a device file, not a path we handle


def is_shared(settings: Settings) -> bool:
    """Whether search, sample and evaluate share one engine."""
    if settings.factory.workers != "auto":
        return settings.factory.workers == "shared"
    if settings.engine.url:
        return True  # one server holds one version at a time: its stages queue for it in one process
    return not has_gpu() and (os.cpu_count() or 1) < SHARED_BELOW_CORES


def plan(settings: Settings) -> list[Spec]:
    """The processes of one machine, sinks first so that nothing waits unwritten."""
    threads = {"sft": settings.sft.threads, "rl": settings.rl.threads}
    loops = [Spec(name=s, stages=(s,), arguments=(s,), threads=threads.get(s, 1)) for s in LOOP_STAGES]
    loops.sort(key=lambda spec: spec.name != "sink")
    engine = settings.engine.threads
    hosts: list[tuple[str, tuple[str, ...], int]]
    # A word stage that needs an engine joins the one that searches: both ask for the base's weights.
    rewriting = tuple(s for s in WORD_STAGES if generates(s, settings))
    words = tuple(s for s in WORD_STAGES if s not in rewriting)
    if is_shared(settings):
        hosts = [("engine", (*ENGINE_STAGES, *rewriting), engine), ("words", words, 1)]
    else:
        joined = {"search": ("search", *rewriting)}
        hosts = [*((s, joined.get(s, (s,)), engine) for s in ENGINE_STAGES), *((s, (s,), 1) for s in words)]
    wanted = set(settings.factory.stages or STAGES)
    hosts = [(name, tuple(s for s in stages if s in wanted), threads) for name, stages, threads in hosts]
    hosted = [Spec(name=n, stages=s, arguments=("host", *s), threads=t) for n, s, t in hosts if s]
    specs = [spec for spec in (loops[0], *hosted, *loops[1:]) if wanted & set(spec.stages)]
    if not settings.metrics.port:
        return specs
    return [_listening(spec, settings.metrics.port + at) for at, spec in enumerate(specs)]


def _listening(spec: Spec, port: int) -> Spec:
    """The process with a port of its own for its metrics."""
    arguments = (*spec.arguments, "--set", f"metrics.port={port}")
    return msgspec.structs.replace(spec, arguments=arguments)
