"""vLLM in the worker's own process: one thread builds and steps the engine, any asyncio loop asks it.

A caller's request crosses to the thread in an inbox and comes back as its future's result in the caller's loop. The
thread serves one version of the weights at a time (engine_queue.py), drains before it changes them, and probes them
before anything is sampled. Weights that fail their probe may be right and the engine wrong: so the engine is built
anew, and if a fresh one disagrees as well the weights are refused, and it goes on with the version it had. Before that
a mark is left for the version: the build may end the process, and the one that follows it is the fresh engine. When the
engine breaks, nothing it answers can be trusted: by default the process ends at once with exit code DIED, so that what
was in hand stays uncommitted and is done again after the restart.
"""

import asyncio
import gc
import logging
import os
import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from processors.announced import check_bytes, check_place
from processors.cached import at_hand
from processors.chat import Chat, resolve
from processors.engine_core import Core, Sampled
from processors.engine_queue import Turns
from processors.policy import (
    Catalog,
    Completion,
    EngineDied,
    EngineNotStarted,
    EngineStats,
    ProbeFailed,
    Reporter,
    Request,
    UnknownWeights,
    refused_until,
)
from processors.probe import Disagrees, check, probe_ids
from schemas.killpoints import passed
from schemas.messages import Weights
from schemas.settings import Settings

DIED = 70
"""Exit code of a process whose engine broke (EX_SOFTWARE); the supervisor restarts it."""
OF_CORE = ("running", "prompt_tokens", "cached_tokens", "steps", "occupied")

log = logging.getLogger(__name__)


class Job:
    """A request on its way: what to do, and the future that waits for it in its loop."""

    def __init__(self, request: Request, *, score: bool) -> None:
        self.request = request
        self.score = score
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Sampled] = self.loop.create_future()


Outcome = tuple[Job, Sampled | Exception]


def exit_process(error: EngineDied) -> None:
    """End this process now: a graceful stop would dead-letter or commit work that was never done."""
    log.critical("%s", error)
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(DIED)


