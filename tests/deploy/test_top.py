"""`factory top` shows what the status files say, in the terminal and as JSON, and harms nothing."""

import io
import json
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console
from textual.widgets import DataTable, Static

from deploy import numbers, top
from deploy.cli import app
from deploy.numbers import COLUMNS, Numbers
from deploy.stages import STAGES
from processors.status import Status

AWAY = ("broker.bootstrap=127.0.0.1:1", "broker.connect_timeout_s=0.3")
"""A broker that does not answer; then the rest has to be right all the same."""


@pytest.fixture
def running(make_settings):
    """A directory in which this process is a search and a sink."""
    settings = make_settings(*AWAY)
    with Status(settings, "search") as search, Status(settings, "sink") as sink:
        search.add(records=12, errors=2, tokens=900)
        search.set(version=3, waiting="for linearize: 600 trees wait for it\x1b[2J")
        sink.add(records=40)
        sink.set(lag=7)
        search.write()
        sink.write()
        yield settings, search


def cells(app, table):
    found = app.query_one(table, DataTable)
    heads = [str(column.label) for column in found.columns.values()]
    rows = [dict(zip(heads, map(str, found.get_row(key)), strict=True)) for key in found.rows]
    return {row["stage"]: row for row in rows}


async def test_the_screen_shows_every_stage_and_follows(running):
    settings, search = running
    screen = top.Top(settings)
    try:
        async with screen.run_test(size=(140, 40)) as pilot:
            await pilot.pause()
            rows = cells(screen, "#stages")
            assert rows["search"]["records"] == "12"
            assert rows["search"]["errors"] == "2"
            assert rows["search"]["weights"] == "v3"
            assert rows["search"]["waits"].startswith("for linearize: 600 trees")
            assert "\x1b" not in rows["search"]["waits"]
            assert rows["sink"]["lag"] == "7"
            assert rows["rl"]["processes"] == "0"
            assert str(os.getpid()) in cells(screen, "#processes")["sink"]["pid"]
            search.add(records=30)
            search.write()
            deadline = time.monotonic() + 20
            while cells(screen, "#stages")["search"]["records"] != "42":
                assert time.monotonic() < deadline
                await pilot.pause(0.2)
            assert float(cells(screen, "#stages")["search"]["rate/s"]) > 0
            while "no lag" not in str(screen.query_one("#title", Static).content):
                assert time.monotonic() < deadline, "a broker that does not answer is told"
                await pilot.pause(0.2)
            await pilot.press("q")
    finally:
        screen.close()
    assert screen.return_code == 0


async def test_the_cursor_stays_and_processes_come_and_go(running):
    settings, _ = running
    screen = top.Top(settings)
    try:
        async with screen.run_test(size=(140, 40)) as pilot:
            await pilot.press("down", "down")
            with Status(settings, "rl"):
                screen.draw()
                assert cells(screen, "#processes")["rl"]["last record"] == "none"
                assert cells(screen, "#stages")["rl"]["processes"] == "1"
            screen.draw()
            assert "rl" not in cells(screen, "#processes")
            assert screen.query_one("#stages", DataTable).cursor_row == 2
            await pilot.press("tab")
            assert screen.focused is screen.query_one("#processes", DataTable)
    finally:
        screen.close()


def test_it_has_the_columns_and_the_cells_of_the_panel(running, tmp_path):
    """One function makes both; the panel's other columns are who runs the stage and its state."""
    settings, _ = running
    watching = Numbers(settings)
    try:
        look = watching.look()
    finally:
        watching.close()
    row = dict(zip(COLUMNS, look.stages["search"].cells(), strict=True))
    assert row == {
        "records": "12",
        "rate/s": "0.0",
        "lag": "",
        "in hand": "0",
        "errors": "2",
        "tok/s": "0",
        "weights": "v3",
    }
    shown = dict(zip(top.STAGES, map(str, top.stage_cells(look.stages["search"])), strict=True))
    assert {name: shown[name] for name in COLUMNS} == row


def test_the_stages_are_shown_in_the_order_of_the_flow():
    assert sorted(numbers.FLOW) == sorted(STAGES)


def test_a_rate_is_over_the_last_seconds(running, monkeypatch):
    settings, search = running
    now = [100.0]
    monkeypatch.setattr(numbers.time, "monotonic", lambda: now[0])
    watching = Numbers(settings)
    try:
        watching.look()
        for _ in range(3):
            now[0] += 10
            search.add(records=50, tokens=1000)
            search.write()
            look = watching.look()
    finally:
        watching.close()
    assert look.stages["search"].rate == 5.0
    assert look.stages["search"].token_rate == 100.0


@pytest.mark.parametrize("flag", ["--json", "--once"])
def test_one_look_where_there_is_no_terminal(running, flag, capsys):
    settings, _ = running
    flags = [part for text in AWAY for part in ("--set", text)]
    with pytest.raises(SystemExit):
        app(["top", "--data", settings.factory.data, flag, *flags])
    said = capsys.readouterr().out
    if flag == "--once":
        assert "\x1b" not in said
        (line,) = (line for line in said.splitlines() if line.startswith("search") and "12" in line.split())
        assert "v3" in line
        assert not [line for line in said.splitlines() if line.startswith("rl")], "what does not run has no line"
        return
    shown = json.loads(said)
    assert shown["stages"]["search"]["records"] == 12
    assert shown["stages"]["search"]["lag"] is None
    assert shown["stages"]["sink"]["lag"] == 7
    assert "127.0.0.1:1" in shown["broker"]
    assert {row["stage"] for row in shown["processes"]} == {"search", "sink"}


def test_who_looks_removes_no_status_file(make_settings, tmp_path):
    settings = make_settings(*AWAY)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    file = tmp_path / "data" / "status" / f"rl-{child.pid}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"stage": "rl", "pid": child.pid, "records": 5}))
    look = top.once(settings)
    assert file.exists()
    assert look.stages["rl"].processes == 0
    out = io.StringIO()
    Console(file=out).print(top.render(look, "data"))
    assert "no process runs here" in out.getvalue()
