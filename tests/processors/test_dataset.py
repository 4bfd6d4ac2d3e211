import datetime as dt
import errno
import json
import random
import subprocess
import threading
import time
import typing
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processors.dataset import BadPlace, Datasets, NoDatasets, OtherColumns, app_id
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, decode, encode
from schemas.tables import META, TABLES
from schemas.topics import BY_MESSAGE, TOPICS

APP = app_id("problems", "u", 0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.fixture
def datasets(tmp_path):
    made = Datasets(tmp_path / "the data's pläce 100%" / "datasets")
    made.create()
    return made


def problem(number, **other):
    return m.Problem(**{"id": f"p{number}", "question": "1+1?", "answer": "2", "source": "s", **other})


def place(message, offset, topic_id="u", partition=0):
    topic = BY_MESSAGE[type(message)].name
    return Place(
        topic=topic,
        topic_id=topic_id,
        partition=partition,
        offset=offset,
        time_ms=offset,
        sha=content_sha(encode(message)),
    )


def rows(*messages, first=0, **where):
    schema = TABLES[BY_MESSAGE[type(messages[0])].table]
    batches = [message_batch(one, place(one, at, **where), schema) for at, one in enumerate(messages, first)]
    return pa.Table.from_batches(batches, schema=schema)


def count(datasets, table="problems", pin=None):
    with datasets.connect(pin) as connection:
        return connection.execute(f"select count(*) from {table}").fetchone()[0]


def test_rows_and_offsets_are_one_commit(datasets):
    before = datasets.versions()["problems"]
    assert datasets.append("problems", rows(problem(0), problem(1)), {APP: 1}) == 2
    assert datasets.versions()["problems"] == before + 1
    assert datasets.offsets("problems") == {APP: 1}
    assert datasets.ids("problems") == {"p0", "p1"}


def test_what_an_offset_covers_is_not_written_again_and_offsets_never_go_back(datasets):
    datasets.append("problems", rows(problem(0), problem(1), problem(2)), {APP: 2})
    assert Datasets(datasets.root).append("problems", rows(problem(1), problem(2), problem(3), first=1), {APP: 3}) == 1
    assert datasets.append("problems", rows(problem(0)), {APP: 0}) == 0
    assert datasets.offsets("problems") == {APP: 3}
    assert count(datasets) == 4


def test_offsets_move_without_rows_and_without_an_empty_file(datasets):
    datasets.append("problems", rows(problem(0)), {APP: 0})
    other = app_id("problems", "u", 7)
    assert datasets.append("problems", TABLES["problems"].empty_table(), {other: 41}) == 0
    assert datasets.offsets("problems") == {APP: 0, other: 41}
    assert len(datasets.table("problems").file_uris()) == 1


def test_a_recreated_topic_begins_again_at_zero(datasets):
    datasets.append("problems", rows(problem(0), problem(1)), {APP: 1})
    again = app_id("problems", "another", 0)
    assert datasets.append("problems", rows(problem(9), topic_id="another"), {again: 0}) == 1
    assert datasets.offsets("problems") == {APP: 1, again: 0}


def test_two_writers_with_the_same_rows_write_them_once(datasets):
    table = rows(*map(problem, range(20)))
    writers = [Datasets(datasets.root) for _ in range(4)]
    added = []

    def write(writer):
        added.extend(writer.append("problems", table.slice(at, 1), {APP: at}) for at in range(20))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == count(datasets) == len(datasets.ids("problems"))
    assert datasets.offsets("problems") == {APP: 19}


def test_offsets_are_listed_across_checkpoints_and_compaction_and_for_old_versions(datasets):
    for at in range(47):
        datasets.append("problems", rows(problem(at), first=at), {APP: at, app_id("problems", "u", at): at})
    assert list((datasets.root / "problems" / "_delta_log").glob("*.checkpoint.parquet"))
    now = datasets.offsets("problems")
    assert len(now) == 47
    assert now[APP] == 46
    old = datasets.offsets("problems", 10)
    assert (len(old), old[APP]) == (10, 9)
    assert datasets.compact("problems", files=40)
    assert not datasets.compact("problems", files=40)
    assert datasets.offsets("problems") == now
    assert len(datasets.table("problems").file_uris()) == 1


def test_a_connection_sees_one_snapshot_whatever_is_written_or_compacted_meanwhile(datasets):
    for at in range(5):
        datasets.append("problems", rows(problem(at), first=at), {APP: at})
    pin = datasets.versions()
    with datasets.connect() as connection:
        datasets.append("problems", rows(problem(5), first=5), {APP: 5})
        assert datasets.compact("problems", files=2)
        assert connection.execute("select count(*), count(distinct id) from problems").fetchone() == (5, 5)
    assert count(datasets) == 6
    assert count(datasets, pin=pin) == 5


def test_a_connection_of_some_tables_has_no_others(datasets):
    datasets.append("problems", rows(problem(0)), {APP: 0})
    with datasets.connect({"problems": 1, "trees": 0}, only=("problems", "training")) as connection:
        counts = "select (select count(*) from problems), (select count(*) from training)"
        assert connection.execute(counts).fetchone() == (1, 0)
        named = connection.execute("select view_name from duckdb_views() where not internal").fetchall()
        assert {name for (name,) in named} == {"problems", "training"}
        with pytest.raises(duckdb.Error):
            connection.execute("select * from trees")
        with pytest.raises(duckdb.Error):
            connection.execute("select * from read_text('/etc/passwd')")


def test_an_empty_table_is_an_empty_view_with_the_right_columns(datasets):
    with datasets.connect() as connection:
        for name, schema in TABLES.items():
            assert connection.execute(f"select count(*) from {name}").fetchone() == (0,)
            assert connection.sql(f"select * from {name}").columns == schema.names


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_text('/etc/passwd')",
        "select * from read_csv('../secret.csv')",
        "select * from glob('/*')",
        "copy problems to '/tmp/never-written.csv'",
        "attach '/tmp/never-written.db'",
        "install httpfs",
        "set enable_external_access = true",
        "set allowed_paths = ['/etc/passwd']",
        "from some_local",
    ],
)
def test_a_connection_reaches_no_other_file_and_no_setting(datasets, query):
    some_local = pa.table({"secret": [1]})  # noqa: F841 - DuckDB would find it by its name
    datasets.append("problems", rows(problem(0)), {APP: 0})
    with datasets.connect() as connection, pytest.raises(duckdb.Error):
        connection.execute(query)


