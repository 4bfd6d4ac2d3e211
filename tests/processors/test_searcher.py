"""The stage: which weights a tree is pinned to, how long it waits for them, and how long a state may grow."""

from types import SimpleNamespace

import msgspec
import pytest
from engine_parts import Recorder

from processors import searcher
from processors.announced import WeightsElsewhere
from processors.app import FATAL
from processors.chat import resolve
from processors.kafka import BrokerMissing
from processors.policy import NothingToServe, ProbeFailed, UnknownWeights
from processors.searcher import choose, context, pinned
from schemas.messages import Filtered, Weights

BASE = Weights(policy="policy", version=0, parent=-1, path="", sha256="b", trainer="base")
SFT = msgspec.structs.replace(BASE, version=2, parent=1, sha256="s", trainer="sft")
RL = msgspec.structs.replace(BASE, version=3, parent=2, sha256="r", trainer="rl")


class Announced:
    """What a follower of the topic would know."""

    def __init__(self, *rows: Weights) -> None:
        self.rows = list(rows)

    def base(self):
        return next((row for row in self.rows if row.trainer == "base"), None)

    def latest(self, trainers=None, refused=()):
        rows = [row for row in self.rows if row.sha256 not in refused]
        rows = [row for row in rows if trainers is None or row.trainer in trainers]
        return max(rows, key=lambda row: row.version, default=None)


@pytest.mark.parametrize(
    ("policy", "rows", "chosen"),
    [
        ("base", (BASE, SFT, RL), BASE),
        ("sft", (BASE, SFT, RL), SFT),
        ("sft", (BASE,), BASE),
        ("latest", (BASE, SFT, RL), RL),
        ("latest", (BASE,), BASE),
        ("latest", (), None),
        ("sft", (), None),
    ],
)
def test_the_policy_that_searches(make_settings, policy, rows, chosen):
    assert choose(make_settings(f"search.policy={policy}"), Announced(*rows)) == chosen


def test_what_the_engine_refused_is_not_chosen_again(make_settings):
    latest = make_settings("search.policy=latest")
    assert choose(latest, Announced(BASE, SFT, RL), {"r"}) == SFT
    assert choose(latest, Announced(BASE, SFT, RL), {"r", "s"}) == BASE
    assert choose(make_settings("search.policy=sft"), Announced(BASE, SFT, RL), {"s"}) == BASE


class Driver:
    """In the search's place: says which weights it was given, or raises what they are to raise."""

    def __init__(self, *_, **__):
        self.asked, self.errors = [], {}

    async def grow(self, _problem, weights):
        self.asked.append(weights.sha256)
        if error := self.errors.get(weights.sha256):
            raise error
        return SimpleNamespace(solved=True, sha=weights.sha256), SimpleNamespace(cuts=0)


class Reported(Recorder):
    def add(self, **_):
        pass


@pytest.fixture
def stage(make_settings, monkeypatch):
    """A driver, and the stage's handler over it."""
    driver, kept = Driver(), []
    monkeypatch.setattr(searcher, "Driver", lambda *_, **__: driver)
    monkeypatch.setattr(searcher, "attach", lambda _app, _topic, handler, *_, **__: kept.append(handler))
    monkeypatch.setattr(searcher, "stage_app", lambda *_: None)
    searcher.build(make_settings("search.policy=latest"), None, Announced(BASE, SFT, RL), None, Reported())
    return driver, kept[0]


@pytest.mark.parametrize("error", [ProbeFailed("other log-probs"), WeightsElsewhere("not ours")])
async def test_what_is_refused_for_good_is_asked_for_once_and_told_in_one_row(stage, error):
    driver, handle = stage
    driver.errors["r"] = error
    (tree, row), (second,) = [await handle(None, None) for _ in range(2)]
    assert (tree.sha, second.sha, driver.asked) == ("s", "s", ["r", "s", "s"])
    assert isinstance(row, Filtered)
    assert (row.stage, row.input_topic, row.input_id) == ("search", "weights", "3:r")
    assert row.why == f"not sampled from: {error}"


async def test_weights_whose_directory_is_late_are_asked_for_again_with_the_next_tree(stage):
    driver, handle = stage
    driver.errors |= {"r": UnknownWeights("not there yet"), "s": ProbeFailed("other log-probs")}
    tree, *rows = await handle(None, None)
    assert tree.sha == "b"
    assert sorted(row.input_id for row in rows) == ["2:s", "3:r"]
    again = await handle(None, None)
    assert [each.sha for each in again] == ["b"], "each version is told once"
    del driver.errors["r"]
    (late,) = await handle(None, None)
    assert late.sha == "r"
    assert driver.asked == ["r", "s", "b", "r", "b", "r"]
    driver.errors |= {"r": UnknownWeights("gone"), "b": UnknownWeights("gone")}
    with pytest.raises(UnknownWeights):
        await handle(None, None)


async def test_a_base_that_is_refused_for_good_ends_the_worker_and_makes_no_dead_letter(stage):
    driver, handle = stage
    driver.errors |= {sha: WeightsElsewhere("not ours") for sha in "rsb"}
    with pytest.raises(NothingToServe, match=r"^not ours\. This worker can serve none .*policy\.path"):
        await handle(None, None)
    assert issubclass(NothingToServe, FATAL)
    assert issubclass(UnknownWeights, FATAL)


async def test_where_a_directory_is_only_late_the_worker_is_not_told_to_be_wrong(stage):
    driver, handle = stage
    driver.errors |= {
        "r": UnknownWeights("not there yet"),
        "s": ProbeFailed("other"),
        "b": WeightsElsewhere("not ours"),
    }
    with pytest.raises(UnknownWeights, match=r"^not there yet$"):
        await handle(None, None)


async def test_without_weights_a_search_waits_and_then_says_why(make_settings):
    announced = Announced()
    with pytest.raises(BrokerMissing, match="no weights were announced"):
        await pinned(make_settings(), announced, wait_s=0.2)
    announced.rows.append(BASE)
    assert await pinned(make_settings(), announced, wait_s=0.2) == BASE


def test_the_context_is_the_models_or_the_settings(make_settings):
    assert context(resolve("tiny"), make_settings()) == 512
    assert context(resolve("tiny"), make_settings("engine.max_model_len=256")) == 256
