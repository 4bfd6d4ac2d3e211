"""Supervision on real children: a death is followed by a restart, a hopeless one by its own last words."""

import os
import signal
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from deploy.placement import plan
from deploy.process import GaveUp, Process, Spec
from deploy.stages import STAGES
from schemas.settings import BrokerSection, FactorySection, PolicySection, Settings

PRODUCE = Spec(name="produce", stages=("produce",), arguments=("produce",))


def process(tmp_path: Path, settings: Settings, spec: Spec, limit: int = 3) -> Process:
    file = tmp_path / "settings.json"
    file.write_bytes(msgspec.json.encode(settings))
    return Process(spec, file, tmp_path / "child.log", limit)


def until_gone(child: Process) -> None:
    deadline = time.monotonic() + 60
    while child.pid and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.pid


def test_a_child_that_cannot_start_stops_the_factory_with_its_own_words(tmp_path: Path) -> None:
    settings = Settings(factory=FactorySection(data=str(tmp_path)), policy=PolicySection(path=str(tmp_path)))
    child = process(tmp_path, settings, PRODUCE)
    child.start()
    until_gone(child)
    with pytest.raises(GaveUp, match=r"produce .* exit code 2: factory: .*no config.json there"):
        child.watch(0, time.monotonic())


def test_a_broker_that_is_away_costs_a_child_one_life_and_no_more(tmp_path: Path) -> None:
    nowhere = BrokerSection(bootstrap="127.0.0.1:9", connect_timeout_s=1)
    settings = Settings(factory=FactorySection(data=str(tmp_path)), broker=nowhere)
    child = process(tmp_path, settings, PRODUCE)
    child.start()
    until_gone(child)
    child.watch(0, time.monotonic())
    assert child.state == "backoff"
    assert "no broker answered at 127.0.0.1:9" in child.last_error()


def test_a_killed_child_comes_back_with_backoff_and_gives_up_without_progress(
    tmp_path: Path, settings: Settings
) -> None:
    spec = Spec(name="sink", stages=("sink",), arguments=("sink",))
    child = process(tmp_path, settings, spec, limit=2)
    child.start()
    os.kill(child.pid, signal.SIGKILL)
    until_gone(child)
    now = time.monotonic()
    child.watch(5, now)  # it had processed five records: the death costs no life
    assert child.state == "backoff"
    child.watch(0, now + 0.5)
    assert child.state == "backoff", "the first backoff is a second"
    child.watch(0, now + 1.1)
    assert child.state == "running"
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    until_gone(child)
    with pytest.raises(GaveUp, match="sink stopped 2"):
        child.watch(0, now + 10)


def test_asked_to_stop_it_stops_by_itself(tmp_path: Path, settings: Settings) -> None:
    child = process(tmp_path, settings, Spec(name="sink", stages=("sink",), arguments=("sink",)))
    child.start()
    time.sleep(3)
    child.ask_to_stop()
    assert child.wait(time.monotonic() + 30), "it had to be killed"


def test_a_child_ends_with_its_supervisor(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(msgspec.json.encode(settings))
    code = (
        "import sys, time; from pathlib import Path; from deploy.process import Process, Spec\n"
        f"p = Process(Spec(name='sink', stages=('sink',), arguments=('sink',)), Path({str(file)!r}), "
        f"Path({str(tmp_path / 'child.log')!r}), 3)\n"
        "p.start(); print(p.pid, flush=True); time.sleep(60)"
    )
    import subprocess
    import sys

    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    time.sleep(3)
    supervisor.kill()
    supervisor.wait()
    psutil.Process(pid).wait(30)


def test_every_stage_runs_exactly_once_in_either_placement() -> None:
    for workers in ("shared", "separate"):
        settings = Settings(factory=FactorySection(workers=workers))  # type: ignore[arg-type]
        stages = [stage for spec in plan(settings) for stage in spec.stages]
        assert sorted(stages) == sorted(STAGES)
