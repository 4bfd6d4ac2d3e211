"""The remote engine on a real `vllm serve`: token-exact, and one version at a time."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from engine_parts import PROMPT, Announced, Recorder, announced, ask, corrupt, logprobs_of, make_model, reference

from processors import engine_remote
from processors.chat import Chat
from processors.engine_remote import RemoteEngine
from processors.policy import EngineUnreachable, ProbeFailed


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
