"""Tables and weights on a store: two writers of one version, versions whose files are gone, what cannot be reached."""

import contextlib
import json
import os
import re
import shutil
import threading
from pathlib import Path

import duckdb
import httpx
import msgspec
import obstore
import pytest
from deltalake import Transaction
from deltalake.exceptions import CommitFailedError
from test_dataset import problem, rows
from typer.testing import CliRunner

from deploy import attach, cli
from deploy.cli import explain
from deploy.studio.tables import Tables
from processors.announced import WeightsElsewhere, weights_sha
from processors.appending import commit
from processors.cached import KEEP_S, at_hand, cache
from processors.dataset import Datasets, NoVersion, app_id
from processors.owning import TableBusy
from processors.places import NotOnStore
from processors.policy import ProbeFailed, UnknownWeights
from processors.store import Store, StoreFailed
from schemas.load import BadSettings
from schemas.messages import DeadLetter, Filtered, Weights

WEIGHTS = Weights(policy="policy", version=1, parent=0, path="s3://b/weights/v1", sha256="s", trainer="sft", time=1.0)


@pytest.fixture
def here(make_settings, store):
    return make_settings(f"factory.store={store}")


@pytest.fixture(scope="module")
def datasets(make_store, tmp_path_factory):
    """Tables on a store; a test takes a table of its own."""
    with pytest.MonkeyPatch.context() as environment:
        made = Datasets(tmp_path_factory.mktemp("data") / "datasets", Store(make_store(environment)))
        made.create()
        yield made


def reason(number):
    return Filtered(id=f"f{number}", stage="s", input_topic="t", input_id="i", why="w")


