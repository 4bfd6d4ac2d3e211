"""The reader's own SQL: answered, plotted, taken away as a file; and what it may not do said in a sentence."""

import csv
import io

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
        ("copy trees to '/tmp/out.csv'", "only SELECT"),
        ("with a as (copy trees to '/tmp/out.csv') select 1", "may not write"),
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


def test_a_file_of_too_many_rows_is_refused_not_cut(client, monkeypatch):
    monkeypatch.setattr(ask, "FILE_ROWS", 5_000)
    answer = client.get("/ask/answer.csv", params={"sql": "select * from range(5001)"})
    assert answer.status_code == 400
    assert "more than 5,000 rows" in answer.text
    assert client.get("/ask/answer.csv", params={"sql": "select * from range(5000)"}).text.count("\n") == 5001
    assert client.get("/ask/answer.csv", params={"sql": "drop table trees"}).status_code == 400