def test_no_tables_is_said_in_a_sentence(tmp_path):
    with pytest.raises(NoDatasets, match="factory up"):
        Datasets(tmp_path).connect()
    assert Datasets(tmp_path).versions() == {}
    with pytest.raises(NoDatasets, match="no table 'trees'"):
        Datasets(tmp_path).table("trees")


def test_a_path_that_would_be_a_pattern_is_refused(tmp_path):
    for name in ("data[1]", "data%20of%20mine"):
        with pytest.raises(BadPlace, match="choose another data directory"):
            Datasets(tmp_path / name).create()


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_an_error_with_its_number_and_the_table_stays_whole(small_disk):
    datasets = Datasets(small_disk / "datasets")
    datasets.create()
    datasets.append("problems", rows(problem(0)), {APP: 0})
    large = problem(1, question=random.Random(0).randbytes(1_000_000).hex())
    with pytest.raises(OSError) as caught:
        datasets.append("problems", rows(large, first=1), {APP: 1})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith("problems")
    assert len(list((datasets.root / "problems").glob("*.parquet"))) == 1, "half a file keeps room"
    assert datasets.offsets("problems") == {APP: 0}
    assert datasets.append("problems", rows(problem(2), first=1), {APP: 1}) == 1
    assert datasets.ids("problems") == {"p0", "p2"}


def test_a_commit_that_failed_leaves_no_file_and_its_attempts_fill_no_disk(datasets, monkeypatch):
    datasets.append("problems", rows(problem(0)), {APP: 0})

    def refused(*_, **__):
        raise OSError("Generic LocalFileSystem error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", refused)
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                datasets.append("problems", rows(problem(1), first=1), {APP: 1})
            assert caught.value.errno == errno.ENOSPC
    assert len(list((datasets.root / "problems").glob("*.parquet"))) == 1
    assert datasets.append("problems", rows(problem(1), first=1), {APP: 1}) == 1


def test_a_commit_whose_checkpoint_of_the_log_failed_counts_once(datasets):
    """The checkpoint is written after the commit, every twentieth time; its failure is raised all the same."""
    in_the_way = datasets.root / "problems" / "_delta_log" / f"{19:020}.checkpoint.parquet"
    in_the_way.mkdir()
    for at in range(25):
        assert datasets.append("problems", rows(problem(at), first=at), {APP: at}, commits=at) == 1
    in_the_way.rmdir()
    assert (count(datasets), datasets.offsets("problems")) == (25, {APP: 24})


def test_a_merge_says_whether_there_was_anything_to_merge(datasets):
    for at in range(3):
        datasets.append("problems", rows(problem(at), first=at), {APP: at})
    assert datasets.compact("problems", files=0)
    assert not datasets.compact("problems", files=0), "one file is left"


