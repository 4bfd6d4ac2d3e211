"""A `vllm serve` as the engine: token ids in, token ids out, over its OpenAI-compatible completions endpoint.

The server must be this worker's own where weights change: versions are switched through the development endpoints
(`VLLM_SERVER_DEV_MODE=1`), which act on the whole server. Without them it serves the base policy and nothing else.
Start it with `--logprobs-mode processed_logprobs`, or the importance ratios of RL are biased. A server on a CPU cannot
renew a tied head (engine_core.py says why): the probe then refuses every version but the one it was started with.

A server that somebody started anew answers as before, with the weights of its start. So what it holds is probed again
before anything is asked on a new connection or after a silence, and loaded again where it is not what was loaded.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import httpx
import msgspec

from processors.announced import check_bytes, check_place
from processors.cached import at_hand
from processors.chat import Chat, resolve
from processors.engine_queue import Turns
from processors.fits import check_fit
from processors.policy import (
    Catalog,
    Completion,
    EngineDied,
    EngineStats,
    EngineUnreachable,
    Finish,
    ProbeFailed,
    Reporter,
    Request,
    UnknownWeights,
    first_error,
    refused_until,
)
from processors.probe import Disagrees, check, probe_ids
from schemas.messages import Weights
from schemas.settings import Settings

HEALTH_S = 15.0
REQUEST_S = 600.0
QUIET_S = 3.0
"""A server that was heard or probed this lately was not started anew since: a `vllm serve` takes longer to start."""
CONNECTED = "connection.connect_tcp.complete"
"""What httpx's trace calls a new connection on which nothing was sent yet."""
QUESTION = "What is 17 + 25?"
"""What a version without a probe is known by: its log-probs on this prompt when it was first loaded."""
TICK_S = 0.1
"""How often a turn's patience is looked at; arrivals and departures wake the pump at once."""
DEV_HINT = "start the server with VLLM_SERVER_DEV_MODE=1, or set search.policy = 'base' and run no trainers"

WHOLE = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""The whole distribution: a server fills what is left out from the model's generation_config (Llama 3: top_p 0.9)."""

log = logging.getLogger(__name__)


class Restarted(RuntimeError):
    """The server does not hold what was loaded; no answer was used, and it can be asked once it is loaded again."""


class Card(msgspec.Struct, frozen=True):
    """What the server says of its model."""

    id: str
    max_model_len: int


class Waiting(msgspec.Struct):
    """A caller's place in the queue."""

    admitted: "asyncio.Future[None]"


