"""The in-process engine on real weights: parity with transformers, versions kept apart, determinism, errors."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from dashboards import used
from engine_parts import (
    PROMPT,
    VOCAB,
    Announced,
    Recorder,
    announced,
    ask,
    corrupt,
    logprobs_of,
    make_model,
    reference,
)
from prometheus_client import REGISTRY

from processors.chat import STEP_END, Chat
from processors.engine_vllm import DIED, VllmEngine
from processors.policy import Completion, EngineDied, ProbeFailed, UnknownWeights
from schemas.settings import EngineSection, FactorySection, PolicySection, Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("engine")
    a, b = make_model(folder / "a", seed=1), make_model(folder / "b", seed=2)
    settings = Settings(
        factory=FactorySection(data=str(folder / "data")),
        policy=PolicySection(path=str(a), weights_dirs=[str(folder)]),
        engine=EngineSection(max_num_seqs=16, kv_cache_gb=0.05, switch_after_s=0.05),
    )
    catalog, status = Announced(first := announced(a, 0), second := announced(b, 1)), Recorder()
    engine = VllmEngine(settings, catalog, status, Chat(str(a), settings.policy), on_death=lambda _: None)
    models = {first.sha256: reference(a), second.sha256: reference(b)}
    yield SimpleNamespace(
        engine=engine, a=first.sha256, b=second.sha256, catalog=catalog, status=status, models=models, folder=folder
    )
    engine.close()


def worst(parts: SimpleNamespace, prompt: list[int], done: Completion, temperature: float = 1.0) -> float:
    """The largest difference of the engine's log-probs to those of the version that the completion names."""
    theirs = logprobs_of(parts.models[done.sha], prompt + done.token_ids, temperature)[len(prompt) - 1 :]
    return max(abs(x - y) for x, y in zip(done.logprobs, theirs, strict=True))


@pytest.mark.asyncio(loop_scope="module")
async def test_vllms_own_metrics_are_served_with_the_processs(parts: SimpleNamespace) -> None:
    def read() -> dict[str, float]:
        return {one.name: one.value for family in REGISTRY.collect() for one in family.samples}

    before = read()
    done = await parts.engine.generate(ask(parts.a))
    after = read()
    assert {name for name in used() if name.startswith("vllm:")} <= set(after), "what the dashboards ask for is there"
    assert after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"] == len(done.token_ids) > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_logprobs_are_those_of_the_sampled_distribution(parts: SimpleNamespace) -> None:
    for temperature in (1.0, 0.6, 0.0):
        done = await parts.engine.generate(ask(parts.a, temperature=temperature))
        assert done.token_ids
        assert len(done.logprobs) == len(done.token_ids)
        assert worst(parts, PROMPT, done, temperature or 1.0) < 1e-4
        assert (done.version, done.sha) == (0, parts.a)


@pytest.mark.asyncio(loop_scope="module")
async def test_greedy_takes_the_likeliest(parts: SimpleNamespace) -> None:
    one, two = await parts.engine.generate_many([ask(parts.a, temperature=0.0), ask(parts.a, None, temperature=0.0)])
    assert one.token_ids == two.token_ids
    best = parts.models[parts.a].generate(
        __import__("torch").tensor([PROMPT]), do_sample=False, max_new_tokens=len(one.token_ids), pad_token_id=0
    )
    assert best[0, len(PROMPT) :].tolist() == one.token_ids


@pytest.mark.asyncio(loop_scope="module")
async def test_the_prefix_cache_never_crosses_versions(parts: SimpleNamespace) -> None:
    """Back and forth with one prompt: each answer agrees with its own version, and disagrees with the other."""
    for round_ in range(6):
        sha, other = (parts.a, parts.b) if round_ % 2 else (parts.b, parts.a)
        done = await parts.engine.generate(ask(sha, seed=round_))
        assert worst(parts, PROMPT, done) < 1e-4
        as_other = Completion(**{**{f: getattr(done, f) for f in done.__struct_fields__}, "sha": other})
        assert worst(parts, PROMPT, as_other) > 0.1, "the two models must differ for this test to mean anything"
    stats = parts.engine.stats()
    assert stats.cached_tokens > 0.2 * stats.prompt_tokens, "the cache must be in use for this test to mean anything"