def test_superseded_names_rows_made_from_a_losing_copy(datasets):
    tree = m.Tree(
        id="t",
        problem=problem(0),
        nodes=[],
        policy_version=0,
        policy_sha="",
        seed=0,
        iterations=0,
        generated_tokens=0,
        prompt_tokens=0,
        requests=0,
        seconds=0.0,
        solved=False,
    )
    made = {
        "id": "x",
        "tree_id": "t",
        "problem": problem(0),
        "arm": "direct",
        "walk": [],
        "segments": [],
        "text": "",
        "backtracks": 0,
        "wrong_answers": [],
    }
    right = m.Trace(**made, tree_sha=content_sha(encode(tree)))
    wrong = m.Trace(**{**made, "id": "y"}, tree_sha="of another copy")
    datasets.append("trees", rows(tree), {app_id("trees", "u", 0): 0})
    datasets.append("traces", rows(right, wrong), {app_id("traces", "u", 0): 1})
    examples = [
        m.Example(
            id=trace.id,
            tree_id="t",
            trace_sha=content_sha(encode(trace)) if at else "of another copy",
            problem=problem(0),
            arm="direct",
            text="",
            backtracks=0,
            verdict="correct",
            checks=[],
        )
        for at, trace in enumerate((right, wrong))
    ]
    datasets.append("examples", rows(*examples), {app_id("examples", "u", 0): 1})
    with datasets.connect() as connection:
        found = connection.execute('select "table", id, parent_id from superseded order by all').fetchall()
    # y's example was made from the visible trace y, which was made from a tree that lost
    assert found == [("examples", "x", "x"), ("examples", "y", "t"), ("traces", "y", "t")]


def test_thirteen_views_over_a_hundred_files_open_fast(datasets):
    for at in range(100):
        datasets.append("problems", rows(problem(at), first=at), {APP: at})
    started = time.monotonic()
    with datasets.connect() as connection:
        assert connection.execute("select count(*) from problems").fetchone() == (100,)
    assert time.monotonic() - started < 1.0


PLAIN = {
    str: TEXT,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False) | st.just(-0.0),
    bool: st.booleans(),
    bytes: st.binary(max_size=12),
}


def values(annotation):
    if annotation in PLAIN:
        return PLAIN[annotation]
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return st.lists(values(typing.get_args(annotation)[0]), max_size=3)
    if typing.get_origin(annotation) is typing.Annotated:
        base, meta = typing.get_args(annotation)
        return st.from_regex(meta.pattern) if meta.pattern else values(base)
    hints = typing.get_type_hints(annotation, include_extras=True)
    return st.builds(annotation, **{name: values(hints[name]) for name in annotation.__struct_fields__})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    made = Datasets(tmp_path_factory.mktemp("shared"))
    made.create()
    return made


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
@hypothesis_settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_messages_come_back_with_the_very_bytes(shared, topic, data):
    sent = data.draw(st.lists(values(topic.message), min_size=1, max_size=8))
    wire = [encode(one) for one in sent]
    sent = [decode(one, topic.message) for one in wire]
    held = shared.offsets(topic.table)
    app = app_id(topic.table, "u", 0)
    first = held.get(app, -1) + 1
    shared.append(topic.table, rows(*sent, first=first), {app: first + len(sent) - 1})
    back = list(shared.messages(topic.message, f"_offset >= {first}"))
    assert [encode(one) for one in back] == wire
    assert [row["_sha"] for row in shared.rows(topic.table, f"_offset >= {first}")] == [content_sha(w) for w in wire]


def test_numbers_and_texts_at_their_edges_come_back_with_the_very_bytes(datasets):
    odd = problem(
        1,
        question="\x00 ü \U0001f600 \u2028 \u0301 \"'\\ \r\n",
        index=-(2**63),
        difficulty=-0.0,
        metadata=json.dumps({"a": 5e-324}),
    )
    big = problem(2, index=2**63 - 1, difficulty=5e-324)
    datasets.append("problems", rows(odd, big), {APP: 1})
    assert [encode(one) for one in datasets.messages(m.Problem)] == [encode(odd), encode(big)]


def test_every_row_says_where_it_was_read(datasets):
    datasets.append("problems", rows(problem(3), first=17, partition=2), {app_id("problems", "u", 2): 17})
    (row,) = datasets.rows("problems")
    assert {name: row[name] for name in META.names if name != "_time"} == {
        "_topic": "problems",
        "_topic_id": "u",
        "_partition": 2,
        "_offset": 17,
        "_schema": 1,
        "_sha": content_sha(encode(problem(3))),
    }
    assert row["_time"] == dt.datetime(1970, 1, 1, 0, 0, 0, 17_000, tzinfo=dt.UTC)


def test_tables_of_another_version_are_refused(tmp_path):
    made = Datasets(tmp_path)
    older = pa.schema([field for field in TABLES["trees"] if field.name != "stopped"])
    DeltaTable.create(str(tmp_path / "trees"), schema=older)
    with pytest.raises(OtherColumns, match=r"trees was made by another version .* --data"):
        made.create()


def test_a_tables_files_are_found_below_a_directory_of_any_name(tmp_path):
    datasets = Datasets(tmp_path / "my dätä #1" / "datasets")
    datasets.create()
    datasets.append("problems", rows(problem(0)), {APP: 0})
    uris = datasets.table("problems").file_uris()
    assert uris
    assert all(Path(path).is_file() for path in datasets.place.files("problems", uris))