class RemoteEngine:
    """See processors.policy.Engine; the constructor finds the server or says why not.

    Args:
        settings: engine.url, engine.max_num_seqs, engine.switch_after_s, engine.probe_tolerance.
        versions: where a sha's directory, version and probe are found.
        status: told tokens and the loaded version.
        chat: the policy's tokenizer.

    Raises:
        EngineUnreachable: nothing answers at engine.url within 15 s.
    """

    def __init__(self, settings: Settings, versions: Catalog, status: Reporter, chat: Chat) -> None:
        self.chat = chat
        self._settings, self._versions, self._status = settings, versions, status
        self._url = settings.engine.url.rstrip("/")
        self._turns: Turns[Waiting] = Turns(settings.engine.switch_after_s)
        self._client: httpx.AsyncClient | None = None
        self._pump: asyncio.Task[None] | None = None
        self._loaded: Weights | None = None
        self._held = ""  # the sha of what is in the server, served or not
        self._refused: dict[str, tuple[Exception, float]] = {}
        self._trusted: set[str] = set()
        self._proofs: dict[str, Weights] = {}  # of versions without a probe: what they were when they were loaded
        self._heard = self._proved = 0.0
        self._dead: EngineDied | None = None
        self._running = self._tokens = self._switches = self._prompt_tokens = self._cached = 0
        self._card, self._dev = _meet(self._url)

    async def generate(self, request: Request) -> Completion:
        """Sample one response; see processors.policy.Engine."""
        weights = self._known(request.weights)
        room = self._card.max_model_len - len(request.prompt_ids)
        if room < 1 or request.max_tokens < 1:
            return _completion([], [], "", "length", weights)
        answer = await self._turn(
            request.weights,
            {
                "prompt": request.prompt_ids,
                "max_tokens": min(request.max_tokens, room),
                "temperature": request.temperature,
                "stop": request.stop or None,
                "include_stop_str_in_output": bool(request.stop),
                "seed": request.seed,
                "logprobs": 0,
            },
        )
        choice = answer["choices"][0]
        tokens = list(choice["token_ids"])
        self._tokens += len(tokens)
        self._status.add(tokens=len(tokens))
        finish: Finish = choice["finish_reason"] if choice["finish_reason"] in {"stop", "length"} else "abort"
        return _completion(tokens, list(choice["logprobs"]["token_logprobs"]), choice["text"], finish, weights)

    async def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample responses together; see processors.policy.Engine."""
        try:
            async with asyncio.TaskGroup() as group:  # of which nothing goes on after an error
                tasks = [group.create_task(self.generate(request)) for request in requests]
        except ExceptionGroup as errors:
            raise first_error(errors) from errors
        return [task.result() for task in tasks]

    async def score(self, token_ids: Sequence[int], sha: str) -> list[float]:
        """Log-probs (nats) of token_ids[1:]."""
        self._known(sha)
        return _scores(token_ids, await self._turn(sha, _scoring(token_ids))) if len(token_ids) > 1 else []

    def stats(self) -> EngineStats:
        """A moment of this engine, as this worker sees it."""
        loaded = self._loaded
        return EngineStats(
            tokens=self._tokens,
            running=self._running,
            waiting=len(self._turns),
            version=loaded.version if loaded else -1,
            sha=loaded.sha256 if loaded else "",
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached,
            switches=self._switches,
        )

    def close(self) -> None:
        """Leave the server running; what waits fails with EngineDied."""
        self._dead = EngineDied("the engine was closed")

    def _known(self, sha: str) -> Weights:
        if self._dead is not None:
            raise self._dead
        error, until = self._refused.get(sha, (None, 0.0))
        if error is not None and time.monotonic() < until:
            raise error
        if (weights := self._versions.by_sha(sha)) is None:
            raise UnknownWeights(f"weights {sha[:12] or '(none)'} were never announced on the weights topic")
        return weights

    async def _turn(self, sha: str, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer, once these weights have their turn; another turn where it was started anew meanwhile."""
        while True:
            self._known(sha)
            with contextlib.suppress(Restarted):
                return await self._admitted(sha, body)

    async def _admitted(self, sha: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._client is None:
            self._client = self._open()
            self._wake, self._proving = asyncio.Event(), asyncio.Lock()
            self._pump = asyncio.create_task(self._serve_turns())
        place = Waiting(asyncio.get_running_loop().create_future())
        self._turns.add(sha, place, time.monotonic())
        self._wake.set()
        try:
            await place.admitted
            if self._loaded is None or time.monotonic() - max(self._heard, self._proved) > QUIET_S:
                await self._prove()
            answer = await self._post(body, sha, {"trace": self._traced})
            if self._loaded is None:  # another caller found it out meanwhile
                raise Restarted(self._url)
            self._heard = time.monotonic()
            return answer
        finally:
            if place.admitted.done() and not place.admitted.cancelled() and place.admitted.exception() is None:
                self._running -= 1  # also where the caller gave up just after it was admitted
            self._wake.set()

    def _open(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=self._settings.engine.max_num_seqs + 8)
        return httpx.AsyncClient(base_url=self._url, timeout=REQUEST_S, limits=limits)

    async def _traced(self, event: str, _info: object) -> None:
        """A new connection may lead to a server that was started anew."""
        if event == CONNECTED:
            await self._prove()

    async def _prove(self) -> None:
        """Pass when the server holds what was loaded; only for callers that were admitted: it cannot change meanwhile.

        Raises:
            Restarted: it does not. Nothing more is admitted until it was loaded again.
        """
        async with self._proving:
            if (loaded := self._loaded) is None:
                raise Restarted(self._url)
            if time.monotonic() - self._proved < QUIET_S:
                return
            try:
                await self._probe(loaded)
            except Disagrees as error:
                log.warning("%s was started anew, and v%d is loaded again: %s", self._url, loaded.version, error)
                self._status.add(errors=1)
                self._loaded, self._turns.current = None, ""
                raise Restarted(self._url) from error

    async def _serve_turns(self) -> None:
        """Admit callers turn by turn; an error that is no version's own is the engine's death."""
        try:
            await self._take_turns()
        except EngineDied as error:
            self._dead = error
        except Exception as error:  # noqa: BLE001 - the task's edge: every caller is told
            self._dead = EngineDied(f"the engine at {self._url} cannot go on: {type(error).__name__}: {error}")
        for place in self._turns.remove(lambda _: True):
            _fail(place, self._dead or EngineDied("the engine was closed"))

    async def _take_turns(self) -> None:
        """The weights change only while nothing runs."""
        while self._dead is None:
            now = time.monotonic()
            if (sha := self._turns.turn(now, self._running)) is not None:
                await self._switch(sha)
            for place in self._turns.admit(now, self._settings.engine.max_num_seqs - self._running):
                if not place.admitted.done():
                    self._running += 1
                    place.admitted.set_result(None)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):  # wait_for of Python 3.11 swallows a cancellation as it wakes
                    await self._wake.wait()

    async def _switch(self, sha: str) -> None:
        """Load and probe; a version that fails is refused from then on and the old one is put back."""
        old = self._loaded
        if old is not None and old.sha256 == sha:
            return
        try:
            weights = self._known(sha)
            await self._load(weights)
        except (ProbeFailed, UnknownWeights) as error:
            self._refused[sha] = (error, refused_until(error))
            self._status.add(errors=1)
            self._status.set(refused=str(error))
            await self._put_back(old)
            for place in self._turns.refuse(sha, self._loaded.sha256 if self._loaded else ""):
                _fail(place, error)
            return
        self._loaded = weights
        self._switches += 1
        self._status.set(version=weights.version)

    async def _put_back(self, old: Weights | None) -> None:
        """Load again what was served, where the server does not hold it any more."""
        if old is None or self._held == old.sha256:
            return
        try:
            await self._load(old)
        except UnknownWeights as error:  # its directory has gone; the server is as good as before
            self._loaded = None
            log.error("%s; nothing is served until another version is asked for", error)  # noqa: TRY400

    async def _load(self, weights: Weights) -> None:
        assert self._client is not None
        weights = await asyncio.to_thread(at_hand, self._settings, weights)
        if weights.sha256 not in self._trusted:
            check_place(self._settings, weights)
            await asyncio.to_thread(check_bytes, weights)
            self._trusted.add(weights.sha256)
        check_fit(weights.path, resolve(self._settings.policy.path))
        if self._dev:
            self._held = ""
            body = {"method": "reload_weights", "kwargs": {"weights_path": weights.path}}
            # A connection of its own: the server drops the one on which a reload failed.
            answer = await self._client.post("/collective_rpc", json=body, headers={"Connection": "close"})
            if answer.status_code != HTTPStatus.OK:
                raise ProbeFailed(f"{weights.path}: the server cannot load it: {answer.text[:300]}")
        elif weights.version != 0:
            raise UnknownWeights(f"{self._url} serves the base policy only, not v{weights.version}: {DEV_HINT}")
        self._held = weights.sha256
        await self._probe(weights)

    async def _probe(self, weights: Weights) -> None:
        """Compare the server's log-probs with those announced, or where none were, with those of the first load.

        Raises:
            Disagrees: they are others.
        """
        proof, longest = self._proofs.get(weights.sha256, weights), self._card.max_model_len
        known = probe_ids(proof, longest)
        ids = known or self.chat.prompt_ids(QUESTION)[: longest - 1]
        # A salt of its own: keys and values of a server with other weights are never found by this version's requests.
        scores = _scores(ids, await self._post({**_scoring(ids), "cache_salt": f"probe {uuid.uuid4()}"}, ""))
        if known:
            self._status.set(probe=check(proof, scores, self._settings.engine.probe_tolerance))
        else:
            self._proofs[weights.sha256] = msgspec.structs.replace(weights, probe_ids=ids, probe_logprobs=scores)
        self._proved = time.monotonic()

    async def _post(self, body: dict[str, Any], sha: str, extensions: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call. Every error that is not this request's own ends the worker, so that nothing in hand is lost."""
        assert self._client is not None
        # The salt keeps one version's cached keys and values from ever answering for another's.
        full = {"model": self._card.id, "return_token_ids": True, "cache_salt": sha, **WHOLE, **body}
        try:
            answer = await self._client.post("/v1/completions", json=full, extensions=extensions)
        except httpx.HTTPError as error:
            self._dead = EngineDied(f"the engine at {self._url} went away: {type(error).__name__}: {error}")
            raise self._dead from error
        if answer.status_code == HTTPStatus.BAD_REQUEST:
            raise ValueError(f"the engine refused a request: {answer.text[:300]}")
        if answer.status_code != HTTPStatus.OK:
            self._dead = EngineDied(f"the engine at {self._url} answered {answer.status_code}: {answer.text[:300]}")
            raise self._dead
        content: dict[str, Any] = answer.json()
        usage = content.get("usage") or {}
        self._prompt_tokens += int(usage.get("prompt_tokens") or 0)
        self._cached += int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        return content


def _meet(url: str) -> tuple[Card, bool]:
    """The server's model, and whether its development endpoints are open; waits for a server that is starting."""
    deadline = time.monotonic() + HEALTH_S
    while True:
        try:
            answer = httpx.get(f"{url}/v1/models", timeout=5).raise_for_status()
            card = answer.json()["data"][0]
            dev = httpx.get(f"{url}/server_info", timeout=5).status_code == HTTPStatus.OK
            return Card(id=str(card["id"]), max_model_len=int(card["max_model_len"])), dev
        except (httpx.HTTPError, LookupError, ValueError) as error:
            if time.monotonic() > deadline:
                raise EngineUnreachable(
                    f"no `vllm serve` answers at engine.url = {url} ({type(error).__name__}): start it, or unset "
                    "engine.url for an engine in this process"
                ) from error
            time.sleep(0.5)


def _fail(place: Waiting, error: Exception) -> None:
    if not place.admitted.done():
        place.admitted.set_exception(error)


def _scoring(token_ids: Sequence[int]) -> dict[str, Any]:
    return {"prompt": list(token_ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def _scores(token_ids: Sequence[int], answer: dict[str, Any]) -> list[float]:
    entries = answer["choices"][0]["prompt_logprobs"]
    return [float(entry[str(token)]["logprob"]) for token, entry in zip(token_ids[1:], entries[1:], strict=True)]


def _completion(tokens: list[int], logprobs: list[float], text: str, finish: Finish, weights: Weights) -> Completion:
    return Completion(
        token_ids=tokens, logprobs=logprobs, text=text, finish=finish, version=weights.version, sha=weights.sha256
    )
