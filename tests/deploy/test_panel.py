"""The panel of `factory up`: a line a stage of each process, from the same looks as `factory top`."""

import io

import pytest
from rich.console import Console

from deploy.local import Factory
from deploy.numbers import COLUMNS
from deploy.panel import Panel
from deploy.placement import plan
from deploy.process import Process
from processors.status import Status


@pytest.fixture
def drawn(make_settings, tmp_path):
    """A factory whose processes were planned and not started, a search that reports, and a panel of both."""
    settings = make_settings("broker.bootstrap=127.0.0.1:1", "broker.connect_timeout_s=0.3", "factory.workers=shared")
    factory = Factory(settings)
    factory.processes = [Process(spec, tmp_path / "s.json", tmp_path / "log", 5) for spec in plan(settings)]
    with Status(settings, "search") as search, Status(settings, "evaluate") as evaluate, Panel(settings, 600) as panel:
        search.add(records=12, errors=2, tokens=900)
        search.set(version=3, waiting="for linearize: 35 trees wait for it")
        evaluate.set(evaluation="v3: pass@1 0.412 on 128 problems", lag=2)
        for status in (search, evaluate):
            status.write()
        yield factory, panel
    factory.close()


def test_on_a_terminal_every_stage_has_a_line(drawn):
    factory, panel = drawn
    out = io.StringIO()
    Console(file=out, width=140).print(panel._draw(factory, panel._numbers.look()))
    lines = {line.split()[0]: line for line in out.getvalue().splitlines() if line.split()}
    assert lines["stage"].split() == ["stage", "state", *" ".join(COLUMNS).split(), "waits"]
    assert lines["search"].split()[:8] == ["search", "new", "12", "0.0", "0", "2", "0", "v3"]
    assert lines["search"].rstrip().endswith("for linearize: 35 trees wait for it")
    assert lines["evaluate"].split() == ["evaluate", "new", "0", "0.0", "2", "0", "0"]
    assert {"produce", "linearize", "verify", "sink", "prompts", "sample", "sft", "rl"} <= set(lines)
    assert "v3: pass@1 0.412 on 128 problems" in out.getvalue()
    assert "of 600 s  ·  cluster" in out.getvalue()


def test_elsewhere_it_is_a_line_now_and_then(drawn):
    factory, panel = drawn
    panel.console = Console(file=io.StringIO(), width=140)
    panel.tick(factory)
    panel.tick(factory)
    (line,) = panel.console.file.getvalue().splitlines()
    assert "search 12 · 0 tok/s · errors 2 (factory dlq list) · search waits: for linearize: 35 trees" in line
    assert "v3: pass@1 0.412 on 128 problems" in line
