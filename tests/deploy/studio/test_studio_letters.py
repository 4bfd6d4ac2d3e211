"""Sending a dead letter again, with a real broker: the very bytes, and only from this studio's own form."""

import re
from pathlib import Path

import httpx
import pytest
from hostile import fill

from deploy.studio import serve
from processors import kafka


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
    assert sent.status_code == 200
    assert "sent to traces, partition" in sent.text
    (record,) = kafka.tail(settings, "traces", {})
    assert (record.key, record.value) == (b"k\xff", b'{"id": "<b>&\x00\xfe"}')
    line = studio.post("/letters/letter2/replay", data={"token": token}, headers=origin)
    assert line.status_code == 400
    assert "it is a line of a file" in line.text


def test_without_a_broker_the_pages_stay_and_the_replay_says_so(make_settings):
    settings = make_settings()
    fill(Path(settings.factory.data))
    site = serve.site(settings)
    with serve.open_to(site, "127.0.0.1", 0) as (url, _):
        form, origin = {"token": site.token}, {"Origin": url}
        answer = httpx.post(f"{url}/letters/letter1/replay", data=form, headers=origin, timeout=30)
        assert answer.status_code == 400
        assert "no broker" in answer.text
        assert httpx.get(f"{url}/letters/letter1", timeout=30).status_code == 200