class VllmEngine:
    """The in-process engine (see processors.policy.Engine); ready when constructed, which takes seconds.

    Args:
        settings: engine, policy.path.
        versions: where a sha's directory, version and probe are found.
        status: told tokens and the loaded version.
        chat: the policy's tokenizer (its path is checked by loading it).
        on_death: what to do when the engine broke; when it returns, every future fails with EngineDied.
    """

    def __init__(
        self,
        settings: Settings,
        versions: Catalog,
        status: Reporter,
        chat: Chat,
        on_death: Callable[[EngineDied], None] = exit_process,
    ) -> None:
        self.chat = chat
        self._settings = settings
        self._versions = versions
        self._status = status
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._turns: Turns[Job] = Turns(settings.engine.switch_after_s)
        self._jobs: dict[str, Job] = {}
        self._loaded: Weights | None = None
        self._held = ""  # the sha of what is in the engine, served or not
        self._refused: dict[str, tuple[ProbeFailed | UnknownWeights, float]] = {}
        self._marks = Path(settings.factory.data) / "state" / "refused"
        self._marked = {mark.name for mark in self._marks.glob("*")}
        self.trusted: set[str] = set()
        """shas whose files were looked at already."""
        self._restarts = 0
        self._dead: EngineDied | None = None
        self._tokens = self._count = self._switches = 0
        self._core: Core | None = None
        self.max_len = 0
        """Positions the engine has for prompt and response together."""
        started: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, args=(started,), name="engine", daemon=True)
        self._thread.start()
        if (error := started.get()) is not None:
            raise error

    async def generate(self, request: Request) -> Completion:
        """Sample one response; see processors.policy.Engine."""
        room = self.max_len - len(request.prompt_ids)
        weights = self._known(request.weights)
        if room < 1 or request.max_tokens < 1:
            return _completion(Sampled("", [], [], "", "length"), weights)
        clipped = Request(
            prompt_ids=request.prompt_ids,
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature,
            stop=request.stop,
            seed=request.seed,
            weights=request.weights,
        )
        sampled = await self._ask(Job(clipped, score=False))
        if not request.stop:
            sampled = msgspec.structs.replace(sampled, text=self.chat.decode(sampled.token_ids))
        return _completion(sampled, weights)

    async def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample responses together; see processors.policy.Engine."""
        return list(await asyncio.gather(*(self.generate(request) for request in requests)))

    async def score(self, token_ids: Sequence[int], sha: str) -> list[float]:
        """Log-probs (nats) of token_ids[1:]; ValueError when there are more tokens than max_model_len - 1."""
        self._known(sha)
        if len(token_ids) >= self.max_len:
            raise ValueError(f"{len(token_ids)} tokens to score: the engine takes {self.max_len - 1}")
        if len(token_ids) < 2:
            return []
        request = Request(prompt_ids=list(token_ids), max_tokens=1, weights=sha)
        return (await self._ask(Job(request, score=True))).logprobs

    def stats(self) -> EngineStats:
        """A moment of this engine."""
        core, loaded = self._core, self._loaded
        of_core = {} if core is None else {name: getattr(core, name) for name in OF_CORE}  # None: it begins anew
        return EngineStats(
            tokens=self._tokens,
            waiting=len(self._turns) + self._inbox.qsize(),
            version=loaded.version if loaded else -1,
            sha=loaded.sha256 if loaded else "",
            switches=self._switches,
            **of_core,
        )

    def close(self) -> None:
        """Stop the thread; what is still in the engine fails with EngineDied."""
        self._inbox.put(None)
        self._thread.join(30)

    @property
    def _built(self) -> Core:
        assert self._core is not None
        return self._core

    def _known(self, sha: str) -> Weights:
        if (weights := self._versions.by_sha(sha)) is None:
            raise UnknownWeights(f"weights {sha[:12] or '(none)'} were never announced on the weights topic")
        return weights

    async def _ask(self, job: Job) -> Sampled:
        if self._dead is not None:
            raise self._dead
        self._inbox.put(job)
        if self._dead is not None:  # it died in between: nobody empties the inbox any more
            job.future.cancel()
            raise self._dead
        return await job.future

    # Everything below runs on the engine's thread.

    def _main(self, started: "queue.SimpleQueue[Exception | None]") -> None:
        try:
            self._build()
        except Exception as error:  # noqa: BLE001 - told to the constructor, which raises it
            started.put(EngineNotStarted(f"the engine could not be started: {type(error).__name__}: {error}"))
            return
        started.put(None)
        try:
            while self._cycle(self._built):
                pass
            self._dead = EngineDied("the engine was closed")
        except Exception as error:  # noqa: BLE001 - the thread's edge: an engine that raised is not to be trusted
            self._dead = EngineDied(f"the engine broke: {type(error).__name__}: {error}")
            self._status.add(errors=1)
            self._on_death(self._dead)
        self._fail_all(self._dead)
        if self._core is not None:  # None: a fresh one could not be built
            self._core.shutdown()

    def _build(self) -> None:
        self._core = Core(self._settings, resolve(self._settings.policy.path))
        self.max_len = self._core.max_len

    def _cycle(self, core: Core) -> bool:
        """Take in, perhaps change weights, admit, step, hand out; False when closed."""
        if not self._receive(wait=not core.running and not len(self._turns)):
            return False
        self._forget_cancelled(core)
        now = time.monotonic()
        if (sha := self._turns.turn(now, core.running)) is not None:
            self._switch(sha)
            core = self._built
        outcomes = [failed for id_ in self._admit(core, now) if (failed := self._start(core, id_)) is not None]
        if core.running:
            outcomes += [(self._jobs.pop(sampled.id), sampled) for sampled in core.step()]
        tokens = sum(len(result.token_ids) for _, result in outcomes if isinstance(result, Sampled))
        self._tokens += tokens
        if tokens:
            self._status.add(tokens=tokens)
        _deliver(outcomes)
        return True

    def _receive(self, *, wait: bool) -> bool:
        """Queue what came in; when idle wait for it. False when closed."""
        while wait or not self._inbox.empty():
            job, wait = self._inbox.get(), False
            if job is None:
                return False
            sha = job.request.weights
            error, until = self._refused.get(sha, (None, 0.0))
            if error is not None and time.monotonic() < until:
                _deliver([(job, error)])
            else:
                self._turns.add(sha, job, time.monotonic())
        return True

    def _forget_cancelled(self, core: Core) -> None:
        for id_, job in list(self._jobs.items()):
            if job.future.cancelled():
                core.abort(id_)
                del self._jobs[id_]

    def _admit(self, core: Core, now: float) -> list[str]:
        """The ids of the jobs to start now; they are in _jobs from here on, so that none is ever forgotten."""
        jobs = [job for job in self._turns.admit(now, core.max_seqs - core.running) if not job.future.cancelled()]
        ids = [str(self._count + n) for n in range(1, len(jobs) + 1)]
        self._count += len(jobs)
        self._jobs.update(zip(ids, jobs, strict=True))
        return ids

    def _start(self, core: Core, id_: str) -> Outcome | None:
        """Hand a job to the engine; its outcome when the engine refuses it."""
        job = self._jobs[id_]
        try:
            if job.score:
                core.add_score(id_, job.request.prompt_ids, job.request.weights)
            else:
                core.add(id_, job.request)
        except ValueError as error:  # an impossible temperature, a token id outside the vocabulary: this request's
            return self._jobs.pop(id_), error
        return None

    def _switch(self, sha: str) -> None:
        """Load and probe; when that fails put the old weights back and refuse what waits for the new ones."""
        old = self._loaded
        if old is not None and old.sha256 == sha:
            return
        try:
            weights = self._known(sha)
            self._enter(weights)
        except (ProbeFailed, UnknownWeights) as error:
            self._refused[sha] = (error, refused_until(error))
            self._put_back(old)
            log.error("%s", error)  # noqa: TRY400 - the sentence says it all
            self._status.add(errors=1)
            self._status.set(refused=str(error))
            _deliver([(job, error) for job in self._turns.refuse(sha, self._loaded.sha256 if self._loaded else "")])
            return
        self._loaded = weights
        self._switches += 1
        self._status.set(version=weights.version)

    def _put_back(self, old: Weights | None) -> None:
        """Load again what was served, where the engine does not hold it any more."""
        if old is None or self._held == old.sha256:
            return
        try:
            self._load(old)
        except Disagrees:
            raise  # of weights that it served: the engine is at fault
        except (ProbeFailed, UnknownWeights) as error:  # its directory has gone; the engine is as good as before
            self._loaded = None
            log.error("%s; nothing is served until another version is asked for", error)  # noqa: TRY400

    def _enter(self, weights: Weights) -> None:
        """Load weights that are in place and unchanged; where the log-probs disagree, once more in a fresh engine."""
        sha, weights = weights.sha256, at_hand(self._settings, weights)
        if sha not in self.trusted:
            check_place(self._settings, weights)
            check_bytes(weights)
            self.trusted.add(sha)
        try:
            self._load(weights)
        except Disagrees as error:
            if sha in self._marked:  # a fresh engine was built for it before, or this process is the fresh one
                raise
            log.error("%s; a fresh engine tries once more", error)  # noqa: TRY400 - the sentence says it all
            self._marks.mkdir(parents=True, exist_ok=True)
            (self._marks / sha).write_text(f"{error}\n", "utf-8")
            self._marked.add(sha)
            self._restart()
            self._load(weights)
        if sha in self._marked:
            (self._marks / sha).unlink(missing_ok=True)
            self._marked.remove(sha)

    def _restart(self) -> None:
        """A fresh engine on this thread, with the policy's own weights; nothing runs in the old one."""
        self._status.set(waiting="a fresh engine: a probe failed")
        self._built.shutdown()
        self._core, self._held = None, ""
        gc.collect()  # the old one's memory first: two do not fit on a GPU
        self._build()
        self._restarts += 1
        self._status.set(waiting="", engine_restarts=self._restarts)

    def _load(self, weights: Weights) -> None:
        core = self._built
        core.load(at_hand(self._settings, weights).path)  # where it refuses, nothing was touched
        self._held = weights.sha256
        passed("engine:announcement")
        if ids := probe_ids(weights, core.max_len):
            core.add_score("probe", ids, weights.sha256)
            scored: list[Sampled] = []
            while not scored:
                scored = list(core.step())
            self._status.set(probe=check(weights, scored[0].logprobs, self._settings.engine.probe_tolerance))

    def _fail_all(self, error: EngineDied) -> None:
        waiting = self._turns.remove(lambda _: True)
        while not self._inbox.empty():
            if (job := self._inbox.get()) is not None:
                waiting.append(job)
        _deliver([(job, error) for job in [*self._jobs.values(), *waiting]])
        self._jobs.clear()


def _completion(sampled: Sampled, weights: Weights) -> Completion:
    return Completion(
        token_ids=sampled.token_ids,
        logprobs=sampled.logprobs,
        text=sampled.text,
        finish=sampled.finish,
        version=weights.version,
        sha=weights.sha256,
    )


def _deliver(outcomes: list[Outcome]) -> None:
    """Resolve futures in their own loops, one call for each loop; a closed loop has nobody waiting."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_loop[outcome[0].loop].append(outcome)
    for loop, theirs in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, theirs)


def _resolve(outcomes: list[Outcome]) -> None:
    for job, result in outcomes:
        if job.future.done():
            continue
        if isinstance(result, Sampled):
            job.future.set_result(result)
        else:
            job.future.set_exception(result)
