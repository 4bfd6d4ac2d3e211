import csv
import io
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from deploy import sql, tabular
from processors.dataset import Datasets, NoDatasets, app_id
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.tables import TABLES


def problem(number, **other):
    return m.Problem(**{"id": f"p{number}", "question": f"1+{number}?", "answer": "2", "source": "s", **other})


def write(datasets, *problems, first=0):
    batches = [
        message_batch(
            one,
            Place(topic="problems", topic_id="u", partition=0, offset=at, time_ms=at, sha=content_sha(encode(one))),
            TABLES["problems"],
        )
        for at, one in enumerate(problems, first)
    ]
    rows = pa.Table.from_batches(batches, schema=TABLES["problems"])
    datasets.append("problems", rows, {app_id("problems", "u", 0): first + len(problems) - 1})


@pytest.fixture
def settings(make_settings):
    made = make_settings()
    datasets = Datasets(Path(made.factory.data) / "datasets")
    datasets.create()
    write(datasets, problem(0), problem(1, question="a\x1b[31mred\nline", difficulty=0.5))
    return made


def victim(settings):
    (path,) = (Path(settings.factory.data) / "datasets" / "problems").glob("*.parquet")
    return path


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from problems",
        "select count(*) from problems;  -- how many",
        "select count(*) from problems where question <> 'é;é' ; -- ü;",
        "-- how many\nselect count(*) from problems",
        "from problems select count(*)",
        "with q as (select * from problems) select count(*) from q",
        "with recursive r(n) as (select 1 union all select n + 1 from r where n < 2) select count(*) from r",
        "select n from (values (2)) v(n) order by n",
        "select count(*) from (describe problems) where column_name in ('id', 'answer')",
        "from (pivot (select 2 as n, 'x' as c) on c using sum(n)) select x::int",
    ],
)
def test_reading_queries_are_answered(settings, query):
    assert sql.query(settings, query).column(0).to_pylist() == [2]


def test_statements_that_describe_are_answered(settings):
    assert sql.query(settings, "describe problems").num_rows == len(TABLES["problems"])
    assert sql.query(settings, "show tables").num_rows == len(TABLES) + len(("superseded", "replaced"))
    assert sql.query(settings, "summarize problems").num_rows == len(TABLES["problems"])
    assert sql.query(settings, "pivot problems on source using count(*) group by answer").num_rows == 1
    assert "PARQUET" in sql.render(sql.query(settings, "explain select id from problems")).upper()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("select * from problms", "the tables are: problems, trees"),
        ("select nosuch from problems", "nosuch"),
        ("select 'a' + 1", "Could not choose"),
        ("select 'x'::int from problems", "Could not convert"),
        ("select if(range = 200000, 'x', '1')::int from range(300000)", "Could not convert"),  # late: through Arrow
        ("", "empty"),
        ("-- nothing", "empty"),
        (";", "empty"),
        ("select 1; select 2", "one query at a time"),
        ("select 1) union (select 2", "syntax error"),
        ("select ? + 1", "parameter"),
        ("drop view problems", "only SELECT"),
        ("create table t as select 1", "only SELECT"),
        ("set threads = 1", "only SELECT"),
        ("pragma version", "only SELECT"),
        ("call pragma_version()", "only SELECT"),
        ("explain analyze select 1", "only SELECT"),
        ("select * from read_text('/etc/passwd')", "Cannot access"),
        ("from '/etc/passwd'", ""),
        ("\x00", ""),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_sentence(settings, query, says):
    with pytest.raises(sql.BadQuery, match=r"(?s).") as caught:
        sql.query(settings, query)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "LINE" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to '{file}' (use_tmp_file false)",
        "with x as (copy (select 1 b) to '{file}' (use_tmp_file false)) select 1",
        "with x as materialized (copy (select 1 b) to '{file}' (use_tmp_file false)) from x",
        "explain analyze copy (select 1) to '{file}' (use_tmp_file false)",
        "explain (analyze) copy (select 1) to '{file}' (use_tmp_file false)",
        "explain copy (select 1) to '{file}' (use_tmp_file false)",
        "select * from query('with x as (copy (select 1 b) to ''{file}'' (use_tmp_file false)) select 1')",
        "prepare p as copy (select 1) to '{file}' (use_tmp_file false)",
        "create macro w() as table (copy (select 1) to '{file}')",
        "with x as (copy (select 1 b) to '{other}') select 1",
    ],
)
def test_no_query_writes_a_file_not_even_one_it_may_read(settings, query, tmp_path):
    path = victim(settings)
    before = path.read_bytes()
    try:
        sql.query(settings, query.format(file=path, other=tmp_path / "other.csv"))
    except sql.BadQuery:
        pass
    else:
        assert query.startswith("explain copy"), "only a plan may be shown"
    assert path.read_bytes() == before
    assert not (tmp_path / "other.csv").exists()
    assert len(Datasets(Path(settings.factory.data) / "datasets").ids("problems")) == 2


def test_each_query_sees_what_was_committed_before_it(settings):
    write(Datasets(Path(settings.factory.data) / "datasets"), problem(7), first=2)
    assert sql.query(settings, "select count(*) from problems").column(0).to_pylist() == [3]


