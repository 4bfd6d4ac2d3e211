"""A phase on a real factory of light processes: it ends by its goal, a stop, a process that gives up, or a stall."""

import os
import signal
import threading
import time

import msgspec
import pytest

from deploy.process import Process
from deploy.reproduce import problems, run
from deploy.reproduce.goals import Goal
from deploy.reproduce.plan import Phase, Plan
from processors.chat import BadPolicy
from schemas.load import load

TREES = Goal(what="trees", sql="SELECT count(*) FROM trees", of=1)
PROBLEMS = Goal(what="problems", sql="SELECT count(*) FROM problems", of=20)


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "files", lambda *_: {"test": b"1\n", "dev": b"2\n"})
    return tmp_path / "out"


@pytest.fixture
def perform(out):
    """perform(goal, flag, ...) runs an experiment of one phase."""

    def do(goal: Goal, *flags: str) -> None:
        settings = load(environment={}, flags=[f"factory.data={out / 'search'}", "sink.flush_s=0.2", *flags])
        phase = Phase(name="search", dir="search", settings=settings, goals=(goal,))
        run.run(Plan(scale="smoke", seeds=(0,), arms=("base",), phases=(phase,)), out)

    return do


def test_a_phase_ends_with_its_goal_and_is_not_done_twice(perform, out, capsys, monkeypatch):
    stages = ('factory.stages=["produce", "sink"]', "problems.limit=20")
    perform(PROBLEMS, *stages)
    assert "[ 1/1] search: done" in capsys.readouterr().out
    monkeypatch.setattr(Process, "start", lambda _: pytest.fail("nothing is left to do"))
    perform(PROBLEMS, *stages)
    assert "done before" in capsys.readouterr().out
    assert msgspec.json.decode((out / "timings.json").read_bytes())["search"] > 0


def test_ctrl_c_stops_it_and_the_sentence_says_how_to_go_on(perform):
    def interrupt() -> None:
        while signal.getsignal(signal.SIGINT) is before:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(run.Interrupted, match=r"phase 1, search: the same command goes on"):
        perform(TREES, 'factory.stages=["sink"]')
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_gives_up_says_why_and_nothing_is_left_running(perform, out):
    with pytest.raises(run.Stopped, match=r"prompts stopped .* columns id, pass_rate, why.*the same command goes on"):
        perform(TREES, 'factory.stages=["prompts", "sink"]', "prompts.sql=select 1 as one")
    assert not list((out / "search" / "status").glob("*.json"))


def test_a_phase_that_does_not_move_is_ended(perform, monkeypatch):
    monkeypatch.setattr(run, "STALLED_S", 1.0)
    with pytest.raises(run.Stopped, match="nothing moved"):
        perform(TREES, 'factory.stages=["sink"]')


def test_a_wrong_policy_is_told_before_the_plan_is_written(perform, out):
    with pytest.raises(BadPolicy):
        perform(TREES, "policy.path=./nowhere/at/all")
    assert not (out / "plan.json").exists()


def test_two_at_once_on_one_directory_are_refused(perform, out):
    with run._owned(out), pytest.raises(run.Stopped, match="another `factory reproduce` runs there"):
        perform(TREES, 'factory.stages=["sink"]')
