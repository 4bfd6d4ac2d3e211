"""The supervisor's edges: one factory a data directory, a full disk, and what the summary says of an empty factory."""

import errno
import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from deploy.cli import explain
from deploy.local import Factory
from deploy.options import seconds
from deploy.process import GaveUp
from deploy.summary import print_summary
from processors import kafka
from processors.dataset import Datasets
from schemas.load import BadSettings
from schemas.topics import TOPICS


def test_a_second_factory_on_the_same_data_is_refused_in_a_sentence(make_settings) -> None:
    first = Factory(make_settings())
    with pytest.raises(BadSettings, match="another `factory up` runs there"):
        Factory(make_settings())
    first.close()
    Factory(make_settings()).close()


def test_a_broker_that_died_is_started_anew_and_one_that_keeps_dying_stops_the_factory(
    make_settings, monkeypatch
) -> None:
    monkeypatch.setattr("deploy.local.plan", lambda _: [])
    factory = Factory(make_settings("factory.restart_limit=3"))
    factory._open()
    for deaths in (1, 2):
        address = factory.broker.address
        factory.broker.process.kill()
        factory.broker.process.wait()
        factory._watch(lambda _: None)
        assert factory.recycled == deaths
        assert kafka.bootstrap(factory.settings) == factory.broker.address != address
        assert len(kafka.topic_ids(factory.settings)) == len(TOPICS)
    factory.broker.process.kill()
    factory.broker.process.wait()
    with pytest.raises(GaveUp, match=r"died 3 times in a row: see .*broker.log"):
        factory._watch(lambda _: None)
    factory.close()


def test_a_stop_that_comes_while_the_broker_is_dead_starts_nothing_anew(make_settings, monkeypatch) -> None:
    monkeypatch.setattr("deploy.local.plan", lambda _: [])
    factory = Factory(make_settings())
    factory._open()
    factory.broker.process.kill()
    factory.broker.process.wait()
    factory._on_signal(15, None)
    factory._watch(lambda _: None)
    assert factory.recycled == 0
    factory._stop_all(lambda _: None)
    factory.close()


def test_a_full_disk_stops_the_start_in_a_sentence(make_settings, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(BadSettings, match="only 1 MB free"):
        Factory(make_settings())


def test_a_file_where_the_data_should_be_is_said_in_a_sentence(make_settings) -> None:
    settings = make_settings()
    Path(settings.factory.data).write_text("not a directory")
    with pytest.raises(BadSettings, match="not writable"):
        Factory(settings)


def test_an_error_of_ours_keeps_its_traceback_and_one_for_the_reader_is_a_sentence() -> None:
    assert explain(ValueError("a defect")) is None
    assert explain(BadSettings("search.k: must be at least 1")) == "search.k: must be at least 1"
    for number in (errno.ENOSPC, errno.EDQUOT):
        full = explain(OSError(number, os.strerror(number), "/somewhere/trees"))
        assert full is not None
        assert "/somewhere/trees: the disk is full" in full


def test_the_summary_of_an_empty_factory_is_all_zeros_and_closes(make_settings) -> None:
    settings = make_settings()
    Datasets(Path(settings.factory.data) / "datasets").create()
    out = io.StringIO()
    print_summary(settings, Console(file=out, width=120))
    text = out.getvalue()
    assert "It closes: 0 ids taken in" in text
    assert "dead_letters" in text
    assert text.count("factory sql") == 3


@pytest.mark.parametrize(("text", "expected"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected
