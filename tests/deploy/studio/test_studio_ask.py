"""The reader's own SQL: answered, plotted, taken away as a file; and what it may not do said in a sentence."""

import csv
import io
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest

from deploy.studio import ask, examples


def asked(client, sql, **params):
    return client.get("/ask", params={"sql": sql, **params})


def test_an_answer_is_a_table_with_links(client):
    page = asked(client, "select tree_id, count(*) as nodes from nodes group by 1 order by 1").text
    assert '<a class="id" href="/trees/tree1">tree1</a>' in page
    assert "2 rows" in page


@pytest.mark.parametrize("one", examples.EXAMPLES, ids=lambda one: one.title)
def test_the_examples_are_answered(client, one):
    page = asked(client, one.sql, plot=one.plot, x=one.x).text
    assert 'class="note bad"' not in page
    assert "<table" in page
    assert bool(one.plot) == ('class="chart"' in page)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("drop table trees", "only SELECT"),
        ("attach '/etc/passwd' as p", "only SELECT"),
        ("set memory_limit = '1TB'", "only SELECT"),
        ("select * from read_text('/etc/passwd')", "disabled"),
        ("select * from read_csv('https://example.org/a.csv')", "disabled"),
        ("select * from glob('/etc/*')", "disabled"),
        ("select 1; select 2", "one query at a time"),
        ("select nothing from trees", "nothing"),
        ("select * from wood", "the tables are"),
        ("select <script>", "syntax error"),
        ("select repeat('x', 1000000000000)", ""),
    ],
)
def test_what_may_not_be_asked_is_said_and_the_query_stays(client, sql, said):
    answer = asked(client, sql)
    assert answer.status_code == 200
    assert 'class="note bad" role="alert"' in answer.text
    assert said.lower() in answer.text.lower()
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("copy trees to '{}'", "only SELECT"),
        ("with a as (copy trees to '{}') select 1", "may not write"),
        ("with a as (copy (select 1) to '{}' (use_tmp_file false)) select 1", "may not write"),
    ],
)
def test_no_query_writes_a_file(client, tmp_path, sql, said):
    assert said in asked(client, sql.format(tmp_path / "out.csv")).text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/ask", "/ask/answer.csv", "/ask/answer.parquet"])
def test_what_fails_after_the_first_rows_is_a_sentence_too(client, path):
    sql = "select range from range(5000000) where range < 300 or if(range = 4000000, 'x', '1')::int = 2"
    late = client.get(path, params={"sql": sql})
    assert late.status_code == (200 if path == "/ask" else 400)
    assert "Could not convert" in late.text


def test_a_query_that_gives_some_rows_and_no_more_is_stopped(client, monkeypatch):
    monkeypatch.setattr(ask, "LIMIT_S", 0.5)
    sql = "select range from range(1000000000000) where range < 300 or range % 1000000000007 = 5"
    page = asked(client, sql)
    assert page.status_code == 200
    assert "took longer than 0.5 s and was stopped" in page.text


def test_the_bytes_of_an_answer_are_bounded(client, monkeypatch):
    monkeypatch.setattr(ask, "SHOWN_BYTES", 1_000_000)
    monkeypatch.setattr(ask, "FILE_BYTES", 1_000_000)
    sql = "select repeat('x', 10000) as x from range({})"
    assert "more than 1 MB" in asked(client, sql.format(300)).text
    page = asked(client, sql.format(50)).text
    assert page.count("…</td>") == 50
    assert len(page) < 100_000
    assert client.get("/ask/answer.csv", params={"sql": sql.format(300)}).status_code == 400
    assert len(client.get("/ask/answer.csv", params={"sql": sql.format(50)}).content) > 500_000


@pytest.mark.parametrize(
    "value",
    [
        "repeat('<b> ', 3000000)",
        "repeat('x', 3000000)::blob",
        "list_resize([7], 2000000, 7)",
        "map {'k': repeat('x', 3000000)}",
    ],
)
def test_a_large_value_is_shown_by_its_beginning_at_once(client, value):
    page = asked(client, f"select {value} as x").text
    assert page.count("…</td>") == 1
    assert len(page) < 100_000


def test_a_query_that_runs_for_ever_is_stopped(client, monkeypatch):
    monkeypatch.setattr(ask, "LIMIT_S", 0.5)
    page = asked(client, "select count(*) from range(100000000) a, range(100000000) b where a.range * b.range = 7").text
    assert "took longer than 0.5 s and was stopped" in page
    assert "2 rows" in asked(client, "select id from trees").text  # the others go on