@pytest.mark.asyncio(loop_scope="module")
async def test_versions_asked_at_once_are_kept_apart(parts: SimpleNamespace) -> None:
    rng = random.Random(0)
    wanted = [rng.choice([parts.a, parts.b]) for _ in range(60)]
    done = await parts.engine.generate_many([ask(sha, seed=i, max_tokens=12) for i, sha in enumerate(wanted)])
    assert [d.sha for d in done] == wanted
    assert all(worst(parts, PROMPT, d) < 1e-4 for d in done)


@pytest.mark.asyncio(loop_scope="module")
async def test_score_agrees_with_transformers_also_after_a_cached_prefix(parts: SimpleNamespace) -> None:
    done = await parts.engine.generate(ask(parts.a))
    ids = PROMPT + done.token_ids
    for sha in (parts.a, parts.b, parts.a):
        scored = await parts.engine.score(ids, sha)
        theirs = logprobs_of(parts.models[sha], ids)
        assert len(scored) == len(ids) - 1
        assert max(abs(x - y) for x, y in zip(scored, theirs, strict=True)) < 1e-4
    assert await parts.engine.score(PROMPT[:1], parts.a) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_seeded_tokens_are_the_same_alone_and_in_a_crowd(parts: SimpleNamespace) -> None:
    rng = random.Random(1)
    mine = [ask(parts.a, seed=i, prompt_ids=[1, 3, *rng.choices(range(5, 90), k=50 + i)]) for i in range(8)]
    others = [ask(parts.a, None, prompt_ids=[1, 3, *rng.choices(range(5, 90), k=9 + i)]) for i in range(24)]
    alone = [await parts.engine.generate(request) for request in mine]
    crowd = await parts.engine.generate_many([*others[:12], *mine, *others[12:]])
    assert [d.token_ids for d in crowd[12:20]] == [d.token_ids for d in alone]
    assert len({tuple(d.token_ids) for d in alone}) == 8


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stop_string_ends_the_response_and_stays_in_it(parts: SimpleNamespace) -> None:
    stops = ["a", STEP_END]
    done = await parts.engine.generate_many([ask(parts.a, i, stop=stops, max_tokens=150) for i in range(24)])
    stopped = [d for d in done if d.finish == "stop" and d.token_ids[-1] != 2]
    assert stopped
    for d in stopped:
        assert d.text.endswith(tuple(stops))
        assert VOCAB[d.token_ids[-1]] in {"a", "\n\n", "\n"}
        said = "".join(VOCAB[t] for t in d.token_ids if t > 4)
        assert said.startswith(d.text)
        assert len(said) <= len(d.text) + 1, "only a token that spans the stop string reaches past it"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_end_token_is_the_last_token(parts: SimpleNamespace) -> None:
    done = await parts.engine.generate_many([ask(parts.a, i, max_tokens=150) for i in range(16)])
    for d in done:
        assert (d.token_ids[-1] == 2) == (d.finish == "stop")
        assert len(d.token_ids) == 150 or d.finish == "stop"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_does_not_fit_is_clipped_never_an_error(parts: SimpleNamespace) -> None:
    limit = parts.engine.max_len
    assert limit == 256
    long = [7] * (limit - 5)
    clipped = await parts.engine.generate(ask(parts.a, prompt_ids=long, max_tokens=50))
    assert len(clipped.token_ids) <= 5
    for prompt in ([7] * limit, [7] * (limit + 90)):
        full = await parts.engine.generate(ask(parts.a, prompt_ids=prompt))
        assert (full.token_ids, full.finish) == ([], "length")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bad_request_fails_alone(parts: SimpleNamespace) -> None:
    good = asyncio.create_task(parts.engine.generate(ask(parts.a)))
    with pytest.raises(ValueError):
        await parts.engine.generate(ask(parts.a, prompt_ids=[1, 10_000]))
    with pytest.raises(UnknownWeights, match="never announced"):
        await parts.engine.generate(ask("f" * 64))
    assert (await good).token_ids


