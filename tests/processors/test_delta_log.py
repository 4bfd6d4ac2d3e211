"""The log's entry of a merge holds the smallest and largest texts: whatever these are, it is read whole."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from processors import delta_log
from processors.appending import _leaves, _written
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
    app = app_id("problems", "u", 0)
    for at in (6, 7):
        place = Place(topic="problems", topic_id="u", partition=0, offset=at, time_ms=0, sha=sha)
        rows = pa.Table.from_batches([message_batch(problem, place, TABLES["problems"])])
        datasets.append("problems", rows, {app: at})
    assert datasets.compact("problems", files=0)
    folder = tmp_path / "datasets" / "problems"
    assert {"add", "txn"} <= {name for action in delta_log.actions(folder, 2) for name in action}
    (stats,) = [action["add"]["stats"] for action in delta_log.actions(folder, 3) if "add" in action]
    assert f"{mark}What" in json.loads(stats)["minValues"]["question"]
    assert delta_log.committed_at(folder, 3) > 0
    assert datasets.offsets("problems") == {app: 7}
    Datasets(tmp_path / "datasets").create()  # a restart, which mends what is cut off
    assert [one.question for one in Datasets(tmp_path / "datasets").messages(Problem)] == [problem.question] * 2


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_sinks_files_have_statistics_for_what_is_skipped_by_and_no_dictionary_of_numbers_in_lists(tmp_path, name):
    datasets = Datasets(tmp_path / "datasets")
    datasets.create()
    schema = TABLES[name]
    row = pa.Table.from_arrays([pa.nulls(1, field.type) for field in schema], schema=schema)
    file = tmp_path / _written(tmp_path, row, 16).path
    parquet = pq.ParquetFile(file)
    leaves = [parquet.schema.column(at) for at in range(len(parquet.schema))]
    assert [leaf.path for leaf in leaves] == [path for path, _, _ in _leaves(schema, "", repeated=False)]
    group = parquet.metadata.row_group(0)
    for at, leaf in enumerate(leaves):
        number = leaf.physical_type not in {"BYTE_ARRAY", "BOOLEAN"}
        assert group.column(at).is_stats_set == (leaf.max_repetition_level == 0), leaf.path
        if leaf.max_repetition_level and number:
            assert group.column(at).dictionary_page_offset is None, leaf.path
