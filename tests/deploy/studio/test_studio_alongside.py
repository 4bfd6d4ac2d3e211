"""The studio that `factory up` starts: it says where it is, answers, ends with it, and is not needed by it."""

import socket
import subprocess
import threading

import httpx
import psutil
import pytest

from deploy.studio import alongside as module
from deploy.studio.alongside import alongside

START_S = 60


class Heard:
    """What was said."""

    def __init__(self):
        self.lines, self._any = [], threading.Event()

    def __call__(self, line):
        self.lines.append(line)
        self._any.set()

    def first(self):
        assert self._any.wait(START_S)
        return self.lines[0]


def test_it_says_its_address_answers_and_ends(make_settings, tmp_path):
    said = Heard()
    with alongside(make_settings(), said):
        url = said.first().removeprefix("studio: ")
        assert "holds no tables yet" in httpx.get(f"{url}/flow", timeout=START_S).text
        (child,) = [one for one in psutil.Process().children() if "studio" in one.cmdline()]
    assert not child.is_running()
    assert len(said.lines) == 1  # nothing of an end that was asked for
    assert not (tmp_path / "data" / "state" / "studio.json").exists()


def test_one_that_cannot_serve_says_so_and_harms_nothing(make_settings, tmp_path):
    said = Heard()
    with socket.create_server(("127.0.0.1", 0)) as taken, alongside(make_settings(), said, taken.getsockname()[1]):
        log = tmp_path / "data" / "logs" / "studio.log"
        assert said.first() == f"the studio ended (code 2): see {log}"
    assert "the port is in use" in log.read_text()


@pytest.mark.parametrize("where", ["process", "directory"])
def test_one_that_cannot_be_started_harms_nothing(make_settings, tmp_path, monkeypatch, where):
    def fail(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    if where == "process":
        monkeypatch.setattr(subprocess, "Popen", fail)
    else:
        (tmp_path / "data").write_text("no directory")
    said, went_on = Heard(), False
    with alongside(make_settings(), said):
        went_on = True
    assert went_on
    assert said.first().startswith("the studio could not be started: ")


def test_up_goes_on_when_the_studio_does_not_start(make_settings, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from deploy import local, plan, summary
    from deploy.cli import app

    ran = []
    monkeypatch.setattr(
        module, "_start", lambda _settings, port, *_: (_ for _ in ()).throw(OSError(28, f"port {port}"))
    )
    monkeypatch.setattr(plan, "check", lambda _: None)
    monkeypatch.setattr(local.Factory, "run", lambda _self, duration, _tick: ran.append(duration))
    monkeypatch.setattr(summary, "print_summary", lambda *_: None)
    done = CliRunner().invoke(app, ["up", "--data", str(tmp_path / "data"), "--for", "3s", "--studio-port", "4321"])
    assert (done.exit_code, ran) == (0, [3.0])
    assert "the studio could not be started" in done.output
    assert "port 4321" in done.output
