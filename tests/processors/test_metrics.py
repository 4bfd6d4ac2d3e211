"""A process's numbers as Prometheus reads them: over HTTP, on loopback, the same as in its status file."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from deploy import stages
from deploy.broker import free_port
from processors import kafka, metrics
from processors.metrics import NUMBERS, serving
from processors.status import BOUNDS_S, Status, read_all
from schemas.load import BadSettings
from schemas.messages import Problem
from trainers import rl


def scraped(address):
    """Every sample by its name and labels, as the parser of Prometheus' own client reads it."""
    with urlopen(address, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def targets(settings):
    return [json.loads(path.read_text()) for path in sorted((Path(settings.factory.data) / "metrics").glob("*.json"))]


def test_a_scrape_tells_what_the_status_counts(make_settings):
    settings = make_settings()
    with Status(settings, "search") as search, Status(settings, "sample") as sample:
        search.add(records=3, errors=1, tokens=250)
        search.set(version=7)
        with serving(settings, [search, sample]) as address, sample.in_flight:
            found = scraped(address)
            search.add(records=2)
            again = scraped(address)
            search.write()
            (row,) = (row for row in read_all(settings.factory.data) if row["stage"] == "search")
    assert found["factory_search_records_total",] == 3
    assert again["factory_search_records_total",] == 5 == row["records"]
    assert found["factory_search_errors_total",] == 1
    assert found["factory_search_retries_total",] == 0, "a counter is there before it counts"
    assert found["factory_search_tokens_total",] == 250
    assert found["factory_search_weights_version",] == 7
    assert found["factory_sample_in_flight",] == 1
    assert ("factory_sample_weights_version",) not in found, "nothing is told that nobody knows"
    assert ("factory_search_lag",) not in found
    assert found["process_resident_memory_bytes",] > 1e6
    assert row["metrics"] == address


@pytest.mark.parametrize("first", [True, False])
def test_a_trainers_other_machine_answers_for_itself_alone(make_settings, monkeypatch, first):
    settings = make_settings(f"metrics.port={free_port()}")
    found = []

    def scrape(_):
        found.append(scraped(f"http://127.0.0.1:{settings.metrics.port}/metrics"))

    monkeypatch.setenv("LOCAL_RANK", "0" if first else "1")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(rl, "follow", scrape)
    with contextlib.nullcontext() if first else pytest.raises(URLError):
        stages.follow("rl", settings)
        assert found[0]["process_resident_memory_bytes",] > 1e6
        assert not [name for name, *_ in found[0] if name.startswith("factory_")], "the first rank tells of the stage"
    assert targets(settings) == []


def test_durations_are_a_histogram_of_the_units_that_are_done(make_settings):
    settings = make_settings()
    status = Status(settings, "verify")
    with status.in_flight:
        time.sleep(0.06)
    with pytest.raises(ValueError), status.in_flight:
        raise ValueError
    with serving(settings, [status]) as address, status.in_flight:
        found = scraped(address)
    counts = [found["factory_verify_duration_seconds_bucket", str(bound)] for bound in (*BOUNDS_S, "+Inf")]
    assert counts[0] == 1, "the one that failed at once"
    assert counts[BOUNDS_S.index(0.05)] == 1
    assert counts[-1] == found["factory_verify_duration_seconds_count",] == 2, "what is in hand is not done"
    assert counts == sorted(counts)
    assert 0.06 <= found["factory_verify_duration_seconds_sum",] < 5


def test_it_listens_on_loopback_only_and_says_where(make_settings):
    settings = make_settings("engine.url=http://user:secret@gpu-7:8000")
    search, sample = Status(settings, "search"), Status(settings, "sample")
    with serving(settings, [search, sample]) as address:
        port = int(address.rpartition(":")[2].partition("/")[0])
        (own,) = (one for one in psutil.Process().net_connections("tcp") if one.laddr and one.laddr.port == port
                  and one.status == psutil.CONN_LISTEN)  # fmt: skip
        assert own.laddr.ip == "127.0.0.1"
        assert targets(settings) == [
            [
                {"targets": [f"127.0.0.1:{port}"], "labels": {"stages": "search,sample"}},
                {"targets": ["gpu-7:8000"], "labels": {"stages": "vllm serve", "__scheme__": "http"}},
            ]
        ]
    assert targets(settings) == []
    with pytest.raises(URLError):
        urlopen(address, timeout=5)
    assert "factory_search_records" not in {family.name for family in REGISTRY.collect()}


def test_off_means_that_nothing_listens(make_settings):
    settings = make_settings("metrics.serve=false")
    before = {one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    status = Status(settings, "search")
    with serving(settings, [status]) as address:
        after = {one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    assert address == ""
    assert after == before
    assert "metrics" not in status.read()
    assert not (Path(settings.factory.data) / "metrics").exists()


def test_targets_of_killed_processes_are_removed_and_those_of_living_ones_stay(make_settings):
    settings = make_settings()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    folder = Path(settings.factory.data) / "metrics"
    folder.mkdir(parents=True)
    here = socket.gethostname()
    mine, elsewhere = f"rl-{here}-{os.getppid()}.json", f"rl-another-machine-{child.pid}.json"
    for name in (f"rl-{here}-{child.pid}.json", mine, elsewhere):
        (folder / name).write_text("[]")
    with serving(settings, [Status(settings, "search")]):
        names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([mine, elsewhere, f"search-{here}-{os.getpid()}.json"])


def test_a_port_that_is_taken_is_told_in_a_sentence(make_settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = make_settings(f"metrics.port={port}")
        with pytest.raises(BadSettings, match=rf"metrics\.port = {port}: the port is in use: choose another"):
            serving(settings, [Status(settings, "search")]).__enter__()
    with serving(settings, [Status(settings, "search")]) as address:
        assert address == f"http://127.0.0.1:{port}/metrics", "a port that is asked for is taken"


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_that_is_not_this_machines_is_told_in_a_sentence(make_settings, host):
    settings = make_settings(f"metrics.host={host}")
    with pytest.raises(BadSettings, match=r"set metrics\.host to an address of this machine"):
        serving(settings, [Status(settings, "search")]).__enter__()


@pytest.mark.parametrize("flag", ["metrics.host=", "metrics.port=-1", "metrics.port=70000"])
def test_settings_that_cannot_be_are_refused(make_settings, flag):
    with pytest.raises(BadSettings, match=flag.split("=", maxsplit=1)[0]):
        make_settings(flag)


def test_every_number_has_a_field_that_a_status_has_or_a_stage_sets(make_settings):
    """A number whose field nobody sets would be exported by nobody."""
    code = "".join(path.read_text() for path in Path(kafka.__file__).parents[1].glob("[pt]r*/*.py"))
    known = Status(make_settings(), "search").read()
    for number in NUMBERS:
        set_somewhere = f"{number.field}=" in code
        assert number.field in known or set_somewhere, number.field


def test_the_lag_is_the_groups_and_is_not_told_when_the_broker_is_gone(settings, send_all, make_settings):
    send_all(*(Problem(id=f"p{n}", question="q", answer="a", source="s") for n in range(3)))
    status = Status(settings, "search")

    def until(wanted):
        deadline = time.monotonic() + 40
        while scraped(address).get(("factory_search_lag",)) != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    with serving(settings, [status]) as address:
        until(3.0)
        assert status.read()["lag"] == 3
    gone = make_settings("broker.bootstrap=127.0.0.1:1", "broker.connect_timeout_s=0.5")
    with serving(gone, [status]) as address:
        until(None)


def test_the_lag_is_told_however_far_apart_the_scrapes_are(settings, send_all, monkeypatch):
    monkeypatch.setattr(metrics, "LAG_AGE_S", 0.1)
    send_all(Problem(id="p", question="q", answer="a", source="s"))
    told = []
    with serving(settings, [Status(settings, "search")]) as address:
        for _ in range(4):
            told.append(scraped(address).get(("factory_search_lag",)))
            time.sleep(1)
    assert told[-1] == 1, told


def test_a_lag_that_cannot_be_measured_any_more_is_not_told_for_long(make_settings, monkeypatch):
    """A broker that neither answers nor refuses."""
    ended = threading.Event()
    monkeypatch.setattr(metrics, "LAG_AGE_S", 0.5)
    monkeypatch.setattr(kafka, "lag", lambda *_: ended.wait(30))
    settings = make_settings()
    status = Status(settings, "search")
    status.set(lag=3)
    told = []
    with serving(settings, [status]) as address:
        for _ in range(8):
            told.append(scraped(address).get(("factory_search_lag",)))
            time.sleep(0.1)
        ended.set()
    assert told[0] == 3
    assert told[-1] is None


def test_a_stage_that_is_not_meant_to_work_has_no_lag(make_settings):
    settings = make_settings()
    trainer = Status(settings, "sink")  # a lag of its own, so that no broker is needed
    trainer.set(lag=41, idle=True)
    with serving(settings, [trainer]) as address:
        assert ("factory_sink_lag",) not in scraped(address)
        trainer.set(idle=False)
        assert scraped(address)["factory_sink_lag",] == 41


def test_a_lag_that_a_stage_tells_itself_is_left_alone(make_settings):
    settings = make_settings()
    sink = Status(settings, "sink")
    sink.set(lag=41)
    with serving(settings, [sink]) as address:
        for _ in range(3):
            assert scraped(address)["factory_sink_lag",] == 41
            time.sleep(0.05)
