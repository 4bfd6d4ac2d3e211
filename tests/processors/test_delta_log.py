"""The log's entries hold the smallest and largest texts of a commit: whatever these are, the entry is read whole."""

import pytest

from processors import delta_log
from processors.dataset import Datasets, app_id
from processors.rows import Place, message_batch
from schemas.codec import content_sha, encode
from schemas.messages import Problem
from schemas.tables import TABLES

LINE_ENDS = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r", "\n"]


@pytest.mark.parametrize("mark", LINE_ENDS, ids=[f"U+{ord(mark):04X}" for mark in LINE_ENDS])
def test_a_row_with_an_odd_line_end_harms_no_table(tmp_path, mark):
    datasets = Datasets(tmp_path / "datasets")
    datasets.create()
    problem = Problem(id="p", question=f"{mark}What{mark} is it?{mark}", answer="1", source="s")
    sha = content_sha(encode(problem))
    place = Place(topic="problems", topic_id="u", partition=0, offset=7, time_ms=0, sha=sha)
    rows = message_batch(problem, place, TABLES["problems"])
    datasets.append("problems", rows, {app_id("problems", "u", 0): 7})
    folder = tmp_path / "datasets" / "problems"
    assert {"add", "txn"} <= {name for action in delta_log.actions(folder, 1) for name in action}
    assert delta_log.committed_at(folder, 1) > 0
    assert datasets.offsets("problems") == {app_id("problems", "u", 0): 7}
    Datasets(tmp_path / "datasets").create()  # a restart, which mends what is cut off
    assert [one.question for one in Datasets(tmp_path / "datasets").messages(Problem)] == [problem.question]
