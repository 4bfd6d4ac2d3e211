"""`factory compact` as a person types it, and the files that it clears away beside the tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deploy import compact, leftovers
from deploy.leftovers import clear
from processors import kafka
from processors.dataset import Datasets, NoDatasets, app_id
from processors.large import folder, packed
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.load import BadSettings
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE

FACTORY = [sys.executable, "-m", "deploy.cli"]
SHAS = ("done", "begun", "torn", "past", "young")
"""Evaluated; not yet; without the answers that the row counts; with other problems than now; just now."""


def problem(number, **other):
    return m.Problem(**{"id": f"p{number}", "question": "1+1?", "answer": "2", "source": "s", **other})


def write(datasets, message, offset, topic_id="u"):
    import pyarrow as pa

    topic = BY_MESSAGE[type(message)]
    sha = content_sha(encode(message))
    place = Place(topic=topic.name, topic_id=topic_id, partition=0, offset=offset, time_ms=0, sha=sha)
    rows = pa.Table.from_batches([message_batch(message, place, TABLES[topic.table])])
    datasets.append(topic.table, rows, {app_id(topic.table, topic_id, 0): offset})


@pytest.fixture
def filled(make_settings):
    settings = make_settings()
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    for at in range(4):
        write(datasets, problem(at), at)
    return settings, datasets


def test_tables_are_merged_and_what_was_done_is_said(filled):
    settings, datasets = filled
    assert compact.render(compact.run(settings, ["problems"], None)) == "problems: 4 files into 1"
    assert compact.render(compact.run(settings, [], None)) == "nothing to do: every table lies in few files already"
    for file in datasets.root.glob("problems/*.parquet"):
        os.utime(file, (0, 0))
    assert compact.run(settings, [], 0.0)[0].removed == 0, "what was replaced in the last hour stays"
    assert datasets.ids("problems") == {f"p{at}" for at in range(4)}


def test_mistakes_are_told(filled, make_settings):
    settings, _ = filled
    with pytest.raises(BadSettings, match="no table 'problem'; there are: problems, trees"):
        compact.run(settings, ["problem"], None)
    with pytest.raises(NoDatasets, match="factory up"):
        compact.run(make_settings("factory.data=/nowhere"), [], None)


def test_the_command_mends_a_table_and_says_so(filled):
    settings, datasets = filled
    torn = max((datasets.root / "problems" / "_delta_log").glob("0*.json"))
    torn.write_bytes(torn.read_bytes()[:99])
    asked = subprocess.run(
        [*FACTORY, "sql", "select 1", "--data", settings.factory.data], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    command = asked.stderr.partition("`")[2].partition("`")[0].split()
    assert command[:3] == ["factory", "compact", "problems"]
    done = subprocess.run([*FACTORY, *command[1:], "--json"], capture_output=True, text=True, check=True)
    (table,) = json.loads(done.stdout)
    assert (table["files_before"], table["files"]) == (3, 1)
    assert "back to version 3" in table["said"][0]
    assert datasets.ids("problems") == {"p0", "p1", "p2"}


def aged(path):
    os.utime(path, (0, 0))
    return path


def test_a_message_that_travelled_as_a_file_goes_when_nobody_can_ask_for_it(factory_settings):
    settings = factory_settings("broker.message_max_bytes=20000")
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    identity = kafka.topic_ids(settings)["problems"]
    messages = [problem(at, question=str(at) * 20_000) for at in range(4)]
    values = [packed(settings, message) for message in messages]
    passed, waiting, dead, young = (
        folder(settings) / f"{msgspec.json.decode(value)['sha256']}.json.zst" for value in values
    )
    producer = kafka.producer(settings)
    for value in values[:2]:
        producer.send("problems", value=value, partition=0).get(5)
    producer.close()
    write(datasets, messages[0], 0, identity)
    write(datasets, messages[1], 1, identity)
    write(datasets, m.DeadLetter(id="d", stage="search", topic="problems", value=values[2], error="e"), 0)
    consumer = kafka.consumer(settings, group="search")
    at = kafka.TopicPartition("problems", 0)
    consumer.assign([at])
    consumer.commit({at: kafka_offset(1)})
    for path in (passed, waiting, dead):
        aged(path)
    assert clear(settings, datasets, 3600.0)["large"] == [passed]
    assert all(path.exists() for path in (waiting, dead, young))
    consumer.commit({at: kafka_offset(2)})
    consumer.close()
    assert clear(settings, datasets, 3600.0)["large"] == [waiting]


def kafka_offset(offset):
    from kafka import OffsetAndMetadata

    return OffsetAndMetadata(offset, "", -1)


def test_a_letter_that_is_no_row_yet_keeps_the_file_of_its_message(factory_settings, monkeypatch):
    settings = factory_settings("broker.message_max_bytes=20000")
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    values = [packed(settings, problem(at, question=str(at) * 20_000)) for at in range(2)]
    paths = [aged(folder(settings) / f"{msgspec.json.decode(value)['sha256']}.json.zst") for value in values]
    letters = [
        m.DeadLetter(id=value[-9:].hex(), stage="search", topic="problems", value=value, error="e") for value in values
    ]

    producer = kafka.producer(settings)
    for topic, value in (("dead.letters", b"?"), ("dead.letters", encode(letters[0])), ("problems", values[1])):
        producer.send(topic, value=value, partition=0).get(5)
    producer.close()
    asked = kafka.committed

    def committed(*which):
        """In the moment before it is asked, the stage ends its work on the second message."""
        if which[1] == "search":
            write(datasets, letters[1], 0)
            consumer = kafka.consumer(settings, group="search")
            consumer.assign([at := kafka.TopicPartition("problems", 0)])
            consumer.commit({at: kafka_offset(1)})
            consumer.close()
        return asked(*which)

    monkeypatch.setattr(kafka, "committed", committed)
    identity = kafka.topic_ids(settings)["problems"]
    write(datasets, problem(1, question="1" * 20_000), 0, identity)
    assert clear(settings, datasets, 3600.0)["large"] == []
    assert all(path.exists() for path in paths)


def test_a_file_that_became_young_while_the_records_were_read_stays(filled, monkeypatch):
    settings, datasets = filled
    folder(settings).mkdir()
    old, anew = (folder(settings) / f"{name}.json.zst" for name in ("old", "anew"))
    for path in (old, anew):
        path.touch()
        aged(path)

    def needed(*_):
        anew.touch()  # its message is sent again
        return iter(())

    monkeypatch.setattr(leftovers, "_needed", needed)
    assert clear(settings, datasets, 3600.0)["large"] == [old]
    assert anew.exists()


def test_samples_go_when_their_version_is_evaluated(filled):
    settings, datasets = filled
    answers = Path(settings.factory.data) / "answers"
    answers.mkdir()
    done, begun, torn, past, _ = paths = [answers / f"{sha}.jsonl" for sha in SHAS]
    for path in paths:
        path.write_text("{}\n")
    for at, sha in enumerate(sha for sha in SHAS if sha not in ("begun", "torn")):
        told = m.Answers(
            id=sha,
            asked="before" if sha == "past" else "now",
            policy="p",
            version=1,
            sha=sha,
            trainer="rl",
            problem=problem(0),
            texts=["2"],
            verdicts=["correct"],
            tokens=[1],
            backtracks=[0],
            finishes=["stop"],
            time=0.0 if sha == "past" else 1.0,
        )
        write(datasets, told, at)
    for at, sha in enumerate(sha for sha in SHAS if sha != "begun"):
        numbers = dict.fromkeys(("pass_at_1", "low", "high", "tokens", "backtracks", "unparsable"), 0.0)
        row = m.Evaluation(
            id=sha,
            policy="p",
            version=1,
            sha=sha,
            trainer="rl",
            source="all",
            asked="before" if sha == "past" else "now",
            problems=1,
            samples=1,
            greedy=False,
            **numbers,
        )
        write(datasets, row, at)
    for path in (done, begun, torn, past):
        aged(path)
    assert clear(settings, datasets, 3600.0) == {"large": [], "answers": [done]}
