"""The stream benchmark measures what it says, at a size that says nothing about speed."""

import os

import pytest

from benchmarks import stream


def test_a_ratio_is_the_sink_over_the_ceiling_and_the_end_over_the_beginning() -> None:
    measured = {
        "sink_rows_per_s": [50.0, 70.0], "ceiling_rows_per_s": [100.0, 100.0], "sql_s": [0.5], "sql_work_s": [0.1],
        "ledger_s": [2.0], "waiting_sink_rss_mb": [110.0], "waiting_sink_grown_mb": [10.0],
    }  # fmt: skip
    assert stream.ratios(measured) == {
        "sink_over_ceiling_rows": 0.6, "sql_command_s": 0.5, "sql_work_s": 0.1, "ledger_command_s": 2.0,
        "waiting_sink_end_over_start": 1.1,
    }  # fmt: skip


def test_the_size_of_a_process_is_watched() -> None:
    sizes = stream.watch({"me": os.getpid()}, 0.2)
    assert len(sizes["me"]) > 2
    assert all(size > 10 for size in sizes["me"])


@pytest.mark.slow
def test_rows_go_through_a_topic_into_tables_and_are_asked() -> None:
    values, notes = stream.through(300)
    assert all(value > 0 for value in values.values())
    assert "trees" in notes[0]


@pytest.mark.slow
def test_problems_wait_before_a_slow_searcher() -> None:
    values, _ = stream.waiting(6, 1.0)
    assert {"waiting_broker_rss_mb", "waiting_producer_rss_mb", "waiting_sink_rss_mb", "waiting_searcher_rss_mb"} <= {
        name for name, value in values.items() if value > 1
    }
