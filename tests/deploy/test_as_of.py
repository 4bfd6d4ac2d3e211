"""`factory sql --as-of`: the tables as they were, by time and by version."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from test_compact import problem, write

from deploy import sql
from deploy.as_of import pinned
from processors.dataset import Datasets, NoVersion
from processors.delta_log import committed_at
from schemas import messages as m
from schemas.load import BadSettings

COUNT = "select (select count(*) from problems) as p, (select count(*) from filtered) as f"


@pytest.fixture
def filled(make_settings):
    settings = make_settings()
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    for at in range(3):
        write(datasets, problem(at), at)
        time.sleep(0.01)
        write(datasets, m.Filtered(id=f"f{at}", stage="s", input_topic="t", input_id="i", why="w"), at)
        time.sleep(0.01)
    return settings, datasets


def counts(settings, text, now=None):
    pin = pinned(sql.datasets(settings), text, now or datetime.now(UTC))
    return tuple(sql.query(settings, COUNT, pin).to_pylist()[0].values())


def test_a_tables_version_is_a_moment_for_all_of_them(filled):
    settings, _ = filled
    assert [counts(settings, f"problems@{version}") for version in range(1, 4)] == [(1, 0), (2, 1), (3, 2)]
    assert counts(settings, "filtered@1") == (1, 1)
    assert counts(settings, "filtered@1,problems@3") == (3, 1), "whoever is named is at just that version"
    assert counts(settings, "filtered@3") == (3, 3)


def test_a_time_is_what_was_committed_until_then(filled):
    settings, datasets = filled
    moment = committed_at(datasets.root / "problems", 2)
    then = datetime.fromtimestamp(moment / 1000, UTC)
    assert counts(settings, then.isoformat()) == (2, 1)
    assert counts(settings, (then - timedelta(milliseconds=1)).isoformat()) == (1, 1)
    there = timezone(timedelta(hours=5, minutes=30))
    local = then.astimezone(there).replace(tzinfo=None).isoformat(sep=" ")
    assert counts(settings, local, datetime.now(there)) == (2, 1), "a time without a zone is local"
    assert counts(settings, "2s", then + timedelta(seconds=2)) == (2, 1)


def test_what_it_was_is_told_though_its_files_are_gone(filled):
    settings, datasets = filled
    assert datasets.compact("problems", files=1)
    datasets.table("problems").vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert counts(settings, "problems@2") == (2, 1)
    assert sql.answer(settings, "select max(id) as top from problems", "csv", {"problems": 1}).split() == ["top", "p0"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesterday", "write a time .* or versions of tables"),
        ("12", "say whose version this is: examples@12"),
        ("problem@1", "no table 'problem'; there are: problems, trees"),
        ("problems@", "write a time"),
        ("problems@-1", "write a time"),
        ("2031-01-01", "that is still to come; now is "),
        ("2001-01-01", "the tables begin at 20"),
    ],
)
def test_a_mistake_is_one_sentence(filled, text, says):
    with pytest.raises(BadSettings, match=says):
        pinned(filled[1], text, datetime.now(UTC))


def test_a_version_that_never_was_is_told(filled):
    with pytest.raises(NoVersion, match="table problems has no version 9: they are 0 to 3"):
        pinned(filled[1], "problems@9", datetime.now(UTC))


def test_the_command(filled):
    settings, _ = filled
    command = [sys.executable, "-m", "deploy.cli", "sql", COUNT, "--data", settings.factory.data, "--csv"]
    done = subprocess.run([*command, "--as-of", "problems@2"], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["p,f", "2,1"], "")
