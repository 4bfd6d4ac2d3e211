"""A worker whose probe fails keeps the old version, reports, and restarts its engine; nothing unannounced is loaded.

The engine's thread, queue and probe are the real ones; in vLLM's place stands a core that computes a log-prob from the
weights it holds, right or wrong (the real one is in test_engine_vllm.py).
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Announced, Recorder, ask
from msgspec.structs import replace
from test_versions import weights

from processors import engine_vllm, policy, sampler
from processors.announced import WeightsElsewhere, check_place, weights_sha
from processors.chat import Chat, resolve
from processors.engine_core import Sampled
from processors.engine_vllm import VllmEngine
from processors.policy import Completion, Engine, EngineDied, NothingToServe, ProbeFailed, UnknownWeights
from schemas.messages import Filtered, Weights
from schemas.settings import PolicySection

IDS = [5, 6, 7]


class Core:
    """Says the number in the weights' file as every log-prob; `broken` ones say another."""

    built: list["Core"]
    broken: Callable[["Core"], bool]
    room: int

    def __init__(self, *_: Any) -> None:
        if len(type(self).built) >= type(self).room:
            raise MemoryError("the old engine's memory was not given back")
        self.loads: list[str] = []
        self.max_len, self.max_seqs, self.held, self.work = 64, 4, "", []
        self.prompt_tokens = self.cached_tokens = self.steps = 0
        self.occupied = 0.0
        self.closed = False
        type(self).built.append(self)

    @property
    def running(self) -> int:
        return len(self.work)

    def load(self, path: str) -> None:
        assert not self.work, "weights change only while nothing runs"
        if not Path(path, "model.safetensors").exists():
            raise UnknownWeights(f"{path}: no weights there")
        self.loads.append(path)
        self.held = path

    def value(self) -> float:
        told = float((Path(self.held) / "model.safetensors").read_text().partition(" ")[0])
        return told - 1.0 if type(self).broken(self) else told

    def add(self, id_: str, request: Any) -> None:
        self.work.append(Sampled(id_, [7], [self.value()], "7", "stop"))

    def add_score(self, id_: str, token_ids: list[int], _sha: str) -> None:
        self.work.append(Sampled(id_, [], [self.value()] * (len(token_ids) - 1), "", "stop"))

    def step(self) -> Iterator[Sampled]:
        done, self.work = self.work, []
        yield from done

    def abort(self, id_: str) -> None:
        self.work = [each for each in self.work if each.id != id_]

    def shutdown(self) -> None:
        self.closed = True


def version(folder: Path, number: int, value: float, *, told: float | None = None) -> Weights:
    """A directory whose every log-prob is `value`, and an announcement that says `told`."""
    place = folder / f"v{number}"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_text(f"{value} {number}")
    probe = {"probe_ids": IDS, "probe_logprobs": [value if told is None else told] * 2}
    return replace(weights(number, sha=weights_sha(place)), path=str(place), **probe)


@pytest.fixture
def open_(make_settings, monkeypatch) -> Iterator[Callable[..., VllmEngine]]:
    made: list[VllmEngine] = []

    def make(*rows: Weights, broken: Callable[[Core], bool] = lambda _: False, room: int = 9) -> VllmEngine:
        """A new process: `room` engines can be built in it."""
        kind = type("Core", (Core,), {"built": [], "broken": staticmethod(broken), "room": room})
        monkeypatch.setattr(engine_vllm, "Core", kind)
        settings, chat = make_settings("engine.switch_after_s=0.01"), Chat(resolve("tiny"), PolicySection())
        made.append(VllmEngine(settings, Announced(*rows), Recorder(), chat, on_death=lambda _: None))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data" / "weights"


def generate(engine: Engine, row: Weights) -> Completion:
    return asyncio.run(asyncio.wait_for(engine.generate(ask(row.sha256, prompt_ids=IDS)), 20))


