import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.status import Status, alive, read_all
from schemas.load import load


def test_a_status_is_written_counted_and_removed(make_settings, tmp_path):
    status = Status(make_settings(), "search")
    with status:
        status.add(records=2, tokens=30)
        status.add(errors=1, trees=4)
        status.set(version=3)
        with status.in_flight:
            status.write()
            (row,) = read_all(tmp_path / "data")
    assert (row["records"], row["tokens"], row["errors"], row["trees"]) == (2, 30, 1, 4)
    assert (row["version"], row["in_flight"], row["stage"], row["pid"]) == (3, 1, "search", os.getpid())
    assert status.read()["in_flight"] == 0
    assert read_all(tmp_path / "data") == []


def test_it_is_written_every_second_by_itself(make_settings):
    with Status(make_settings(), "verify") as status:
        status.add(records=5)
        deadline = time.monotonic() + 5
        while json.loads(status.path.read_text())["records"] != 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_files_of_dead_processes_are_dropped(make_settings, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert alive(child.pid)
    until = time.monotonic() + 10
    while alive(child.pid):  # a zombie already counts as dead, before it is waited for
        assert time.monotonic() < until
        time.sleep(0.02)
    child.wait()
    folder = tmp_path / "data" / "status"
    folder.mkdir(parents=True)
    dead = folder / f"sft-{child.pid}.json"
    dead.write_text(json.dumps({"pid": child.pid, "stage": "sft", "host": socket.gethostname()}))
    (folder / "half-1.json").write_text("{")
    assert read_all(tmp_path / "data") == []
    assert not dead.exists()


def test_a_process_elsewhere_runs_while_it_writes(make_settings, tmp_path):
    """In containers that share a data directory every process may be number 1; nobody can ask whether it lives."""
    with Status(make_settings(), "search") as mine:
        row = mine.read() | {"host": "another", "progress": 0.0}
        folder = mine.path.parent
        (folder / f"search-another-{row['pid']}.json").write_text(json.dumps(row))
        silent = folder / "verify-third-1.json"
        silent.write_text(json.dumps(row | {"host": "third", "stage": "verify", "time": time.time() - 3600}))
        found = [(each["stage"], each["host"]) for each in read_all(tmp_path / "data")]
        assert sorted(found) == sorted([("search", "another"), ("search", socket.gethostname())])
    assert not silent.exists()


def test_a_failing_unit_leaves_nothing_in_flight(make_settings):
    status = Status(make_settings(), "search")
    with pytest.raises(ValueError), status.in_flight:
        raise ValueError
    assert status.read()["in_flight"] == 0


@settings(deadline=None)  # threads wait for a busy machine
@given(st.lists(st.integers(0, 50), max_size=8))
def test_counts_from_many_threads_add_up(counts):
    status = Status(load(environment={}, flags=["factory.data=unused"]), "x")
    threads = [threading.Thread(target=lambda n=n: [status.add(records=1) for _ in range(n)]) for n in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert status.read()["records"] == sum(counts)
