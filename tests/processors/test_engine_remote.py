"""The remote engine: on a real `vllm serve` token-exact, and one version at a time; on a scripted one, what goes wrong.

The scripted one answers through httpx's own mock transport: every log-prob is the number in the weights that it holds.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from engine_parts import PROMPT, Announced, Recorder, announced, ask, corrupt, logprobs_of, make_model, reference
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from test_versions import weights

from processors import engine_remote, policy, sampler
from processors.announced import weights_sha
from processors.chat import Chat
from processors.engine_remote import CONNECTED, Card, RemoteEngine
from processors.policy import EngineDied, EngineUnreachable, ProbeFailed, UnknownWeights, first_error
from schemas.messages import Filtered, Weights


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_no_server_is_said_in_a_sentence(make_settings, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_remote, "HEALTH_S", 0.5)
    settings = make_settings(f"engine.url=http://127.0.0.1:{free_port()}")
    policy = make_model(tmp_path / "policy", seed=0)
    with pytest.raises(EngineUnreachable, match=r"no `vllm serve` answers at engine\.url"):
        RemoteEngine(settings, Announced(), Recorder(), Chat(str(policy), settings.policy))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """A random policy and the address of the server that has it."""
    folder = tmp_path_factory.mktemp("served")
    policy = make_model(folder / "policy", seed=0, tied=False)
    port = free_port()
    environment = {
        **os.environ, "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_HOST_IP": "127.0.0.1", "TORCHDYNAMO_DISABLE": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy),
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096",
        "--kv-cache-memory-bytes", str(2**28), "--block-size", "32", "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 240
        while True:
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, (folder / "log").read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(1)
        yield policy, f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_versions_take_turns_and_every_log_prob_is_their_own(served, make_settings, tmp_path: Path) -> None:
    policy, url = served
    other = make_model(tmp_path / "other", seed=1, tied=False)
    first, second = announced(policy, 0, trainer="base"), announced(other, 1)
    third = make_model(tmp_path / "third", seed=2, tied=False)
    broken = announced(third, 2, probe_ids=PROMPT[:8], probe_logprobs=[-1.0] * 7)
    misfit = announced(corrupt(policy, tmp_path / "misfit"), 3)
    settings = make_settings(
        f"engine.url={url}", "engine.switch_after_s=0.2", f"policy.path={policy}", f'policy.weights_dirs=["{tmp_path}"]'
    )
    catalog = Announced(first, second, broken, misfit)
    engine = RemoteEngine(settings, catalog, Recorder(), Chat(str(policy), settings.policy))
    shas = [first.sha256, second.sha256] * 6

    async def everything():
        done = await engine.generate_many([ask(sha, seed=number) for number, sha in enumerate(shas)])
        for refused in (broken, misfit):
            with pytest.raises(ProbeFailed):
                await engine.generate(ask(refused.sha256))
        givers_up = [asyncio.create_task(engine.generate(ask(second.sha256, max_tokens=150))) for _ in range(3)]
        await asyncio.sleep(0.3)
        for task in givers_up:
            task.cancel()
        await asyncio.gather(*givers_up, return_exceptions=True)
        again = await engine.generate_many([ask(sha, seed=number) for number, sha in enumerate(shas)])
        scores = await engine.score([*PROMPT, *done[0].token_ids], first.sha256)
        return done, again, scores

    done, again, scores = asyncio.run(everything())
    models = {first.sha256: reference(policy), second.sha256: reference(other)}
    for sha, one, twin in zip(shas, done, again, strict=True):
        assert one.sha == sha
        assert one.token_ids == twin.token_ids
        expected = logprobs_of(models[sha], [*PROMPT, *one.token_ids])[len(PROMPT) - 1 :]
        assert one.logprobs == pytest.approx(expected, abs=1e-3)
    assert scores[len(PROMPT) - 1 :] == pytest.approx(done[0].logprobs, abs=1e-3)
    assert engine.stats().switches >= 2
    assert engine.stats().running == 0


class Server:
    """A `vllm serve` with its development endpoints."""

    def __init__(self, base: Weights) -> None:
        self.url = "http://s:0"
        self.base = self.holds = base.path
        self.loads: list[str] = []
        self.probes = self.sampled = 0
        self.salts: set[str] = set()
        self.connects = self.down = self.deaf = False

    def start_anew(self, path: str = "") -> None:
        self.holds, self.connects = path or self.base, True

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        body = json.loads(request.content)
        if request.url.path == "/collective_rpc":
            self.loads.append(body["kwargs"]["weights_path"])
            self.holds = self.holds if self.deaf else self.loads[-1]
            return httpx.Response(200, json={})
        if (trace := request.extensions.get("trace")) and self.connects:
            self.connects = False
            await trace(CONNECTED, {})
        value = load_file(Path(self.holds, "model.safetensors"))["value"].item()
        if "prompt_logprobs" in body:
            self.probes += 1
            self.salts.add(body["cache_salt"])
            said = [None, *({str(token): {"logprob": value}} for token in body["prompt"][1:])]
            return httpx.Response(200, json={"choices": [{"prompt_logprobs": said}]})
        self.sampled += 1
        choice = {"token_ids": [7], "logprobs": {"token_logprobs": [value]}, "text": "7", "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice]})


class Served:
    """A scripted server behind a socket, with connections that stay open."""

    def __init__(self, server: Server) -> None:
        self.server, self.connections = server, []

    async def __aenter__(self):
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", urlsplit(self.server.url).port)
        self.server.url = f"http://127.0.0.1:{self.listener.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_):
        self.listener.close()
        for writer in self.connections:
            writer.close()
        await asyncio.sleep(0.1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = int(re.search(r"content-length: (\d+)", head, re.IGNORECASE)[1])
                path, content = head.split()[1], await reader.readexactly(size)
                said = await self.server.answer(httpx.Request("POST", self.server.url + path, content=content))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said.content) + said.content)


class Spoken:
    """A tokenizer with one prompt."""

    def prompt_ids(self, _question: str) -> list[int]:
        return [1, 2, 3]


def version(folder: Path, number: int, value: float, *, told: float | None = None) -> Weights:
    """Weights whose every log-prob is `value`, and an announcement that says `told`; the base has no probe."""
    place = folder / f"v{number}"
    place.mkdir(parents=True)
    save_file({"value": torch.tensor(value), "name": torch.tensor(number)}, place / "model.safetensors")
    (place / "config.json").write_text("{}")
    probe = {"probe_ids": [5, 6, 7], "probe_logprobs": [value if told is None else told] * 2} if number else {}
    return replace(weights(number, sha=weights_sha(place)), path=str(place), **probe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "weights"


@pytest.fixture
def base(folder: Path) -> Weights:
    return version(folder, 0, -0.5)


@pytest.fixture
def open_(make_settings, monkeypatch, base: Weights) -> Callable[..., tuple[RemoteEngine, Server]]:
    def make(*rows: Weights, dev: bool = True) -> tuple[RemoteEngine, Server]:
        server = Server(base)
        transport = httpx.MockTransport(server.answer)
        monkeypatch.setattr(engine_remote, "_meet", lambda _: (Card(id="m", max_model_len=64), dev))
        monkeypatch.setattr(
            RemoteEngine, "_open", lambda _: httpx.AsyncClient(base_url="http://s", transport=transport)
        )
        settings = make_settings("engine.url=http://s", f"policy.path={base.path}", "engine.switch_after_s=0.01")
        return RemoteEngine(settings, Announced(base, *rows), Recorder(), Spoken()), server

    return make


def of(row: Weights, count: int = 4):
    return [ask(row.sha256, seed=number, prompt_ids=[5, 6]) for number in range(count)]


async def said(engine: RemoteEngine, row: Weights, count: int = 4) -> tuple[int, set[float]]:
    """The version of some answers, and their log-probs."""
    done = await asyncio.wait_for(engine.generate_many(of(row, count)), 20)
    assert {each.sha for each in done} == {row.sha256}
    return done[0].version, {logprob for each in done for logprob in each.logprobs}


async def test_of_many_requests_one_error_comes_and_it_is_no_group(open_, folder) -> None:
    good, bad = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.0)
    engine, server = open_(good, bad)
    assert await said(engine, good) == (1, {-1.0})
    with pytest.raises(ProbeFailed, match="v2"):
        await said(engine, bad)
    with pytest.raises(UnknownWeights, match="never announced"):
        await engine.generate_many([ask("f" * 64)] * 2)
    server.down = True
    with pytest.raises(EngineDied, match="went away: ConnectError"):
        await said(engine, good)


def test_the_engines_death_comes_before_every_other_error() -> None:
    death = EngineDied("gone")
    assert first_error(ExceptionGroup("", [ValueError(), ExceptionGroup("", [ProbeFailed(), death])])) is death
    assert isinstance(first_error(ExceptionGroup("", [ExceptionGroup("", [ProbeFailed()]), ValueError()])), ProbeFailed)


async def test_a_sampler_falls_back_to_the_version_before_and_stops_with_the_server(open_, folder, monkeypatch) -> None:
    from test_sampler import prompt

    good, bad = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.0)
    (engine, server), kept = open_(good, bad), []
    chat = type("Said", (Spoken,), {"decode": lambda _self, _ids: "7"})()
    monkeypatch.setattr(sampler, "attach", lambda _app, _topic, handler, *_, **__: kept.append(handler))
    monkeypatch.setattr(sampler, "stage_app", lambda *_: None)
    monkeypatch.setattr(sampler, "Chat", lambda *_: chat)
    sampler.build(engine._settings, engine, Announced(good, bad), Recorder())
    group, row = await kept[0](prompt("a"), None)
    assert {rollout.spans[0].version for rollout in group.rollouts} == {1}
    assert isinstance(row, Filtered)
    assert (row.stage, row.input_id) == ("sample", f"2:{bad.sha256}")
    server.down = True
    with pytest.raises(EngineDied):
        await kept[0](prompt("b"), None)


def moved(here: str | Path, there: str | Path) -> None:
    Path(here).rename(there)


def forgotten(engine: RemoteEngine, *, silent: bool) -> None:
    """As if the last probe, and where it was silent the last answer, were long ago."""
    engine._proved = -math.inf
    engine._heard = -math.inf if silent else engine._heard


@pytest.mark.parametrize("silent", [True, False])
async def test_a_server_that_was_started_anew_gets_its_version_back_before_it_answers(open_, folder, silent) -> None:
    good = version(folder, 1, -1.0)
    engine, server = open_(good)
    assert await said(engine, good) == (1, {-1.0})
    before = server.sampled
    forgotten(engine, silent=silent)
    server.start_anew()
    server.connects = not silent
    assert await said(engine, good, 9) == (1, {-1.0})
    assert server.loads == [good.path] * 2
    assert server.sampled == before + 9, "nothing was asked of the other weights"
    assert good.sha256 not in server.salts, "what a probe leaves in the cache is no version's"
    assert engine.stats().running == 0


async def test_a_real_connection_to_a_new_server_is_seen(open_, folder) -> None:
    good = version(folder, 1, -1.0)
    engine, server = open_(good)
    async with Served(server):
        engine._open = lambda: httpx.AsyncClient(base_url=server.url)
        assert await said(engine, good) == (1, {-1.0})
    forgotten(engine, silent=False)
    server.start_anew()
    async with Served(server):
        assert await said(engine, good, 9) == (1, {-1.0})
        assert server.loads == [good.path] * 2
        await engine._client.aclose()


async def test_versions_that_wait_meanwhile_get_their_own_weights(open_, folder) -> None:
    rows = [version(folder, number, -float(number)) for number in (1, 2, 3)]
    engine, server = open_(*rows)
    await said(engine, rows[0])
    forgotten(engine, silent=True)
    server.start_anew()
    answers = await asyncio.gather(*(said(engine, row, 5) for row in rows))
    assert answers == [(1, {-1.0}), (2, {-2.0}), (3, {-3.0})]


async def test_a_base_without_a_probe_is_known_by_its_first_log_probs(open_, folder, base) -> None:
    other = version(folder, 9, -4.0)
    engine, server = open_()
    assert await said(engine, base) == (0, {-0.5})
    forgotten(engine, silent=True)
    server.start_anew(other.path)
    assert await said(engine, base) == (0, {-0.5})
    engine, server = open_(dev=False)
    assert await said(engine, base) == (0, {-0.5})
    forgotten(engine, silent=True)
    server.start_anew(other.path)
    with pytest.raises(ProbeFailed, match="v0"):  # it cannot be loaded again
        await said(engine, base)


async def test_only_a_second_failed_probe_refuses_the_version(open_, folder) -> None:
    good, next_ = version(folder, 1, -1.0), version(folder, 2, -0.5)
    engine, server = open_(good, next_)
    await said(engine, good)
    forgotten(engine, silent=True)
    server.start_anew()
    server.deaf = True
    with pytest.raises(ProbeFailed, match="v1"):
        await said(engine, good)
    assert server.loads == [good.path] * 2
    assert await said(engine, next_) == (2, {-0.5})


async def test_while_a_server_is_heard_nothing_more_is_asked_of_it(open_, folder) -> None:
    good = version(folder, 1, -1.0)
    engine, server = open_(good)
    for _ in range(30):
        server.connects = True
        await said(engine, good, 1)
    assert (server.probes, server.sampled, server.loads) == (1, 30, [good.path])
    forgotten(engine, silent=True)
    await said(engine, good, 8)
    assert (server.probes, server.sampled, server.loads) == (2, 38, [good.path])


async def test_a_directory_that_is_late_is_looked_for_again(open_, folder, monkeypatch) -> None:
    good, late = version(folder, 1, -1.0), version(folder, 2, -3.0)
    engine, server = open_(good, late)
    await said(engine, good)
    moved(late.path, folder / "not-yet")
    monkeypatch.setattr(policy, "MISSING_S", 0.3)
    with pytest.raises(UnknownWeights, match="no weights there"):
        await said(engine, late)
    moved(folder / "not-yet", late.path)
    with pytest.raises(UnknownWeights, match="no weights there"):
        await said(engine, late)
    assert server.loads == [good.path], "nothing was touched, so nothing was put back"
    assert await said(engine, good) == (1, {-1.0})
    await asyncio.sleep(0.4)
    assert await said(engine, late) == (2, {-3.0})


async def test_where_the_old_version_has_gone_the_engine_lives_on(open_, folder) -> None:
    good, bad, next_ = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.5), version(folder, 3, -2.0)
    engine, _ = open_(good, bad, next_)
    await said(engine, good)
    moved(good.path, folder / "removed")
    with pytest.raises(ProbeFailed, match="v2"):
        await said(engine, bad)
    with pytest.raises(UnknownWeights):
        await said(engine, good)
    assert await said(engine, next_) == (3, {-2.0})
