"""The matrix has no hole, its points stand in the code, and a point kills once, the right process, at its passage."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cells import CELLS, MOMENTS, PROCESSES, TORN, WHY_NOT, listed

from schemas.killpoints import FIRED, POINTS, VARIABLE

ROOT = Path(__file__).parents[2]


def test_each_pair_of_process_and_moment_is_a_cell_or_has_a_reason() -> None:
    assert {(process, moment) for process in PROCESSES for moment in MOMENTS} == CELLS.keys() | WHY_NOT.keys()
    assert not CELLS.keys() & WHY_NOT.keys()
    used = {point for points in CELLS.values() for point in points}
    assert used == POINTS.keys() | {TORN}
    assert all(f"{process:9} x {moment:12}" in listed() for process in PROCESSES for moment in MOMENTS)


def test_each_point_stands_in_the_code_once() -> None:
    files = [path for name in ("processors", "producers", "trainers") for path in (ROOT / name).glob("*.py")]
    text = "".join(path.read_text("utf-8") for path in files)
    said = re.findall(r'passed\(f?"([^"]+)"\)', text)
    generic = {name.partition(":")[2] for name in said if name.startswith("{")}
    exact = {name for name in said if not name.startswith("{")}
    assert len(exact) == sum(not name.startswith("{") for name in said)
    assert exact <= POINTS.keys()
    # The stages share the lines of app.py, the trainers those of session.py and checkpoint.py.
    assert {point for point in POINTS.keys() - exact if point.partition(":")[2] not in generic} == set()


def run(folder: Path | None, text: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {VARIABLE: str(folder)} if folder else {}
    command = [sys.executable, "-c", f"from schemas.killpoints import passed\n{text}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)


def test_the_nth_passage_kills_once_over_all_processes(tmp_path: Path) -> None:
    (tmp_path / "sink:output").write_text("3")
    say = "[(passed('sink:output'), passed('sink:working'), print(n, flush=True)) for n in range(5)]"
    first = run(tmp_path, say)
    assert (first.returncode, first.stdout.split()) == (-signal.SIGKILL, ["0", "1"])
    again = run(tmp_path, say)
    assert (again.returncode, len(again.stdout.split())) == (0, 5)
    assert [line.split()[0] for line in (tmp_path / FIRED).read_text().splitlines()] == ["sink:output"]


def test_another_process_can_be_the_victim(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        (tmp_path / "rl:saved").write_text(f"1 {victim.pid}")
        assert run(tmp_path, "passed('rl:saved')").returncode == 0
        assert victim.wait(10) == -signal.SIGKILL


def test_without_the_variable_nothing_happens_and_with_it_an_unknown_name_is_refused(tmp_path: Path) -> None:
    assert run(None, "passed('no such point')").returncode == 0
    assert run(tmp_path, "passed('sink:output')").returncode == 0
    unknown = run(tmp_path, "passed('sink:outptu')")
    assert "no kill point is called sink:outptu; there are: produce:working, " in unknown.stderr
    (tmp_path / "sink:comit").touch()
    assert "no kill point is called sink:comit" in run(tmp_path, "passed('sink:output')").stderr


@pytest.mark.parametrize("point", ["sink:output", "rl:offsets"])
def test_a_passage_that_is_not_armed_leaves_no_trace(tmp_path: Path, point: str) -> None:
    assert run(tmp_path, f"passed('{point}')").returncode == 0
    assert list(tmp_path.iterdir()) == []