def test_json_is_one_array_of_objects_whatever_the_types(settings):
    table = sql.query(
        settings,
        "select 1 a, 2 a, sum(index) as h, "
        " 1.50::decimal(5,2) as d, 'nan'::double as nan, null as nothing, '\\xC3\\xA9'::blob as b, "
        "timestamp '2024-01-02 03:04:05' as t, date '2024-01-02' as day, map {'k': [1]} as m, {'x': [1, 2]} as s, "
        "interval 1 day as i, 170141183460469231731687303715884105727::hugeint as huge, question "
        "from problems where id = 'p1' group by question",
    )
    (row,) = json.loads(sql.render(table, "json"))
    assert row["a"] == 1
    assert row["a_2"] == 2
    assert row["h"] == 0
    assert row["d"] == 1.5
    assert row["nan"] is None
    assert row["nothing"] is None
    assert row["b"] == "w6k="
    assert row["t"] == "2024-01-02T03:04:05"
    assert row["day"] == "2024-01-02"
    assert row["s"] == {"x": [1, 2]}
    assert row["m"] == [["k", [1]]]
    assert row["question"] == "a\x1b[31mred\nline"
    assert json.loads(sql.render(table.slice(0, 0), "json")) == []


def test_a_decimal_keeps_its_digits():
    texts = ["0.10", "3.00", "0.1234567890123456789", "123456789012345678901.5", "-7.000000000000000000001"]
    said = [tabular.plain(Decimal(text)) for text in texts]
    assert said == [0.1, 3, *texts[2:]]
    assert json.loads(tabular.as_json(pa.table({"d": [Decimal(texts[2])]}))) == [{"d": texts[2]}]


def test_csv_reads_back(settings):
    text = sql.render(
        sql.query(settings, "select id, question, [1, 2] as l, null as n from problems order by id"), "csv"
    )
    assert list(csv.reader(io.StringIO(text))) == [
        ["id", "question", "l", "n"],
        ["p0", "1+0?", "[1,2]", ""],
        ["p1", "a\x1b[31mred\nline", "[1,2]", ""],
    ]


def test_a_table_shows_hostile_text_without_obeying_it(settings):
    text = sql.render(sql.query(settings, "select question, difficulty from problems where id = 'p1'"))
    assert "\x1b" not in text
    assert "a�[31mred⏎line" in text
    assert "0.5" in text
    assert text.endswith("(1 row)")


def test_a_long_answer_is_cut_and_says_so():
    table = pa.table({"n": list(range(1200)), "t": ["x" * 1000] * 1200})
    text = tabular.as_table(table)
    assert text.endswith("(1,200 rows, the first 500 shown)")
    assert "(1000 characters)" in text


def test_the_shell_answers_lines(settings):
    assert "rows" in sql.answer(settings, ".tables")
    assert "difficulty" in sql.answer(settings, ".schema problems")
    assert sql.answer(settings, ".schema nope").startswith("error: no table 'nope'")
    assert sql.answer(settings, "selec") == 'error: syntax error at or near "selec"'
    assert ".schema T" in sql.answer(settings, ".what")
    assert json.loads(sql.answer(settings, "select count(*) as n from problems", "json")) == [{"n": 2}]


def test_the_shell_reads_a_pipe_until_quit(settings):
    code = (
        "import sys; from deploy import sql; from schemas.load import load; "
        "sql.shell(load(environment={}, flags=[f'factory.data={sys.argv[1]}']))"
    )
    lines = ".json\nselect count(*) as n from problems\nselec\n\n.quit\nselect 'not reached'\n"
    done = subprocess.run(
        [sys.executable, "-c", code, settings.factory.data],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.stdout == '[{"n":2}]\nerror: syntax error at or near "selec"\n'
    assert done.stderr == ""


def test_without_tables_it_says_what_to_do(make_settings):
    with pytest.raises(NoDatasets, match="factory up"):
        sql.query(make_settings("factory.data=/nowhere/at/all"), "select 1")
    assert sql.answer(make_settings("factory.data=/nowhere/at/all"), "select 1").startswith("error: ")


@pytest.mark.parametrize(
    ("query", "flag", "says"),
    [
        ("select count(*) from range(100000000) a, range(100000000) b", "sql.timeout_s=0.3", "stopped after 0.3 s"),
        (
            "select range from range(1000000000000) where range < 3000 or range % 1000000000007 = 5",
            "sql.timeout_s=0.5",
            "stopped after 0.5 s",
        ),
        ("select list(i) from range(50000000) t(i)", "sql.memory_mb=16", "than 16 MB"),
        ("select i from range(50000000) t(i)", "sql.memory_mb=16", "than 16 MB"),
    ],
    ids=["time", "time after the first rows", "work", "answer"],
)
def test_a_query_beyond_its_limits_is_stopped_and_says_which(settings, make_settings, query, flag, says):
    with pytest.raises(sql.BadQuery, match=says) as caught:
        sql.query(make_settings(flag), query)
    assert "\n" not in str(caught.value)
