"""Old weights go, and none that somebody may still ask for; whoever asks for one that went is told."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from processors.chat import BadPolicy, resolve
from processors.dataset import Datasets, app_id
from processors.expired import MARK
from processors.fits import check_fit
from processors.policy import UnknownWeights
from processors.rows import Place, message_batch
from schemas.codec import content_sha, encode
from schemas.load import load
from schemas.messages import Answers, Evaluation, Filtered, Problem, Weights, content_id
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE
from trainers import checkpoint
from trainers.retention import expendable, retire

DAY = 86_400.0


@pytest.fixture
def made(tmp_path):
    """made("evaluate.versions=[4]") gives settings that keep two versions."""
    return lambda *flags: load(environment={}, flags=[f"factory.data={tmp_path / 'data'}", "weights.keep=2", *flags])


def announced(settings, version, trainer="rl", *, handover=False):
    """A version of a day ago, and its directory."""
    path = Path(settings.factory.data).resolve() / "weights" / f"v{version}"
    path.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (path / name).write_text("{}")
    return Weights(
        policy="policy",
        version=version,
        parent=version - 1,
        path=str(path),
        sha256=f"sha{version}",
        trainer=trainer,
        handover=handover,
        time=time.time() - DAY + version,
    )


def run_of(settings):
    """Base, two versions of SFT, six of RL."""
    return [
        announced(settings, 0, "base"),
        announced(settings, 1, "sft"),
        announced(settings, 2, "sft", handover=True),
        *(announced(settings, version) for version in range(3, 9)),
    ]


def answered(row, asked="a", at=0.0):
    return Answers(
        id=content_id("answers", asked, row.version, row.sha256, "p"),
        asked=asked,
        policy="policy",
        version=row.version,
        sha=row.sha256,
        trainer=row.trainer,
        problem=Problem(id="p", question="q", answer="1", source="s"),
        texts=["1"],
        verdicts=["correct"],
        tokens=[1],
        backtracks=[0],
        finishes=["stop"],
        time=at,
    )


def evaluated(row, asked="a"):
    numbers = dict.fromkeys(("pass_at_1", "low", "high", "tokens", "backtracks", "unparsable"), 0.0)
    return Evaluation(
        id=content_id(row.sha256, asked),
        policy="policy",
        version=row.version,
        sha=row.sha256,
        trainer=row.trainer,
        source="all",
        asked=asked,
        problems=1,
        samples=1,
        greedy=False,
        **numbers,
    )


def table(settings, messages):
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    topic = BY_MESSAGE[type(messages[0])]
    start = datasets.offsets(topic.table).get(app_id(topic.table, "u", 0), -1) + 1
    places = (
        Place(topic=topic.name, topic_id="u", partition=0, offset=at, time_ms=0, sha=content_sha(encode(message)))
        for at, message in enumerate(messages, start)
    )
    batches = [message_batch(*pair, TABLES[topic.table]) for pair in zip(messages, places, strict=True)]
    rows = pa.Table.from_batches(batches)
    datasets.append(topic.table, rows, {app_id(topic.table, "u", 0): start + len(messages) - 1})
    return datasets


def there(rows):
    return [row.version for row in rows if Path(row.path, "model.safetensors").exists()]


def test_only_versions_that_nobody_may_ask_for_go(made):
    settings = made("rl.start_version=3")
    rows = run_of(settings)
    table(settings, rows)
    table(settings, [answered(row) for row in rows])
    datasets = table(settings, [evaluated(row) for row in rows if row.version != 4])
    begun = checkpoint.State(run="rl", trainer="rl", base=rows[5].path, version=6)
    checkpoint.save(Path(settings.factory.data) / "checkpoints" / "rl", begun, lambda _: None)
    told = retire(settings, datasets)
    # 0 base, 2 hand-over, 3 named, 4 not evaluated, 5 a checkpoint's base, 7 and 8 the newest
    assert there(rows) == [0, 2, 3, 4, 5, 7, 8]
    assert [row.input_id for row in told] == ["1:sha1", "6:sha6"]
    assert all("for weights.keep = 2" in row.why and row.why.startswith("expired: ") for row in told)
    assert [file.name for file in Path(rows[6].path).iterdir()] == [MARK]
    assert retire(settings, datasets)[0].id == told[0].id, "told again until its row is there"
    table(settings, told)
    assert retire(settings, datasets) == []
    table(settings, [evaluated(rows[4])])
    assert [row.input_id for row in retire(settings, datasets)] == ["4:sha4"]


def refused(row, stage="sample"):
    why = "not sampled from: the probe failed"
    return Filtered(
        id=content_id(stage, row.version),
        stage=stage,
        input_topic="weights",
        input_id=f"{row.version}:{row.sha256}",
        why=why,
    )


@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_the_version_that_is_served_because_the_newer_ones_were_refused_stays(made, stage):
    settings = made('factory.stages=["sink","rl"]', "weights.keep=1")
    rows = run_of(settings)
    table(settings, [refused(rows[7], stage), refused(rows[8], stage)])
    retire(settings, table(settings, rows))
    assert there(rows) == [0, 2, 6, 7, 8]
    rows.append(announced(settings, 9))
    rows.append(announced(settings, 10))
    retire(settings, table(settings, rows[9:]))
    assert there(rows) == [0, 2, 10]


def test_each_trainers_newest_that_is_served_stays(made):
    settings = made("weights.keep=1")
    rows = [announced(settings, version, "sft" if version < 4 else "rl") for version in range(1, 6)]
    assert [row.version for row in expendable(rows, settings, set(), time.time(), {"3:sha3"})] == [1, 4]


def test_when_every_version_was_refused_none_goes(made):
    settings = made("weights.keep=1")
    rows = run_of(settings)
    assert expendable(rows, settings, set(), time.time(), {f"{row.version}:{row.sha256}" for row in rows}) == []


def test_a_version_was_the_newest_until_the_next_that_is_served(made):
    settings = made("weights.keep=1")
    rows = run_of(settings)
    just = rows[6].time + 2 * settings.search.timeout_s  # version 6 replaced version 4: nobody served version 5
    assert [row.version for row in expendable(rows, settings, set(), just, {"5:sha5"})] == [1, 3]
    assert [row.version for row in expendable(rows, settings, set(), just + 0.5, {"5:sha5"})] == [1, 3, 4, 5]


def test_only_what_the_evaluator_takes_for_done_counts(made):
    settings = made("weights.keep=1")
    rows = run_of(settings)
    table(settings, rows)
    table(settings, [answered(row) for row in rows if row.version != 3])
    datasets = table(settings, [evaluated(row) for row in rows])
    retire(settings, datasets)
    assert there(rows) == [0, 2, 3, 8], "3: the answers that its row counts are not there"
    # Other problems are asked since: whoever was done is to be done again.
    rows.append(announced(settings, 9))
    table(settings, rows[9:])
    table(settings, [answered(rows[9], "b", time.time())])
    retire(settings, table(settings, [evaluated(rows[9], "b")]))
    assert there(rows) == [0, 2, 3, 8, 9]
    table(settings, [answered(rows[8], "b", time.time()), answered(rows[3], "b", time.time())])
    retire(settings, table(settings, [evaluated(rows[8], "b"), evaluated(rows[3], "b")]))
    assert there(rows) == [0, 2, 9]


@pytest.mark.parametrize(("flags", "left"), [([], [0, 2, 8]), (["evaluate.versions=[4,5]"], [0, 2, 4, 8])])
def test_a_version_that_was_given_up_waits_where_it_is_named(made, flags, left):
    settings = made("weights.keep=1", *flags)
    rows = run_of(settings)
    table(settings, rows)
    table(settings, [answered(row) for row in rows])
    table(settings, [refused(rows[4], "evaluate")])
    retire(settings, table(settings, [evaluated(row) for row in rows if row.version != 4]))
    assert there(rows) == left


def test_without_an_evaluator_none_waits_for_it(made):
    settings = made('factory.stages=["sink","rl"]')
    rows = run_of(settings)
    retire(settings, table(settings, rows))
    assert there(rows) == [0, 2, 7, 8]
    assert there(rows[:3]) == [0, 2], "each trainer's newest stays"


def test_what_was_the_newest_a_moment_ago_stays(made):
    settings = made()
    rows = run_of(settings)
    assert [row.version for row in expendable(rows, settings, set(), time.time())] == [1, 3, 4, 5, 6]
    replaced = rows[5].time  # version 5 replaced version 4
    just = replaced + 2 * settings.search.timeout_s
    assert [row.version for row in expendable(rows, settings, set(), just)] == [1, 3]
    assert expendable(rows, settings, {rows[1].path, rows[3].path}, just) == []


def test_a_removal_that_was_interrupted_is_finished(made):
    settings = made('factory.stages=["rl"]')
    rows = run_of(settings)
    Path(rows[6].path, MARK).write_text("expired: before the crash\n")
    told = retire(settings, table(settings, rows))
    assert 6 not in there(rows)
    assert [file.name for file in Path(rows[6].path).iterdir()] == [MARK]
    assert "6:sha6" in [row.input_id for row in told]


def test_other_directories_than_our_own_are_never_touched(made, tmp_path):
    settings = made('factory.stages=["rl"]')
    rows = run_of(settings)
    elsewhere = made(f"factory.data={tmp_path / 'other'}")
    assert expendable(rows, elsewhere, set(), time.time()) == []


def test_whoever_asks_for_one_that_went_is_told(made):
    settings = made('factory.stages=["rl"]')
    rows = run_of(settings)
    retire(settings, table(settings, rows))
    with pytest.raises(BadPolicy, match=r"weights/v6: expired: its files were removed on \d{4}-"):
        resolve(rows[6].path)
    with pytest.raises(UnknownWeights, match=r"no weights there: expired: its files were removed"):
        check_fit(rows[6].path, rows[8].path)