def test_of_two_commits_of_one_version_one_loses(datasets):
    for round_ in range(10):
        writers = [datasets.table("problems") for _ in range(2)]
        together, won = threading.Barrier(2), []

        def write(table, together=together, won=won, round_=round_):
            together.wait()
            with contextlib.suppress(CommitFailedError):
                commit(table, rows(problem(round_)), [Transaction("same", round_)])
                won.append(table)

        threads = [threading.Thread(target=write, args=(table,)) for table in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
    table = datasets.table("problems")
    assert (table.version(), table.count()) == (10, 10)


def test_of_two_sinks_on_two_machines_one_ends(datasets, tmp_path):
    app = app_id("filtered", "u", 0)
    other = Datasets(tmp_path / "datasets", datasets.place.store)
    other.create()
    known = other.held(["filtered"])["filtered"]
    assert datasets.append("filtered", rows(reason(1)), {app: 0}, 0) == 1
    with pytest.raises(TableBusy, match="on another machine"):
        other.append("filtered", rows(reason(1)), {app: 0}, known.commits)
    assert other.shas("filtered").keys() == {"f1"}
    assert other.offsets("filtered") == {app: 0}


def test_every_version_is_what_it_was_after_its_files_are_gone(datasets):
    def ids(version):
        return sorted(letter.id for letter in datasets.messages(DeadLetter, pin={"dead_letters": version}))

    for number in range(2):
        letter = DeadLetter(id=f"d{number}", stage="s", topic="t", key=b"", value=b"\x00", error="e", time=1.0)
        datasets.append("dead_letters", rows(letter, first=number), {app_id("dead_letters", "u", 0): number})
    assert datasets.compact("dead_letters", files=1)
    datasets.table("dead_letters").vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert [ids(version) for version in (1, 3)] == [["d0"], ["d0", "d1"]]
    with pytest.raises(NoVersion, match="they are 0 to"):
        ids(99)


def test_the_studios_questions_see_the_tables(datasets, tmp_path):
    tables = Tables(tmp_path / "data", datasets=datasets)
    datasets.append("weights", rows(WEIGHTS), {app_id("weights", "u", 0): 0})
    assert tables.rows("SELECT path FROM weights") == [{"path": WEIGHTS.path}]
    assert tables.rows("SELECT count(*) AS n FROM superseded") == [{"n": 0}]
    assert tables.snapshot().lacking == {}


def test_a_query_reaches_nothing_else_on_the_store(datasets):
    with datasets.connect() as connection, pytest.raises(duckdb.PermissionException):
        connection.execute(f"SELECT * FROM read_text('{datasets.place.store.url}/.fence')")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the store does not answer: is AWS_ENDPOINT_URL right"),
        ({"bucket": "nowhere-at-all"}, "there is no such bucket"),
        ({"bucket": "careless"}, "overwrites what is there though it is asked not to"),
    ],
    ids=lambda value: next(iter(value.items()), "")[0] if isinstance(value, dict) else "",
)
def test_a_store_that_cannot_be_used_is_told_in_a_sentence(make_settings, store, s3_server, monkeypatch, change, said):
    httpx.put(f"{s3_server}/careless").raise_for_status()
    monkeypatch.setattr("processors.store.QUICK_S", 1.0)
    for name, value in change.items():
        if name != "bucket":
            monkeypatch.setenv(name, value)
    where = f"s3://{change['bucket']}/run" if "bucket" in change else store
    with pytest.raises(StoreFailed) as caught:
        Datasets.of(make_settings(f"factory.store={where}")).create()
    sentence = explain(caught.value)
    assert said in sentence
    assert where in sentence
    assert "TESTKEYID" not in sentence
    assert "test-secret" not in sentence


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["factory.store=https://bucket/run"], "factory.store: write s3://BUCKET or s3://BUCKET/PREFIX"),
        (["factory.store=s3://key:secret@bucket"], "factory.store: write s3://BUCKET or s3://BUCKET/PREFIX"),
        (["factory.store=s3://bucket/../x"], "factory.store: write s3://BUCKET or s3://BUCKET/PREFIX"),
        (["factory.store=s3://bucket", "weights.keep=3"], "weights.keep on s3:// is not supported"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_that_no_store_can_follow_are_refused(make_settings, flags, said):
    with pytest.raises(BadSettings, match=re.escape(said)) as caught:
        make_settings(*flags)
    assert "secret" not in str(caught.value)


def test_what_is_not_supported_on_a_store_is_refused(here, monkeypatch):
    with pytest.raises(NotOnStore, match="--attach-script on s3:// is not supported"):
        attach.script(here)
    monkeypatch.setenv("FACTORY_FACTORY_STORE", here.factory.store)
    done = CliRunner().invoke(cli.app, ["reproduce", "--scale", "smoke", "--dry-run"])
    assert isinstance(done.exception, NotOnStore)


@pytest.fixture
def published(here, store, tmp_path):
    """A version on the store, and its announcement."""
    folder = tmp_path / "v1"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "config.json").write_text(json.dumps({"model_type": "x"}))
    Store(store).upload(folder, "weights/v1")
    return msgspec.structs.replace(WEIGHTS, path=f"{store}/weights/v1", sha256=weights_sha(folder))


def test_weights_come_once_and_are_those_that_were_announced(here, published, store, tmp_path):
    found = at_hand(here, published)
    assert Path(found.path).is_relative_to(tmp_path / "data")
    assert weights_sha(found.path) == published.sha256
    assert (Path(found.path) / "config.json").is_file()
    Store(store).delete(["weights/v1/model.safetensors", "weights/v1/config.json"])
    assert at_hand(here, published) == found
    shutil.rmtree(found.path)
    with pytest.raises(UnknownWeights, match="not to be had from"):
        at_hand(here, published)


def test_damaged_weights_are_refused_and_nothing_of_them_stays(here, published, store):
    obstore.put(Store(store).files, "weights/v1/model.safetensors", b"something else")
    with pytest.raises(ProbeFailed, match="not the files that were announced"):
        at_hand(here, published)
    assert list(cache(here).iterdir()) == []


@pytest.mark.parametrize("path", ["s3://another/run/weights/v1", "{store}/weights/v2", "{store}/weights/../secret"])
def test_weights_elsewhere_are_refused(here, make_settings, published, store, path):
    odd = msgspec.structs.replace(published, path=path.format(store=store))
    for settings in (here, make_settings()):
        with pytest.raises(WeightsElsewhere, match="is not where they should be"):
            at_hand(settings, odd)


def test_what_nobody_asks_for_leaves_the_cache(here, published, monkeypatch):
    old = cache(here) / "0ld"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    kept = Path(at_hand(here, published).path)
    assert list(cache(here).iterdir()) == [kept]
    assert KEEP_S >= 3600
