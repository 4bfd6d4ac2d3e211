import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from producing import Running, commit, finish, published, records, sinking, until

from processors.dataset import Datasets
from producers import problems
from producers.sources.held_out import BY_FAMILY
from producers.sources.items import Item
from schemas.messages import DeadLetter, Filtered, Problem
from schemas.tiny_problems import is_held_out

OVER = "nothing left to produce"


def row(number):
    return {"question": f"{number} + 0?", "answer": str(number)}


def write(path, rows):
    path.write_bytes(b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in rows))
    return path


@pytest.fixture
def with_file(factory_settings, tmp_path):
    """with_file(rows, "problems.ahead=5") gives settings whose one source is a file of these rows."""

    def make(rows, *flags):
        path = write(tmp_path / "some.jsonl", rows)
        source = f'problems.sources=[{{kind="file", name="{path}"}}]'
        return factory_settings(source, "evaluate.problems=0", *flags)

    return make


class Counting:
    def __init__(self, name, end=10**9):
        self.name, self.end = name, end

    def items(self, start=0):
        return (Item(index=at, file=self.name) for at in range(start, self.end))


@given(weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=4), count=st.integers(0, 60), more=st.integers(1, 40))
@hypothesis_settings(max_examples=50, deadline=None)
def test_interleaving_keeps_the_weights_and_goes_on_in_the_same_order(weights, count, more):
    sources = [(Counting(str(at)), weight) for at, weight in enumerate(weights)]
    order = list(islice(problems.interleave(sources, {}), count + more))
    taken = Counter(item.file for item in order[:count])
    assert list(islice(problems.interleave(sources, taken), more)) == order[count:]
    share = [(taken[str(at)] + 1) / weight for at, weight in enumerate(weights)]
    assert max(taken[str(at)] / weight for at, weight in enumerate(weights)) <= min(share) + 1e-9


def test_a_source_that_ends_leaves_the_others():
    found = list(problems.interleave([(Counting("a", 3), 1.0), (Counting("b", 6), 1.0)], {}))
    assert Counter(item.file for item in found) == {"a": 3, "b": 6}


def test_a_generator_that_only_repeats_itself_is_given_up(monkeypatch, factory_settings):
    monkeypatch.setattr(problems, "TIRED", 50)
    sources = 'problems.sources=[{name="chain_sum", params={min_terms=2, max_terms=2, min_digits=1, max_digits=1}}]'
    settings = factory_settings(sources, "problems.ahead=1000", "evaluate.problems=3")
    finish(problems.run, settings, OVER)
    found = published(settings, Problem)
    assert 50 < len(found) == len({problem.id for problem in found}) < 200


def test_the_tiny_families_by_default_without_what_is_held_out(factory_settings):
    settings = factory_settings("problems.limit=40", "problems.ahead=1000")
    status = finish(problems.run, settings, OVER)
    found = published(settings, Problem)
    assert Counter(problem.source for problem in found) == pytest.approx({"countdown": 20, "chain_sum": 20}, abs=6)
    assert not any(is_held_out(problem.source, json.loads(problem.metadata)) for problem in found)
    filtered = published(settings, Filtered)
    assert {(row.stage, row.input_topic, row.why) for row in filtered} == {("produce", "problems", BY_FAMILY)}
    assert (status["records"], status["held_out"]) == (40, len(filtered))
    spread = Counter(record.partition for record in records(settings, Problem))
    assert set(spread.values()) <= {2, 3}
    finish(problems.run, settings, OVER)  # the limit counts what was there before
    assert len(published(settings, Problem)) == 40
    assert len(published(settings, Filtered)) == len(filtered)


def test_never_more_than_ahead_wait_for_the_searchers(with_file):
    settings = with_file([row(n) for n in range(30)], "problems.ahead=10")
    with Running(problems.run, settings) as running:
        running.waiting("for the searchers")
        time.sleep(1.5)
        assert len(published(settings, Problem)) == 10
        commit(settings, "search", "problems", 4)
        until(lambda: len(published(settings, Problem)) == 14)
        time.sleep(1.5)
        assert len(published(settings, Problem)) == 14