@pytest.mark.asyncio(loop_scope="module")
async def test_weights_that_fail_their_probe_are_refused_and_the_old_stay(parts: SimpleNamespace) -> None:
    bad_dir = make_model(parts.folder / "bad", seed=3)
    theirs = logprobs_of(parts.models[parts.a], PROMPT)
    bad = parts.catalog.add(announced(bad_dir, 7, probe_ids=PROMPT, probe_logprobs=theirs))
    before = await parts.engine.generate(ask(parts.a))
    for _ in range(2):
        with pytest.raises(ProbeFailed, match="v7"):
            await parts.engine.generate(ask(bad.sha256))
        assert parts.engine.stats().version == 0
        assert (await parts.engine.generate(ask(parts.a))).logprobs == before.logprobs
    assert parts.status.fields["engine_restarts"] == 1, "a fresh engine had the last word"


@pytest.mark.asyncio(loop_scope="module")
async def test_weights_that_pass_their_probe_are_served(parts: SimpleNamespace) -> None:
    good_dir = make_model(parts.folder / "good", seed=4)
    model = reference(good_dir)
    good = announced(good_dir, 8, probe_ids=PROMPT, probe_logprobs=logprobs_of(model, PROMPT))
    parts.catalog.add(good)
    parts.models[good.sha256] = model
    done = await parts.engine.generate(ask(good.sha256))
    assert done.version == 8
    assert worst(parts, PROMPT, done) < 1e-4
    assert parts.status.fields["version"] == 8
    assert parts.status.fields["probe"] < 1e-4


@pytest.mark.asyncio(loop_scope="module")
async def test_weights_that_do_not_fit_or_are_gone_are_refused_and_the_old_stay(parts: SimpleNamespace) -> None:
    before = await parts.engine.generate(ask(parts.a))
    misfit = parts.catalog.add(announced(corrupt(Path(parts.catalog.by_sha(parts.a).path), parts.folder / "misfit"), 9))
    gone = parts.catalog.add(announced(parts.folder / "misfit", 10, sha256="0" * 64, path=str(parts.folder / "gone")))
    with pytest.raises(ProbeFailed, match=r"do not fit the model: .*down_proj\.weight"):
        await parts.engine.generate(ask(misfit.sha256))
    with pytest.raises(UnknownWeights, match="no weights there"):
        await parts.engine.generate(ask(gone.sha256))
    assert (await parts.engine.generate(ask(parts.a))).logprobs == before.logprobs
    back = await parts.engine.generate(ask(parts.b))
    assert worst(parts, PROMPT, back) < 1e-4


@pytest.mark.asyncio(loop_scope="module")
async def test_a_caller_that_gives_up_frees_its_place(parts: SimpleNamespace) -> None:
    task = asyncio.create_task(parts.engine.generate(ask(parts.a, max_tokens=190)))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await parts.engine.generate(ask(parts.a))).token_ids
    assert parts.engine.stats().running == 0
    assert parts.engine.stats().waiting == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_it_listens_on_loopback_only(parts: SimpleNamespace) -> None:
    assert (await parts.engine.generate(ask(parts.a))).token_ids
    sockets = [each for each in psutil.Process().net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert {each.laddr.ip for each in sockets} <= {"127.0.0.1", "::1"}


@pytest.mark.asyncio(loop_scope="module")
async def test_tokens_are_counted_once(parts: SimpleNamespace) -> None:
    before = parts.engine.stats().tokens
    done = await parts.engine.generate_many([ask(parts.a, i) for i in range(5)])
    assert parts.engine.stats().tokens - before == sum(len(d.token_ids) for d in done)
    assert parts.status.counts["tokens"] == parts.engine.stats().tokens


@pytest.mark.asyncio(loop_scope="module")
async def test_zz_an_engine_that_breaks_fails_everything_at_once(parts: SimpleNamespace) -> None:
    """The last test of this engine."""

    def broken() -> None:
        raise RuntimeError("a kernel fell over")

    tasks = [asyncio.create_task(parts.engine.generate(ask(parts.a, i, max_tokens=150))) for i in range(20)]
    await asyncio.sleep(0.05)
    parts.engine._core.step = broken
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert any(isinstance(r, EngineDied) and "kernel fell over" in str(r) for r in results)
    with pytest.raises(EngineDied):
        await parts.engine.generate(ask(parts.a))


def test_a_process_whose_engine_breaks_ends_with_its_code() -> None:
    program = "from processors.engine_vllm import exit_process; from processors.policy import EngineDied\n"
    result = subprocess.run(
        [sys.executable, "-c", program + "exit_process(EngineDied('the engine broke: x'))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == DIED
    assert "the engine broke: x" in result.stderr
