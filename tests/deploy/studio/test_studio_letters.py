"""Sending a dead letter again, with a real broker: the very bytes, and only from this studio's own form."""

import re
from pathlib import Path

import httpx
import pytest
from hostile_rows import fill, write
from kafka.errors import KafkaTimeoutError

from deploy import dlq_replay
from deploy.studio import serve
from processors import kafka
from processors.dataset import Datasets
from schemas.replay import Replay


@pytest.fixture
def studio(settings):
    fill(Path(settings.factory.data))
    with (
        serve.open_to(serve.site(settings), "127.0.0.1", 0) as (url, _),
        httpx.Client(base_url=url, timeout=60) as made,
    ):
        yield made


def test_a_letter_is_sent_again_byte_for_byte_after_a_confirmation(studio, settings):
    origin = {"Origin": str(studio.base_url).rstrip("/")}
    first = studio.get("/letters/letter1").text
    assert "<form" not in first.split("<dialog")[0]
    page = studio.get("/letters/letter1?confirm=1").text
    token = re.search(r'name="token" value="([^"]+)"', page)[1]
    for headers, form in (
        ({}, {"token": token}),
        ({"Origin": "http://evil.example"}, {"token": token}),
        (origin, {"token": "guessed"}),
        (origin, {}),
    ):
        assert studio.post("/letters/letter1/replay", data=form, headers=headers).status_code == 403
    assert not [record for record in kafka.tail(settings, "traces", {}) if record.value]
    sent = studio.post("/letters/letter1/replay", data={"token": token}, headers=origin)
    assert sent.status_code == 303
    assert sent.headers["location"] == "/letters/letter1?replayed=online"
    shown = studio.get(sent.headers["location"]).text
    assert "sent again: the stage takes them from there" in shown
    assert "never, as far as the table of replays tells yet" in " ".join(shown.split())
    twice = studio.post("/letters/letter1/replay", data={"token": token}, headers=origin)
    assert "sent again by somebody else in this moment" in twice.text
    (record,) = kafka.tail(settings, "traces", {})
    assert (record.key, record.value) == (b"k\xff", b'{"id": "<b>&\x00\xfe"}')
    line = studio.post("/letters/letter2/replay", data={"token": token}, headers=origin)
    assert line.status_code == 400
    assert "it is a line of a file" in line.text
    (mark,) = kafka.tail(settings, "replays", {})
    assert b"letter1" in mark.value


def test_it_says_how_often_a_letter_was_sent_again(studio, settings):
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    fields = {"what": "sent", "topic": "dead.letters", "row_id": "letter1", "stage": "verify"}
    write(datasets, [Replay(id=f"r{at}", **fields) for at in range(2)])
    assert "2 times" in studio.get("/letters/letter1").text
    assert '<td class="r">2</td>' in studio.get("/letters?stage=verify").text
    assert "<dd>never</dd>" in studio.get("/letters/letter2").text


def test_a_broker_that_does_not_take_it_is_a_sentence(studio, settings, monkeypatch):
    def fail(*_):
        raise KafkaTimeoutError("no acknowledgement")

    monkeypatch.setattr(dlq_replay, "_acknowledged", fail)
    token = re.search(r'name="token" value="([^"]+)"', studio.get("/letters/letter1?confirm=1").text)[1]
    origin = {"Origin": str(studio.base_url).rstrip("/")}
    answer = studio.post("/letters/letter1/replay", data={"token": token}, headers=origin)
    assert answer.status_code == 400
    assert "the broker did not take it" in answer.text
    assert "no acknowledgement" in answer.text


def test_without_a_broker_the_pages_stay_and_the_replay_says_so(make_settings):
    settings = make_settings("broker.bootstrap=127.0.0.1:1")
    fill(Path(settings.factory.data))
    site = serve.site(settings)
    with serve.open_to(site, "127.0.0.1", 0) as (url, _):
        form, origin = {"token": site.token}, {"Origin": url}
        answer = httpx.post(f"{url}/letters/letter1/replay", data=form, headers=origin, timeout=30)
        assert answer.status_code == 400
        assert "no broker" in answer.text
        assert httpx.get(f"{url}/letters/letter1", timeout=30).status_code == 200


@pytest.mark.slow
def test_without_a_factory_the_tables_keep_it(make_settings):
    settings = make_settings("sink.flush_s=0.2")
    fill(Path(settings.factory.data))
    site = serve.site(settings)
    with serve.open_to(site, "127.0.0.1", 0) as (url, _):
        form, origin = {"token": site.token}, {"Origin": url}
        answer = httpx.post(f"{url}/letters/letter1/replay", data=form, headers=origin, timeout=60)
        assert answer.headers["location"] == "/letters/letter1?replayed=offline"
        page = httpx.get(url + answer.headers["location"], timeout=30).text
        assert "the stage gets them when one is started" in page
    assert len(Datasets(Path(settings.factory.data) / "datasets").ids("replays")) == 1
