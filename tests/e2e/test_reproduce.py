"""The user's command, `factory reproduce --scale smoke`: killed on its way, resumed, and its report asked in SQL.

One experiment is shared by the tests below it, since it costs minutes. It has the arms that the paper compares; what
best-of-n adds to plan, goals and report is tested beside them (tests/deploy/reproduce), its search in tests/processors.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import CLUSTER, FACTORY, ask, look

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(CLUSTER), reason="each data directory has a broker of its own"),
]
PLACES = {
    "base": ("search", "version = 0"),
    "direct_sft": ("seed-0/direct", "version = (select version from weights where handover)"),
    "astro_sft": ("seed-0/astro", "version = (select version from weights where handover)"),
    "direct_rl": ("seed-0/direct", "version = (select max(version) from weights where trainer = 'rl')"),
    "astro_rl": ("seed-0/astro", "version = (select max(version) from weights where trainer = 'rl')"),
}
SCORE = """
select count(*) as problems, 100 * avg(score) as points, avg(tokens) as tokens, avg(backtracks) as backtracks
from (select list_avg([case when v = 'correct' then 1.0 else 0.0 end for v in verdicts]) as score,
        list_avg(tokens) as tokens, list_avg(backtracks) as backtracks
      from answers where problem.source = 'test' and {})
"""


def start(out: Path, log: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [*FACTORY, "reproduce", "--scale", "smoke", "--arms", "base,direct,astro", "--out", str(out), *more]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def steps(data: Path) -> int:
    """RL steps in the table."""
    return int((look(data, "select count(*) from training where trainer = 'rl'") or (0,))[0])


def kill(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment that was killed in the middle of an arm's RL and resumed."""
    out = tmp_path_factory.mktemp("reproduce") / "out"
    child = start(out, out.parent / "first.log")
    try:
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and child.poll() is None and not steps(out / "seed-0" / "direct"):
            time.sleep(1)
        assert child.poll() is None, (out.parent / "first.log").read_text()[-4000:]
    finally:
        kill(child)
    assert steps(out / "seed-0" / "direct") >= 1
    before = (out / "plan.json").read_bytes()
    child = start(out, out.parent / "second.log")
    try:
        assert child.wait(1200) == 0, (out.parent / "second.log").read_text()[-4000:]
    finally:
        kill(child)
    assert (out / "plan.json").read_bytes() == before
    return out


@pytest.fixture(scope="module")
def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text("utf-8"))


def test_what_was_done_before_the_kill_was_not_done_again(out: Path) -> None:
    log = (out.parent / "second.log").read_text()
    assert "search: done before" in log
    assert "direct: traces: done before" in log
    again = ask(out / "seed-0" / "direct", "sql", "select trainer, step, count(*) as n from training group by all")
    assert {(row["trainer"], row["step"]): row["n"] for row in again} == {
        **{("sft", n): 1 for n in range(1, 7)},
        **{("rl", n): 1 for n in range(1, 5)},
    }


def test_the_reports_numbers_are_those_of_the_datasets(out: Path, report: dict) -> None:
    points = {}
    for arm, (directory, where) in PLACES.items():
        row = ask(out / directory, "sql", SCORE.format(where))[0]
        assert row["problems"] == 16, arm
        told = report["arms"][arm]
        points[arm] = row["points"]
        assert told["pass_at_1"]["mean"] == pytest.approx(row["points"], abs=0.01), arm
        assert told["tokens"] == pytest.approx(row["tokens"], abs=0.01), arm
        assert told["backtracks"] == pytest.approx(row["backtracks"], abs=0.01), arm
        assert told["pass_at_1"]["low"] <= told["pass_at_1"]["mean"] <= told["pass_at_1"]["high"]
    differences = {"astro_rl_minus_base": "base", "astro_rl_minus_direct_rl": "direct_rl"}
    for name, other in differences.items():
        mean = report["differences"][name]["mean"]
        assert mean == pytest.approx(points["astro_rl"] - points[other], abs=0.01)


def test_the_report_is_there_for_people_too(out: Path) -> None:
    page = (out / "report.html").read_text("utf-8")
    assert "<svg" in page or "data:image" in page
    assert "Direct-RL" in (out / "report.md").read_text("utf-8")


def test_the_arms_differ_in_what_they_trained_on_and_in_nothing_else(out: Path) -> None:
    query = """
    with ids as (select unnest(rows) as id from training where trainer = 'sft')
    select arm, count(*) as n from ids join examples using (id) group by arm
    """
    trained = {arm: {r["arm"]: r["n"] for r in ask(out / "seed-0" / arm, "sql", query)} for arm in ("direct", "astro")}
    assert set(trained["direct"]) == {"direct"}
    assert set(trained["astro"]) == {"direct", "search"}
    ids = "select id, _sha from trees order by id"
    assert ask(out / "seed-0" / "direct", "sql", ids) == ask(out / "search", "sql", ids)
    many = "select trainer, count(*) as n, max(lr) as lr from training group by trainer order by trainer"
    assert ask(out / "seed-0" / "direct", "sql", many) == ask(out / "seed-0" / "astro", "sql", many)


def test_no_test_problem_was_trained_on(out: Path) -> None:
    held = {json.loads(line)["question"] for name in ("test", "dev") for line in (out / f"{name}.jsonl").open()}
    assert len(held) == 24
    for directory in ("search", "seed-0/astro"):
        query = "select problem.question as q from examples union select problem.question from prompts"
        assert not held & {row["q"] for row in ask(out / directory, "sql", query)}, directory


def test_another_plan_is_refused_and_the_same_one_has_nothing_left_to_do(out: Path) -> None:
    log = out.parent / "other.log"
    assert start(out, log, "--seeds", "0,1").wait(120) == 2
    (line,) = log.read_text().strip().splitlines()
    assert "seeds is [0] there" in line
    log = out.parent / "third.log"
    assert start(out, log).wait(120) == 0
    assert log.read_text().count("done before") == log.read_text().count("[") == 7
