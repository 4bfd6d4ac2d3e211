"""The sampler on the real engine: whole groups, token-exact, with behaviour log-probs and their version."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from engine_parts import Announced, Recorder, announced, logprobs_of, make_model, reference

from processors import sampler
from processors.chat import Chat
from processors.engine_vllm import VllmEngine
from schemas.codec import decode, encode
from schemas.messages import Problem, Prompt, RolloutGroup, Weights
from schemas.settings import EngineSection, PolicySection, SampleSection, Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("sampler")
    directories = [make_model(folder / "a", seed=1), make_model(folder / "b", seed=2)]
    settings = Settings(
        policy=PolicySection(path=str(directories[0]), weights_dirs=[str(folder)]),
        engine=EngineSection(max_num_seqs=16, kv_cache_gb=0.05),
        sample=SampleSection(group=6, max_tokens=40, temperature=0.8),
    )
    rows = [announced(directory, version) for version, directory in enumerate(directories)]
    chat = Chat(str(directories[0]), settings.policy)
    engine = VllmEngine(settings, Announced(*rows), Recorder(), chat, on_death=lambda _: None)
    yield SimpleNamespace(settings=settings, rows=rows, directories=directories, chat=chat, engine=engine)
    engine.close()


def prompt(name: str = "p") -> Prompt:
    return Prompt(
        id=f"group-{name}", problem=Problem(id=name, question="2 + 2", answer="4", source="t"), round=1, why="w"
    )


def groups(parts: SimpleNamespace, *asked: tuple[str, Weights]) -> list[RolloutGroup]:
    async def all_of() -> list[RolloutGroup]:
        shared = {"settings": parts.settings, "engine": parts.engine, "chat": parts.chat}
        return list(await asyncio.gather(*(sampler.sample(prompt(name), row, **shared) for name, row in asked)))

    return asyncio.run(all_of())


def test_a_group_is_token_exact_under_one_version(parts: SimpleNamespace) -> None:
    for row, directory in zip(parts.rows, parts.directories, strict=True):
        [group] = groups(parts, ("p", row))
        model = reference(directory)
        assert (group.id, group.round, group.temperature) == ("group-p", 1, 0.8)
        assert group.prompt_ids == parts.chat.prompt_ids("2 + 2")
        assert len(group.rollouts) == 6
        for rollout in group.rollouts:
            [span] = rollout.spans
            assert (span.version, span.sha, span.start, span.stop) == (
                row.version, row.sha256, 0, len(rollout.token_ids)
            )  # fmt: skip
            theirs = logprobs_of(model, group.prompt_ids + rollout.token_ids, 0.8)[len(group.prompt_ids) - 1 :]
            assert rollout.logprobs == pytest.approx(theirs, abs=1e-4)
            assert rollout.text == parts.chat.decode(rollout.token_ids)
            assert rollout.finish == ("stop" if rollout.token_ids[-1] == parts.chat.eos_id else "length")
        assert decode(encode(group), RolloutGroup) == group


def test_responses_differ_within_a_group_and_are_the_same_when_sampled_again(parts: SimpleNamespace) -> None:
    row = parts.rows[0]
    [first, other] = groups(parts, ("p", row), ("q", row))
    [again] = groups(parts, ("p", row))
    assert len({tuple(rollout.token_ids) for rollout in first.rollouts}) > 1
    assert [r.token_ids for r in again.rollouts] == [r.token_ids for r in first.rollouts]
    assert [r.token_ids for r in other.rollouts] != [r.token_ids for r in first.rollouts]


def test_a_question_longer_than_the_context_gives_empty_responses(parts: SimpleNamespace) -> None:
    asked = prompt()
    long = Prompt(
        id="g",
        problem=Problem(id="l", question="1 + " * 200, answer="4", source="t"),
        round=asked.round,
        why="w",
    )
    group = asyncio.run(
        sampler.sample(long, parts.rows[0], settings=parts.settings, engine=parts.engine, chat=parts.chat)
    )
    assert [(r.token_ids, r.finish, r.text) for r in group.rollouts] == [([], "length", "")] * 6
