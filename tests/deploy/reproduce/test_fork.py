"""A fork has the tables of its source, shares no file that grows, and is there whole or not at all."""

from pathlib import Path

import pyarrow as pa
import pytest

from deploy.reproduce import fork as forking
from deploy.reproduce.fork import fork
from processors.dataset import Datasets
from processors.rows import Place, message_batch
from schemas.messages import Example, Problem
from schemas.tables import TABLES

PROBLEM = Problem(id="p", question="q", answer="a", source="s")


def write(data: Path, *messages) -> Datasets:
    datasets = Datasets(data / "datasets")
    datasets.create()
    for message in messages:
        at = int(message.id[1:] or 0)
        table = {Problem: "problems", Example: "examples"}[type(message)]
        place = Place(topic=table, topic_id="t", partition=0, offset=at, time_ms=at, sha="")
        rows = pa.Table.from_batches([message_batch(message, place, TABLES[table])])
        datasets.append(table, rows, {f"{table}:t:0": at})
    return datasets


def example(number: int) -> Example:
    fields = {"tree_id": "t", "trace_sha": "", "problem": PROBLEM, "arm": "direct", "text": "x", "backtracks": 0}
    return Example(id=f"e{number}", verdict="correct", checks=[], **fields)


@pytest.fixture(params=["links", "copies"])
def linking(request, monkeypatch):
    if request.param == "copies":

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(forking.os, "link", refuse)


def test_both_go_their_own_ways(tmp_path, linking):
    source = write(tmp_path / "a", PROBLEM, example(1))
    source.compact("examples", files=0)
    (tmp_path / "a" / "state").mkdir()
    assert fork(tmp_path / "a", tmp_path / "b" / "c", ("problems",))
    assert not (tmp_path / "b" / "c" / "state").exists()
    target = write(tmp_path / "b" / "c", example(1), example(2))
    source = write(tmp_path / "a", example(1), example(2), example(3))
    assert source.ids("problems") == {"p"}
    assert target.ids("problems") == set(), "left out"
    assert source.ids("examples") == {"e1", "e2", "e3"}
    assert target.ids("examples") == {"e1", "e2"}
    assert target.offsets("examples") == {"examples:t:0": 2}


def test_tables_that_are_there_stay(tmp_path):
    write(tmp_path / "a", example(1))
    write(tmp_path / "b", example(2))
    assert not fork(tmp_path / "a", tmp_path / "b")
    assert Datasets(tmp_path / "b" / "datasets").ids("examples") == {"e2"}


def test_half_a_fork_is_begun_anew(tmp_path, monkeypatch):
    write(tmp_path / "a", PROBLEM, example(1))
    real = forking._link
    calls = []

    def dying(source: str, target: str) -> str:
        calls.append(source)
        if len(calls) == 9:
            raise OSError(28, "No space left on device", target)
        return real(source, target)

    monkeypatch.setattr(forking, "_link", dying)
    with pytest.raises(Exception, match="No space left"):
        fork(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b" / "datasets").exists()
    monkeypatch.setattr(forking, "_link", real)
    assert fork(tmp_path / "a", tmp_path / "b")
    assert Datasets(tmp_path / "b" / "datasets").ids("examples") == {"e1"}