def test_a_restart_goes_on_where_it_was(with_file):
    settings = with_file([row(n) for n in range(250)], "problems.ahead=1000", "sink.flush_s=0.2")
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    for limit in (70, 140):
        part = msgspec.structs.replace(settings, problems=msgspec.structs.replace(settings.problems, limit=limit))
        finish(problems.run, part, OVER)  # the second time, and the third, part of it is in the table
        if limit == 70:
            with sinking(settings):
                until(lambda: len(datasets.ids("problems")) == 70)
    finish(problems.run, settings, OVER)
    assert Counter(problem.index for problem in published(settings, Problem)) == Counter(range(250))


def test_what_is_bad_becomes_a_dead_letter_once(with_file):
    big = {"question": "x" * 2_000_000, "answer": "1"}
    rows = [row(1), b"{", row(1), {"question": "?"}, b"\xff", big, row(2), row(3)]
    settings = with_file(rows)
    status = finish(problems.run, settings, OVER)
    letters = published(settings, DeadLetter)
    name = settings.problems.sources[0].name
    assert [(one.line, one.error) for one in sorted(letters, key=lambda one: one.line)] == [
        (2, "malformed line"), (3, "duplicate"), (4, "missing answer"), (5, "malformed line"), (6, "too long")
    ]  # fmt: skip
    assert {(one.stage, one.topic, one.file) for one in letters} == {("produce", "", name)}
    long = next(one for one in letters if one.error == "too long")
    assert len(long.value) == 65_536
    assert "value holds the first 65536" in long.detail
    assert next(one.value for one in letters if one.line == 5) == b"\xff"
    assert sorted(problem.answer for problem in published(settings, Problem)) == ["1", "2", "3"]
    assert (status["records"], status["errors"]) == (3, 5)
    finish(problems.run, settings, OVER)
    assert len(published(settings, DeadLetter)) == 5
    assert len(published(settings, Problem)) == 3


def test_the_end_of_a_file_is_kept_for_evaluation(with_file):
    settings = with_file([row(n) for n in range(50)], "evaluate.problems=3")
    finish(problems.run, settings, OVER)
    assert sorted(problem.index for problem in published(settings, Problem)) == list(range(47))
    assert len({one.input_id for one in published(settings, Filtered)}) == 3


def test_a_training_file_that_overlaps_with_the_evaluation_loses_the_overlap_and_says_why(with_file, tmp_path):
    asked = write(tmp_path / "asked.jsonl", [row(3), {"question": " 7  +0 ? ", "answer": "7"}, row(99)])
    settings = with_file([row(n) for n in range(10)], f"evaluate.file={asked}", "evaluate.problems=5")
    for _ in range(2):
        finish(problems.run, settings, OVER)
    assert sorted(problem.index for problem in published(settings, Problem)) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert sorted(one.why for one in published(settings, Filtered)) == [
        f"held_out: the same text as asked {line} of the evaluation" for line in (0, 1)
    ]


def test_killed_anywhere_it_loses_and_doubles_nothing(with_file, tmp_path):
    settings = with_file([row(n) if n % 10 else b"bad" for n in range(1500)], "problems.ahead=10000")
    config = tmp_path / "settings.json"
    config.write_bytes(msgspec.json.encode(settings))
    program = (
        "import sys, time; from pathlib import Path; from producers import problems; "
        "from processors.status import Status; from schemas.load import load; "
        "problems.BATCH = 4; problems.passed = lambda _: time.sleep(float(sys.argv[2])); "
        "settings = load(Path(sys.argv[1]), environment={}); problems.run(settings, Status(settings, 'produce'))"
    )

    def start(pause):
        command = [sys.executable, "-c", program, str(config), str(pause)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    for least in (1, 400):
        child = start(0.02)
        until(lambda least=least: len(records(settings, Problem)) > least)
        child.kill()
        child.wait(10)
    assert len(records(settings, Problem)) < 1350, "it was over before it could be killed"
    child = start(0)
    until(lambda: len(records(settings, Problem)) >= 1350)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == 0
    assert Counter(problem.index for problem in published(settings, Problem)) == Counter(
        n for n in range(1500) if n % 10
    )
    assert Counter(one.line for one in published(settings, DeadLetter)) == Counter(range(1, 1501, 10))
