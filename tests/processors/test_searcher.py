"""The stage: which weights a tree is pinned to, how long it waits for them, and how long a state may grow."""

import msgspec
import pytest

from processors.chat import resolve
from processors.kafka import BrokerMissing
from processors.searcher import choose, context, pinned
from schemas.messages import Weights

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


async def test_without_weights_a_search_waits_and_then_says_why(make_settings):
    announced = Announced()
    with pytest.raises(BrokerMissing, match="no weights were announced"):
        await pinned(make_settings(), announced, wait_s=0.2)
    announced.rows.append(BASE)
    assert await pinned(make_settings(), announced, wait_s=0.2) == BASE


def test_the_context_is_the_models_or_the_settings(make_settings):
    assert context(resolve("tiny"), make_settings()) == 512
    assert context(resolve("tiny"), make_settings("engine.max_model_len=256")) == 256
