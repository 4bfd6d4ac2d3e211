"""Looking at a running factory changes nothing of it, and goes on whatever a look finds; the ledger has its rests."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from deploy.ledger_lines import Amount, Ledger, NamedLine, RlLine, StageLine
from deploy.studio import books, flow, pulse, serve
from deploy.studio.server import Server
from deploy.studio.site import Asked
from processors import status
from schemas.load import load


@pytest.fixture
def dead(tmp_path):
    """The status file of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    path = tmp_path / "data" / "status" / f"sft-{child.pid}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"pid": child.pid, "stage": "sft"}))
    return path


def test_who_looks_removes_nothing(make_settings, tmp_path, dead):
    for at, text in enumerate(("{", "[]", "{}", '{"pid": "x"}', '{"pid": null}')):
        (dead.parent / f"half-{at}.json").write_text(text)
    (dead.parent / "search-1.json").write_text(json.dumps({"pid": os.getpid(), "stage": "search", "records": 5}))
    look = pulse.Pulse(make_settings("broker.bootstrap=127.0.0.1:1"))._see()
    assert [row["stage"] for row in look.rows] == ["search"]
    assert look.total("search", "records") == 5
    assert dead.exists()
    status.read_all(tmp_path / "data")
    assert not dead.exists()


def test_a_file_that_may_not_be_removed_is_passed_over(tmp_path, dead, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "another user's")

    monkeypatch.setattr(type(dead), "unlink", refuse)
    assert status.read_all(tmp_path / "data") == []


def test_a_look_that_fails_is_not_the_last_one(make_settings, monkeypatch):
    monkeypatch.setattr(pulse, "EVERY_S", 0.01)
    watch, again = pulse.Pulse(make_settings("broker.bootstrap=127.0.0.1:1")), threading.Event()
    looks = []

    def look():
        looks.append(1)
        if len(looks) > 2:
            again.set()
        raise RuntimeError("a defect")

    watch._asked = time.monotonic()
    thread = threading.Thread(target=watch._repeat, args=(look, 0.01), daemon=True)
    thread.start()
    assert again.wait(20)
    watch.close()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("took", "rested", "computed"), [(0.1, 9.0, 1), (0.1, 11.0, 2), (5.0, 45.0, 1), (5.0, 55.0, 2)]
)
def test_the_ledger_rests_ten_times_as_long_as_it_takes(make_settings, monkeypatch, took, rested, computed):
    calls = []
    monkeypatch.setattr(books.ledger, "compute", calls.append)

    class Changing:
        """Tables that have grown whenever they are looked at."""

        def snapshot(self):
            return type("Snapshot", (), {"key": object()})

    kept = books.Books(make_settings(), Changing())
    assert not kept.look(20)
    kept.seconds = took
    kept._ended -= rested
    kept.look(20)
    assert len(calls) == computed


def test_a_ledger_that_does_not_close_names_what_is_lost(data, monkeypatch):
    many = [f"p{at}" for at in range(30)]
    by_source = RlLine(source="<b>sums", difficulty=0.3, lost=Amount(rollouts=4, tokens=40))
    found = Ledger(
        stages=[StageLine(stage="search", input="problems", output="trees", taken=30, out=0, lost=30, missing=many)],
        sinks=[
            StageLine(
                stage="sink", input="dead.letters", output="dead_letters", taken=1, out=0, lost=1, missing=["d1"]
            ),
            StageLine(stage="sink", input="trees", output="nodes", taken=1, out=0, lost=1, missing=["t1"]),
        ],
        named=[NamedLine(by="traces", of="trees", named=3, missing=["t2"])],
        rl=RlLine(lost=Amount(rollouts=4, tokens=40)),
        rl_by=[by_source],
        closes=False,
        online=True,
    )
    monkeypatch.setattr(books.ledger, "compute", lambda _: found)
    site = serve.site(load(environment={}, flags=[f"factory.data={json.dumps(str(data))}"]))
    site.books.look(20)
    text = str(Server(site)._page(flow.ledger, Asked("/ledger", {}, [])).text)
    for where in ("search problems -&gt; trees", "sink trees -&gt; nodes", "trees (named in traces)"):
        assert f"lost: <b>{where}</b>" in text
    assert "4 rollouts (40 tokens) lost" in text
    assert '<a href="/rows/problems/p19">p19</a>' in text
    assert "p20" not in text
    assert "and 10 more" in text
    assert "<code>d1</code>" in text  # it is in no table: no link
    assert '<a href="/rows/trees/t1">t1</a>' in text
    assert "<code>t2</code>" in text
    assert "&lt;b&gt;sums" in text