def test_weights_that_no_engine_agrees_with_are_refused_and_the_old_version_stays(open_, folder) -> None:
    good, bad = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.5)
    engine = open_(good, bad)
    assert generate(engine, good).version == 1
    for _ in range(3):
        with pytest.raises(ProbeFailed, match=r"v2.*differ.*1\.5000 nats.*the old weights stay"):
            generate(engine, bad)
        assert (generate(engine, good).version, engine.stats().version) == (1, 1)
    first, fresh = type(engine._core).built
    assert first.closed, "a fresh engine had the last word, once"
    assert fresh.held == good.path
    assert engine._status.fields["engine_restarts"] == 1
    assert "v2" in engine._status.fields["refused"]
    assert engine._status.counts["errors"] == 1


def test_an_engine_that_is_at_fault_is_restarted_and_then_serves_the_new_version(open_, folder) -> None:
    good, new = version(folder, 1, -1.0), version(folder, 2, -3.0)

    def broken(core: Core) -> bool:
        return core is type(core).built[0] and core.held == new.path

    engine = open_(good, new, broken=broken)
    assert generate(engine, good).version == 1
    done = generate(engine, new)
    assert (done.version, done.logprobs) == (2, [-3.0])
    assert len(type(engine._core).built) == 2
    assert "refused" not in engine._status.fields
    assert generate(engine, good).logprobs == [-1.0]


def test_an_engine_that_fails_even_the_old_version_ends_its_process(open_, folder) -> None:
    good, new = version(folder, 1, -1.0), version(folder, 2, -3.0)
    failing: list[bool] = []
    engine = open_(good, new, broken=lambda _: bool(failing))
    generate(engine, good)
    failing.append(True)
    with pytest.raises(EngineDied, match="v1"):
        generate(engine, new)


def test_what_changed_after_it_was_announced_is_refused_without_a_restart(open_, folder) -> None:
    good, changed = version(folder, 1, -1.0), version(folder, 2, -3.0)
    (Path(changed.path) / "model.safetensors").write_text("-3.0 another")
    engine = open_(good, changed)
    generate(engine, good)
    with pytest.raises(ProbeFailed, match="changed since they were announced"):
        generate(engine, changed)
    assert generate(engine, good).version == 1
    assert len(type(engine._core).built) == 1
    assert engine._core.loads == [good.path], "nothing was touched, so nothing was put back"


def marks(engine: VllmEngine) -> list[str]:
    return [path.name for path in engine._marks.glob("*")]


def test_a_process_that_a_fresh_engine_ended_is_followed_by_one_that_refuses_without_another(open_, folder) -> None:
    good, bad = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.5)
    engine = open_(good, bad, room=1)
    generate(engine, good)
    assert marks(engine) == []
    with pytest.raises(EngineDied, match="memory was not given back"):
        generate(engine, bad)
    assert marks(engine) == [bad.sha256]
    for _ in range(2):
        engine = open_(good, bad, room=1)  # what the supervisor starts tries the newest first
        with pytest.raises(ProbeFailed, match="v2"):
            generate(engine, bad)
        assert generate(engine, good).version == 1
        assert marks(engine) == [bad.sha256]


def test_the_mark_of_a_version_goes_when_it_passes(open_, folder) -> None:
    good, new = version(folder, 1, -1.0), version(folder, 2, -3.0)
    engine = open_(good, new, broken=lambda core: core.held == new.path, room=1)
    with pytest.raises(EngineDied):
        generate(engine, new)
    engine = open_(good, new)
    assert generate(engine, new).logprobs == [-3.0]
    assert marks(engine) == []
    engine = open_(good, new, broken=lambda core: core is type(core).built[0] and core.held == new.path)
    assert generate(engine, new).logprobs == [-3.0]
    assert (len(type(engine._core).built), marks(engine)) == (2, [])


