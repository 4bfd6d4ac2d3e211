"""Pages over large tables: what a page reads of the files, which grows with the page and not with the table.

The times are benchmarks/studio.py's; here DuckDB itself says how many bytes and rows each question took.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import httpx
import pyarrow.parquet as pq
import pytest

from benchmarks import studio_rows
from deploy.studio import serve, tables
from processors import appending
from processors.dataset import Datasets
from schemas.load import load
from schemas.tables import TABLES

GROUPS, COMMIT = 2_000, 200
TREE = studio_rows.tree_id(40)
LARGE = {
    "trees.nodes", "nodes.token_ids", "traces.segments", "examples.text", "answers.texts",
    "rollouts.rollouts", "rollouts.prompt_ids", "rewards.rollouts", "rewards.prompt_ids",
}  # fmt: skip
"""Columns that hold nearly all bytes; no list shows them."""
GROUP = studio_rows.group_id(1_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables in several files, half of them merged; row groups are to them what 8 MB are to gigabytes."""
    made = tmp_path_factory.mktemp("scale") / "data"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(appending, "GROUP_BYTES", 500_000)
        studio_rows.filled(made, studio_rows.Sizes(nodes=1, groups=GROUPS, versions=8, letters=20, commit=COMMIT))
    return made


@pytest.fixture(scope="module")
def studio(folder):
    site = serve.site(load(environment={}, flags=[f"factory.data={json.dumps(str(folder))}"]))
    with serve.open_to(site, "127.0.0.1", 0) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        yield SimpleNamespace(client=client, site=site)


def columns(operators):
    """What the scans in a plan take from files, as 'table.column'."""
    for one in operators:
        found = one["extra_info"]
        if found.get("Function") == "READ_PARQUET":
            taken, table = found.get("Projections", []), Path(found["Filename(s)"].split(",")[0]).parent.name
            yield from (f"{table}.{column}" for column in ([taken] if isinstance(taken, str) else taken))
        yield from columns(one.get("children", []))


@pytest.fixture
def read(studio, monkeypatch):
    """read(path) opens a page and gives its questions: each one's text, bytes read, rows scanned, and columns."""
    asked = []
    rows = tables.Tables.rows

    def watched(self, sql, params=(), limit_s=tables.LIMIT_S):
        with self.cursor() as cursor:
            told = json.loads(cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", list(params)).fetchall()[0][1])
        asked.append(
            SimpleNamespace(
                sql=sql,
                bytes=told.get("io", {}).get("total_bytes_read", 0),
                rows=told.get("query", {}).get("total_rows_scanned", 0),  # no part where the footers know the answer
                columns=set(columns(told.get("operator", []))),
            )
        )
        return rows(self, sql, params, limit_s)

    monkeypatch.setattr(tables.Tables, "rows", watched)

    def opened(path, status=200):
        studio.site.tables.snapshot().answers.clear()
        asked.clear()
        assert studio.client.get(path).status_code == status
        return list(asked)

    return opened


def size(folder, *names):
    """Bytes of tables' present files."""
    files, _ = Datasets(folder / "datasets").snapshot()
    return sum(Path(path).stat().st_size for name in names for path in files[name])


def test_files_are_of_groups_of_a_few_megabytes_also_merged_ones(folder):
    files, _ = Datasets(folder / "datasets").snapshot()
    counts = {pq.read_metadata(path).num_rows: pq.read_metadata(path).num_row_groups for path in files["rewards"]}
    assert set(counts) == {GROUPS // 2, COMMIT}  # five commits that were merged, and five that were not
    assert counts[GROUPS // 2] > counts[COMMIT] > 1
    assert all(pq.read_metadata(path).num_row_groups == 1 for path in files["prompts"])


@pytest.mark.parametrize(
    ("path", "table", "share"),
    [
        (f"/rollouts/{GROUP}", "rewards", 0.1),
        (f"/rows/rollouts/{GROUP}", "rollouts", 0.1),
        (f"/trees/{TREE}", "trees", 0.6),
    ],
)
def test_of_a_large_row_its_group_is_read_and_not_its_file(folder, read, path, table, share):
    """One in forty questions on a busy machine reads a second group, which another of DuckDB's threads had begun."""
    taken = []
    for _ in range(3):
        (whole,) = [one for one in read(path) if one.sql.startswith("SELECT *")]
        taken.append(whole.bytes)
    assert 0 < min(taken) < share * size(folder, table)


@pytest.mark.parametrize("path", ["/rollouts", "/rollouts?fate=trained", "/traces", "/rows/rewards", "/rows/prompts"])
def test_a_list_scans_the_newest_rows_and_not_all(read, path):
    first = next(one for one in read(path) if "LIMIT 51" in one.sql)
    assert 0 < first.rows <= 4 * COMMIT


@pytest.mark.parametrize(
    "path",
    [
        "/flow", "/trees", "/trees?q=no+such", "/traces", "/rows/rollouts", "/rows/trees",
        "/rollouts", "/rollouts?q=no+such", "/rollouts?mix=mixed&fate=trained&order=slowest",
        f"/problems/{studio_rows.problem_id(40)}",
    ],
)  # fmt: skip
def test_no_list_reads_a_large_column(read, path):
    taken = set().union(*(one.columns for one in read(path)))
    assert any(column.endswith("._time") for column in taken)
    assert not taken & LARGE


def test_what_views_share_is_asked_once_of_each_snapshot(folder, studio, read):
    shared = "SELECT DISTINCT problem.source"
    assert [one for one in read("/rollouts") if one.sql.startswith(shared)]
    tables_ = studio.site.tables
    held = tables_.snapshot()
    assert any(sql.startswith(shared) for sql, _ in held.answers)
    known = dict(held.answers)
    assert studio.client.get("/rollouts?page=1").status_code == 200
    assert held.answers == known
    held.made -= tables.OLD_S + 1  # as if nobody had asked for a while
    Datasets(folder / "datasets").append("replays", TABLES["replays"].empty_table(), {"replays:other:0": 1})
    assert tables_.snapshot() is not held
    assert not tables_.snapshot().answers


def test_a_studio_keeps_few_answers(studio):
    for number in range(tables.KEPT + 5):
        assert studio.site.tables.kept("SELECT $1 AS number", [number]) == [{"number": number}]
    assert 0 < len(studio.site.tables.snapshot().answers) <= tables.KEPT
