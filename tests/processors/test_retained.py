"""Compaction and retention keep what was: every version stays what it was, and whoever reads sees one of them."""

import datetime as dt
import threading
import time

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_dataset import APP, problem, rows

from processors.dataset import Datasets, NoVersion, app_id
from processors.owning import TableBusy
from schemas.tables import TABLES


@pytest.fixture
def datasets(tmp_path):
    made = Datasets(tmp_path / "datasets")
    made.create()
    return made


def held(datasets, version=None):
    pin = None if version is None else {"problems": version}
    return sorted(row["id"] for row in datasets.rows("problems", pin=pin))


def merge_and_remove(datasets):
    """All rows in one file, and no other file, however young."""
    datasets.compact("problems", files=1)
    return datasets.table("problems").vacuum(0, dry_run=False, enforce_retention_duration=False)


@hypothesis_settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.sampled_from(["append", "append", "other", "skip", "compact"]), min_size=2, max_size=7))
def test_every_version_is_what_it_was_after_its_files_are_gone(tmp_path_factory, steps):
    made = Datasets(tmp_path_factory.mktemp("d"))
    made.create()
    at, was = 0, {}
    for step in ["append", *steps, "append"]:
        topic = "v" if step == "other" else "u"
        app = app_id("problems", topic, 0)
        if step == "compact":
            made.compact("problems", files=1)
        else:
            content = rows(problem(at), first=at, topic_id=topic)
            made.append("problems", content if step != "skip" else content.slice(0, 0), {app: at})
            at += 1
        was[made.versions()["problems"]] = held(made)
    assert merge_and_remove(made)
    assert {version: held(made, version) for version in was} == was
    assert held(made) == max(was.values(), key=len)


def test_rows_of_no_topic_belong_to_the_versions_since_they_came(datasets):
    datasets.append("problems", rows(problem(0)), {APP: 0})
    alone = rows(problem(1)).to_pylist()[0] | {"_topic": "", "_topic_id": "", "_offset": -1, "_partition": -1}
    before = datasets.versions()["problems"]
    time.sleep(0.01)
    alone["_time"] = dt.datetime.now(dt.UTC)
    datasets.append("problems", pa.Table.from_pylist([alone], schema=TABLES["problems"]), {})
    assert merge_and_remove(datasets)
    assert held(datasets, before) == ["p0"]
    assert held(datasets, before + 1) == ["p0", "p1"]


def test_what_was_replaced_in_the_last_hour_stays(datasets):
    for at in range(3):
        datasets.append("problems", rows(problem(at), first=at), {APP: at})
    with datasets.connect() as connection:
        assert Datasets(datasets.root).compact("problems", files=1)
        assert Datasets(datasets.root).vacuum("problems", 0.0) == []
        assert connection.execute("select count(*) from problems").fetchone() == (3,)
    assert len(list(datasets.root.glob("problems/*.parquet"))) == 4


def test_a_version_that_never_was_is_told(datasets):
    with pytest.raises(NoVersion, match="table problems has no version 7: they are 0 to 0"):
        datasets.connect({"problems": 7})


def test_readers_writers_and_merges_at_once_lose_nothing_and_see_nothing_twice(datasets):
    done, seen, merged = threading.Event(), [], []

    def read():
        mine = Datasets(datasets.root)
        while not done.is_set():
            with mine.connect() as connection:
                seen.append(
                    connection.execute("select count(*), count(distinct id), max(_offset) from problems").fetchone()
                )

    def merge():
        mine = Datasets(datasets.root)
        while not done.is_set():
            merged.append(mine.compact("problems", files=2))

    threads = [threading.Thread(target=work) for work in (read, merge)]
    for thread in threads:
        thread.start()
    for at in range(15):
        datasets.append("problems", rows(problem(at), first=at), {APP: at})
    deadline = time.monotonic() + 30
    while not any(merged) and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert any(merged)
    assert all(count == distinct == (-1 if last is None else last) + 1 for count, distinct, last in seen), seen
    assert held(datasets) == sorted(f"p{at}" for at in range(15))


def test_of_two_sinks_that_know_what_is_there_the_one_that_does_not_know_any_more_ends(datasets):
    other = Datasets(datasets.root)
    assert datasets.append("problems", rows(problem(0)), {APP: 0}, commits=0) == 1
    assert datasets.held(["problems"])["problems"].commits == 1
    with pytest.raises(TableBusy, match="another sink, perhaps on another machine, has written the table 'problems'"):
        other.append("problems", rows(problem(0), first=9), {app_id("problems", "another", 0): 9}, commits=0)
    assert datasets.append("problems", rows(problem(1), first=1), {APP: 1}, commits=1) == 1
    assert held(datasets) == ["p0", "p1"]
    assert datasets.offsets("problems") == {APP: 1}, "the count of commits is no offset"