def test_of_a_million_rows_the_first_thousand_are_shown(client):
    page = asked(client, "select * from range(1000000)")
    assert "1,000 rows: the first 1,000" in page.text
    assert page.text.count("<td") == 1000


def test_no_rows_are_still_columns(client):
    page = asked(client, "select id, solved from trees where false").text
    assert "<th>solved</th>" in page
    assert "0 rows" in page


def test_a_plot_takes_the_columns_that_are_numbers(client):
    page = asked(
        client, "select range as n, range * range as square, 'a' as word from range(9)", plot="scatter", x="n"
    ).text
    assert page.count('<circle class="d s0"') == 9
    assert '<circle class="d s1"' not in page
    words = asked(client, "select stopped, count(*) as n from trees group by 1", plot="bar", x="stopped").text
    assert ">budget</text>" in words
    assert words.count('<rect class="d s0"') == 2
    empty = asked(client, "select 'a' as word", plot="line").text
    assert 'class="chart"' not in empty


def test_an_answer_as_csv_and_parquet(client):
    sql = "select id, problem, nodes, solved from trees order by id"
    answer = client.get("/ask/answer.csv", params={"sql": sql})
    assert answer.headers["content-disposition"] == 'attachment; filename="answer.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == ["tree1", "tree2"]
    assert rows[1]["problem"].startswith('{"id":"problem2"')
    table = pq.read_table(io.BytesIO(client.get("/ask/answer.parquet", params={"sql": sql}).content))
    assert table.column("nodes").to_pylist()[0][4]["answer"] == "2*3"
    assert table.num_rows == 2


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_a_file_cannot_hold_is_text_in_it(client, form):
    sql = "select interval 26 hour as i, [interval 1 day] as l, union_value(a := 1) as u, 'a' as a, 1 as n, 2 as n"
    assert "93600.0 s" in asked(client, sql).text
    answer = client.get(f"/ask/answer.{form}", params={"sql": sql})
    assert answer.status_code == 200
    if form == "csv":
        (row,) = csv.DictReader(io.StringIO(answer.text))
    else:
        (row,) = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert (row["i"], row["l"], row["a"], str(row["n_2"])) == ("93600.0 s", "[[0,1,0]]", "a", "2")


def test_a_file_is_removed_when_it_was_sent(client, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert client.get("/ask/answer.csv", params={"sql": "select 1 as a"}).text == '"a"\n1\n'
    assert client.get("/ask/answer.csv", params={"sql": "select nothing"}).status_code == 400
    assert client.get("/ask/answer.csv", params={"sql": "select 1 as a"}, headers={"Range": "bytes=0-1"}).text == '"a'
    until = time.monotonic() + 20
    while list(tmp_path.iterdir()):  # the reader has the last byte a moment before
        assert time.monotonic() < until
        time.sleep(0.01)


def test_slow_queries_leave_the_pages_their_threads(client, monkeypatch):
    going = threading.Event()
    monkeypatch.setattr(ask, "_answer", lambda *_: going.wait(30) and {})
    with ThreadPoolExecutor(40) as pool:
        slow = [pool.submit(asked, client, "select 1") for _ in range(40)]  # more than there are threads
        try:
            assert client.get("/trees", timeout=10).status_code == 200
        finally:
            going.set()
        assert {one.result().status_code for one in slow} == {200}


def test_a_file_of_too_many_rows_is_refused_not_cut(client, monkeypatch):
    monkeypatch.setattr(ask, "FILE_ROWS", 5_000)
    answer = client.get("/ask/answer.csv", params={"sql": "select * from range(5001)"})
    assert answer.status_code == 400
    assert "more than 5,000 rows" in answer.text
    assert client.get("/ask/answer.csv", params={"sql": "select * from range(5000)"}).text.count("\n") == 5001
    assert client.get("/ask/answer.csv", params={"sql": "drop table trees"}).status_code == 400


def test_whatever_is_asked_the_tables_stay_as_they_are(client, data):
    def files():
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in (data / "datasets").rglob("*")}

    before = files()
    victim = next((data / "datasets" / "trees").glob("*.parquet"))
    for sql in (
        "drop view trees",
        "delete from trees",
        f"copy (select 1) to '{victim}' (use_tmp_file false)",
        f"with x as (copy (select 1) to '{victim}' (use_tmp_file false)) select 1",
        "select * from range(1000000)",
    ):
        assert asked(client, sql).status_code == 200
    for path in ("/trees/none", "/rows/none", "/rows/nodes/none", "/letters/none"):
        assert client.get(path).status_code == 404
    assert files() == before
