"""A trainer of one rank starts nothing; one of several starts the others and leaves none behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.together import follows, together
from processors.status import alive

MAIN = """
import os, sys, time
from pathlib import Path
from deploy.together import follows, together
if follows():
    Path(sys.argv[1], os.environ["RANK"]).write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']}")
    time.sleep(60)
with together(3):
    while len(list(Path(sys.argv[1]).iterdir())) < 2:
        time.sleep(0.05)
    assert os.environ["RANK"] == "0"
    assert Path(os.environ["RANKS_MEETING_FILE"]).parent.is_dir()
    raise SystemExit(7)
"""


def test_one_rank_is_the_process_itself(monkeypatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    before = dict(os.environ)
    with together(1):
        assert dict(os.environ) == before
    assert not follows()


def test_where_torchrun_has_started_them_none_is_started(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it started another one"))
    with together(2):
        assert follows()


def test_the_others_end_with_the_first(tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    environment.pop("RANK", None)
    first = subprocess.run([sys.executable, "-c", MAIN, str(tmp_path)], env=environment, check=False, timeout=60)
    assert first.returncode == 7
    check_ended(tmp_path)


def test_the_first_ends_when_another_dies(tmp_path) -> None:
    main = MAIN.replace("time.sleep(60)", "sys.exit(3 if os.environ['RANK'] == '2' else time.sleep(60))")
    main = main.replace("raise SystemExit(7)", "time.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    environment.pop("RANK", None)
    command = [sys.executable, "-c", main, str(tmp_path)]
    first = subprocess.run(command, env=environment, check=False, timeout=60, capture_output=True, text=True)
    assert first.returncode == 1
    assert "another rank has died" in first.stderr
    check_ended(tmp_path)


def check_ended(tmp_path: Path) -> None:
    told = {file.name: file.read_text().split() for file in tmp_path.iterdir()}
    assert sorted(told) == ["1", "2"]
    assert all(world == "3" for _, world in told.values())
    deadline = time.monotonic() + 10
    while any(alive(int(pid)) for pid, _ in told.values()):
        assert time.monotonic() < deadline, "a rank outlived its first"
        time.sleep(0.1)