def test_where_the_old_version_has_gone_the_engine_lives_on_and_serves_others(open_, folder) -> None:
    good, bad, next_ = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.5), version(folder, 3, -2.0)
    engine = open_(good, bad, next_)
    generate(engine, good)
    Path(good.path).rename(folder / "removed")
    with pytest.raises(ProbeFailed, match="v2"):
        generate(engine, bad)
    assert engine.stats().version == -1
    with pytest.raises(UnknownWeights):
        generate(engine, good)
    assert generate(engine, next_).logprobs == [-2.0]


def test_weights_elsewhere_are_never_opened(open_, folder, tmp_path, make_settings) -> None:
    good, outside = version(folder, 1, -1.0), version(tmp_path / "elsewhere", 2, -3.0)
    (folder / "link").symlink_to(outside.path)
    linked = replace(outside, version=3, path=str(folder / "link"))
    climbing = replace(outside, version=4, path=f"{folder}/../../elsewhere/v2")
    relative = replace(outside, version=5, path="elsewhere/v2")
    for row in (outside, linked, climbing, relative):
        engine = open_(good, row)
        generate(engine, good)
        with pytest.raises(WeightsElsewhere, match=f"v{row.version}: .*policy.weights_dirs"):
            generate(engine, row)
        assert generate(engine, good).version == 1
        assert type(engine._core).built[0].held == good.path
    settings = make_settings(f'policy.weights_dirs=["{tmp_path / "elsewhere"}"]')
    check_place(settings, outside)
    check_place(settings, linked)
    check_place(make_settings("policy.path=tiny"), replace(weights(0, "base"), path=sampler.resolve("tiny")))


def test_a_directory_that_is_gone_is_refused_for_a_while(open_, folder, monkeypatch) -> None:
    good, late = version(folder, 1, -1.0), version(folder, 2, -3.0)
    hidden = Path(late.path).rename(folder / "not-yet")
    engine = open_(good, late)
    monkeypatch.setattr(policy, "MISSING_S", 0.3)
    with pytest.raises(UnknownWeights, match="deleted, or on another machine"):
        generate(engine, late)
    hidden.rename(late.path)
    with pytest.raises(UnknownWeights):
        generate(engine, late)
    asyncio.run(asyncio.sleep(0.4))
    assert generate(engine, late).version == 2


async def test_the_sampler_goes_on_with_the_old_version_and_says_so_in_one_row(open_, folder, monkeypatch) -> None:
    good, bad = version(folder, 1, -1.0), version(folder, 2, -3.0, told=-1.0)
    engine, kept = open_(good, bad), []
    monkeypatch.setattr(sampler, "attach", lambda _app, _topic, handler, *_, **__: kept.append(handler))
    monkeypatch.setattr(sampler, "stage_app", lambda *_: None)
    from test_sampler import prompt

    sampler.build(engine._settings, engine, Announced(good, bad), Recorder())
    answers = [await kept[0](prompt(name), None) for name in "ab"]
    assert [group.rollouts[0].spans[0].version for group, *_ in answers] == [1, 1]
    (row,) = [row for answer in answers for row in answer if isinstance(row, Filtered)]
    assert (row.stage, row.input_topic, row.input_id) == ("sample", "weights", f"2:{bad.sha256}")
    assert "not sampled from: weights v2" in row.why


async def test_a_sampler_that_can_serve_no_version_ends_and_one_without_any_asks_again(
    open_, folder, monkeypatch
) -> None:
    bad = version(folder, 1, -3.0, told=-1.0)
    engine, kept = open_(bad), []
    monkeypatch.setattr(sampler, "attach", lambda _app, _topic, handler, *_, **__: kept.append(handler))
    monkeypatch.setattr(sampler, "stage_app", lambda *_: None)
    from test_sampler import prompt

    sampler.build(engine._settings, engine, Announced(bad), Recorder())
    with pytest.raises(NothingToServe, match=r"start it with the policy\.path of the factory"):
        await kept[0](prompt("a"), None)
    sampler.build(engine._settings, engine, Announced(), Recorder())
    with pytest.raises(UnknownWeights, match="no weights were announced"):
        await kept[1](prompt("a"), None)
