"""The evaluator's stage: what it does next, what counts as done, and a run on a real broker and a real engine."""

import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from graded import answered, weights
from running import Factory, until
from safetensors.torch import load_file, save_file

from processors.announced import weights_sha
from processors.chat import Chat, resolve
from processors.grading import Grader
from processors.policy import open_engine, refusal
from processors.status import Status
from processors.versions import Versions, ensure_base
from producers.sources.held_out import held_out
from schemas.messages import Answers, Evaluation, Filtered
from schemas.settings import Settings
from trainers import evaluator
from trainers.evaluator import pick
from trainers.samples import Log, draws
from trainers.scores import ALL, summarize, tell


def test_the_newest_and_the_oldest_take_turns():
    pending = [weights(n) for n in (4, 2, 3, 5)]
    order = []
    for turn in range(4):
        order.append(pick(pending, turn).version)
        pending = [row for row in pending if row.version != order[-1]]
    assert order == [5, 2, 4, 3]


def test_a_version_is_done_when_it_is_whole_or_given_up(settings, send_all):
    def row(version: int, source: str, number: int = 1, policy: str = "policy") -> Evaluation:
        one = answered(source, number, "1")
        return summarize([one], weights(version, policy=policy), settings, 1.0)[-1 if source == ALL else 0]

    def told(version: int, policy: str = "policy") -> Answers:
        return tell([answered(ALL, 1, "1")], weights(version, policy=policy), settings)[0]

    given_up = refusal(evaluator.STAGE, weights(4), ValueError("gone"), "evaluated")
    whole = row(1, ALL)
    assert told(1).asked == whole.asked
    answers = [told(1), told(1), told(2), told(3, "other")]
    rows = [row(2, "easy"), row(3, ALL, policy="other"), row(5, ALL, number=2), row(6, ALL)]
    send_all(*answers, whole, *rows, given_up)
    assert evaluator.done_before(settings, whole.asked) == {(1, "sha1"), (4, "sha4")}
    assert evaluator.done_before(settings, "other problems, samples or limits") == {(4, "sha4")}


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
        "sink.flush_s=0.2", f'policy.weights_dirs=["{tmp_path}"]',
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
    host = Status(settings, "engine")
    engine = open_engine(settings, versions, host)

    status = await evaluate_all(settings, engine, versions)
    rows, given_up = factory.topic(Evaluation), factory.topic(Filtered)
    sources = sorted({row.source for row in rows} - {ALL})
    assert len(sources) == 2
    answers = factory.topic(Answers)
    assert Counter((row.version, row.sha) for row in answers) == {(w.version, w.sha256): 6 for w in (base, first)}
    for total in (row for row in rows if row.source == ALL):
        mine = [row for row in answers if (row.version, row.asked) == (total.version, total.asked)]
        assert sum(row.verdicts.count("correct") for row in mine) / 6 == pytest.approx(total.pass_at_1)
        assert sum(row.tokens[0] for row in mine) / 6 == pytest.approx(total.tokens)
    assert Counter((row.version, row.sha, row.source) for row in rows) == {
        (w.version, w.sha256, source): 1 for w in (base, first) for source in [*sources, ALL]
    }
    assert {row.input_id for row in given_up} == {f"{w.version}:{w.sha256}" for w in (refused, lost)}
    assert any("log-probs differ" in row.why for row in given_up)
    assert any("no weights there" in row.why for row in given_up)
    assert status.read()["records"] == 2
    assert status.read()["errors"] + host.read()["errors"] == 2, "a refused version is counted once"
    assert all(row.problems == (6 if row.source == ALL else 3) and 0 < row.tokens <= 96 for row in rows)

    made = engine.stats().tokens
    await evaluate_all(settings, engine, versions)  # a restart that reads the topic
    factory.start()
    until(lambda: [len(factory.rows(kind)) for kind in (Evaluation, Answers, Filtered)] == [6, 12, 2])
    await evaluate_all(settings, engine, versions)  # and one that reads the tables
    assert (len(factory.topic(Evaluation)), len(factory.topic(Filtered))) == (6, 2)
    assert engine.stats().tokens == made

    unwanted = factory_settings("evaluate.problems=1", "evaluate.versions=[2,7]", "sink.flush_s=0.2")
    await evaluate_all(unwanted, engine, versions)
    assert len(factory.topic(Evaluation)) == 6, "of the versions asked for, one was given up and one is not there"

    late = weights(4, weights_sha(tiny), path=str(tiny), time=time.time())
    factory.send(late)
    until(lambda: versions.latest() == late)
    await evaluate_all(settings, engine, versions)
    same = {(row.version, row.source): (row.pass_at_1, row.tokens) for row in factory.topic(Evaluation)}
    assert len(same) == 9
    assert all(same[4, source] == same[0, source] for source in sources), "the same weights, the same draws"
    chat, problems, grader = Chat(str(tiny), settings.policy), held_out(settings), Grader(settings)
    wanted = draws(chat, problems, settings)
    names, drawn = {draw.name for draw in wanted}, []
    for sha in (base.sha256, first.sha256, base.sha256):
        log = Log(settings, sha, names)
        assert set(log.samples) == names, "every sample is on the disk"
        log.samples.clear()
        drawn.append(await evaluator.ask(engine, wanted, grader, log, sha, settings))
        log.close()
    texts = [[one.sample.text for one in answers] for answers in drawn]
    assert texts[0] == texts[2] != texts[1], "the weights asked for are those that answer"
    for answers, version in zip(drawn, (0, 1), strict=False):
        assert sum(one.sample.tokens for one in answers) / 6 == pytest.approx(same[version, ALL][1])
    made = engine.stats().tokens
    more = factory_settings("evaluate.problems=2", "evaluate.max_tokens=96", "sink.flush_s=0.2")
    await evaluate_all(more, engine, versions)
    assert engine.stats().tokens == made, "fewer problems need no new sample"
    assert len(factory.topic(Evaluation)) == 18, "and are another evaluation"
    factory.close()
    engine.close()
    versions.close()
