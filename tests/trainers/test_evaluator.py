"""The evaluator: its intervals against published ones, its rows, and the stage on a real broker and a real engine."""

import shutil
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Factory, until
from safetensors.torch import load_file, save_file

from processors.adaptive import wilson
from processors.chat import Chat, count_backtracks, resolve
from processors.grading import Grader, Verdict
from processors.policy import Completion, open_engine
from processors.status import Status
from processors.versions import Versions, ensure_base, weights_sha
from producers.sources.held_out import held_out
from schemas.messages import Evaluation, Filtered, Problem, Weights, content_id
from schemas.settings import EvaluateSection, Settings
from trainers import evaluator
from trainers.evaluator import ALL, Answered, interval, pick, summarize

SHARES = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=40)


def weights(version: int, sha: str = "", **fields) -> Weights:
    values = {"policy": "policy", "parent": version - 1, "path": f"/w/{version}", "trainer": "sft"} | fields
    return Weights(version=version, sha256=sha or f"sha{version}", **values)


def answered(source: str, number: int, *, right: bool, text: str = "", tokens: int = 10) -> Answered:
    problem = Problem(id=content_id(source, number), question=f"{number}?", answer="1", source=source)
    made = Completion(token_ids=[7] * tokens, logprobs=[], text=text, finish="stop", version=1, sha="sha1")
    return Answered(problem, made, Verdict("correct" if right else "unparsable", "1"))


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(correct, total, low, high):
    """Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    assert wilson(correct, total) == pytest.approx((low, high), abs=6e-5)
    assert wilson(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=6e-5)


def test_without_a_problem_anything_is_possible():
    assert wilson(0, 0) == (0.0, 1.0)
    assert interval([], 1) == interval([], 4) == (0.0, 1.0)


@given(SHARES)
def test_an_interval_holds_its_mean_and_stays_within_0_and_1(shares):
    low, high = interval(shares, 4)
    mean = sum(shares) / len(shares)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert interval(shares, 4) == (low, high), "the same shares, the same interval"


def test_the_problem_is_the_unit_however_many_samples_it_has():
    """100 problems, half of them always right: +-1.96 * 0.05, not the +-0.049 of 400 independent samples."""
    low, high = interval([1.0, 0.0] * 50, 4)
    assert (low, high) == pytest.approx((0.402, 0.598), abs=0.02)
    assert interval([1.0] * 20, 4) == wilson(20, 20), "a bootstrap of equal shares would claim certainty"


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = Random(1)
    covered = 0
    for _ in range(100):
        shares = [sum(rng.random() < p for _ in range(4)) / 4 for p in (rng.random() for _ in range(40))]
        low, high = interval(shares, 4)
        covered += low <= 0.5 <= high
    assert 88 <= covered <= 99


def test_a_row_for_each_source_and_the_last_is_the_mean_over_every_problem():
    settings = Settings(evaluate=EvaluateSection(samples=2))
    back = "Let's go back to where we were. Let's restart our solution from the beginning."
    easy = [answered("easy", n, right=True, tokens=4) for n in range(3) for _ in range(2)]
    hard = [answered("hard", 1, right=k == 0, text=back, tokens=20) for k in range(2)]
    rows = summarize([*easy, *hard], weights(1), settings, 2.5)
    assert [(row.source, row.problems, row.samples, row.pass_at_1) for row in rows] == [
        ("easy", 3, 2, 1.0), ("hard", 1, 2, 0.5), (ALL, 4, 2, 0.875),
    ]  # fmt: skip
    total = rows[-1]
    assert (total.tokens, total.unparsable, total.seconds) == (8.0, 1 / 8, 2.5)
    assert total.backtracks == 2 * count_backtracks(back) / 8 == 0.5
    assert all((row.version, row.sha, row.trainer) == (1, "sha1", "sft") for row in rows)
    assert len({row.id for row in rows}) == 3
    assert [row.id for row in summarize([*hard, *easy], weights(1), settings, 9)] == [row.id for row in rows]
    assert {row.id for row in summarize([*easy, *hard], weights(2), settings, 1)}.isdisjoint(row.id for row in rows)


def test_the_newest_and_the_oldest_take_turns():
    pending = [weights(n) for n in (4, 2, 3, 5)]
    order = []
    for turn in range(4):
        order.append(pick(pending, turn).version)
        pending = [row for row in pending if row.version != order[-1]]
    assert order == [5, 2, 4, 3]


def test_a_version_is_done_when_it_is_whole_or_given_up(settings, send_all):
    def row(version: int, source: str, policy: str = "policy") -> Evaluation:
        one = answered(source, 1, right=True)
        return summarize([one], weights(version, policy=policy), settings, 1.0)[-1 if source == ALL else 0]

    given_up = evaluator._given_up(weights(4), ValueError("gone"))
    send_all(row(1, ALL), row(2, "easy"), row(3, ALL, policy="other"), given_up)
    assert evaluator.done_before(settings) == {(1, "sha1"), (4, "sha4")}


def changed(directory: Path, target: Path, scale: float) -> Path:
    """The policy with its weights scaled a little: another sha, still a model."""
    shutil.copytree(directory, target)
    state = load_file(target / "model.safetensors")
    save_file({name: value * scale for name, value in state.items()}, target / "model.safetensors", {"format": "pt"})
    return target


async def evaluate_all(settings: Settings, engine, versions: Versions) -> Status:
    grader, status = Grader(settings), Status(settings, "evaluate")
    await evaluator.run(settings, engine, versions, grader, status, once=True)
    grader.close()
    return status


@pytest.mark.slow
async def test_every_version_is_evaluated_once_and_a_bad_one_is_a_row_that_says_why(factory_settings, tmp_path):
    settings = factory_settings(
        "evaluate.problems=3", "evaluate.max_tokens=96", "engine.kv_cache_gb=0.1", "engine.max_num_seqs=16",
        "sink.flush_s=0.2",
    )  # fmt: skip
    tiny, factory, versions = Path(resolve("tiny")), Factory(settings), Versions(settings)
    factory.close()  # at first nobody writes tables: what was done is known from the topic
    base = ensure_base(settings, versions)
    good, bad = changed(tiny, tmp_path / "good", 0.9), changed(tiny, tmp_path / "bad", 1.1)
    probe = {"probe_ids": list(range(5, 25)), "probe_logprobs": [-9.0] * 19}
    first = weights(1, weights_sha(good), path=str(good))
    refused = weights(2, weights_sha(bad), path=str(bad), **probe)
    lost = weights(3, "0" * 64, path=str(tmp_path / "lost"))
    factory.send(first, refused, lost)
    until(lambda: len(versions.all()) == 4)
    engine = open_engine(settings, versions, Status(settings, "engine"))

    status = await evaluate_all(settings, engine, versions)
    rows, given_up = factory.topic(Evaluation), factory.topic(Filtered)
    sources = sorted({row.source for row in rows} - {ALL})
    assert len(sources) == 2
    assert Counter((row.version, row.sha, row.source) for row in rows) == {
        (w.version, w.sha256, source): 1 for w in (base, first) for source in [*sources, ALL]
    }
    assert {row.input_id for row in given_up} == {f"{w.version}:{w.sha256}" for w in (refused, lost)}
    assert any("log-probs differ" in row.why for row in given_up)
    assert any("no *.safetensors" in row.why for row in given_up)
    assert status.read()["records"] == status.read()["errors"] == 2
    assert all(row.problems == (6 if row.source == ALL else 3) and 0 < row.tokens <= 96 for row in rows)

    made = engine.stats().tokens
    await evaluate_all(settings, engine, versions)  # a restart that reads the topic
    factory.start()
    until(lambda: len(factory.rows(Evaluation)) == 6 and len(factory.rows(Filtered)) == 2)
    await evaluate_all(settings, engine, versions)  # and one that reads the tables
    assert (len(factory.topic(Evaluation)), len(factory.topic(Filtered))) == (6, 2)
    assert engine.stats().tokens == made

    late = weights(4, weights_sha(tiny), path=str(tiny), time=time.time())
    factory.send(late)
    until(lambda: versions.latest() == late)
    await evaluate_all(settings, engine, versions)
    same = {(row.version, row.source): (row.pass_at_1, row.tokens) for row in factory.topic(Evaluation)}
    assert len(same) == 9
    assert all(same[4, source] == same[0, source] for source in sources), "the same weights, the same draws"
    chat, problems, grader = Chat(str(tiny), settings.policy), held_out(settings), Grader(settings)
    drawn = [
        [one.completion.token_ids for one in await evaluator.ask(engine, chat, problems, grader, sha, settings)]
        for sha in (base.sha256, first.sha256, base.sha256)
    ]
    assert drawn[0] == drawn[2] != drawn[1], "the weights asked for are those that answer"
    assert sum(map(len, drawn[0])) / 6 == pytest.approx(same[0, ALL][1])
    assert sum(map(len, drawn[1])) / 6 == pytest.approx(same[1, ALL][1])
    factory.close()
    engine.close()
    versions.close()
