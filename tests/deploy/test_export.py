"""What `factory export` and `factory sql --attach-script` hand to other tools, read back as those tools do."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from deploy import attach, export_card, export_files, sql
from deploy.as_of import pinned
from deploy.code_version import code_version
from deploy.export import export, wanted
from deploy.export_files import NotExported
from processors.chat import INSTRUCTION, Chat, resolve
from processors.dataset import Datasets, app_id
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.load import BadSettings
from schemas.messages import Message
from schemas.tables import META, TABLES
from schemas.topics import BY_MESSAGE

HOSTILE = '---\nlicense: "mit"\n``` | <script>\x1b[31m\U0001f600\x85'


COMMAND = [sys.executable, "-m", "deploy.cli", "export"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}


def problem(number: int, **other) -> m.Problem:
    fields = {"id": f"p{number}", "question": f"What is {number}+1?", "answer": str(number + 1), "source": "chain_sum"}
    return m.Problem(**{**fields, "grader": "numeric", "difficulty": 2.0, **other})


def example(number: int, **other) -> m.Example:
    text = f"{number} + 1 = {number + 1}\n\nAnswer: {number + 1}"
    fields = {"id": f"e{number}", "tree_id": "t", "trace_sha": "s", "problem": problem(number), "arm": "direct"}
    return m.Example(**{**fields, "text": text, "backtracks": 0, "verdict": "correct", "checks": ["length"], **other})


def write(settings, *messages: Message, first: int = 0) -> None:
    """Append to the messages' table, as its sink does."""
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    topic = BY_MESSAGE[type(messages[0])]
    batches = [
        message_batch(
            one,
            Place(topic=topic.name, topic_id="u", partition=0, offset=at, time_ms=at, sha=content_sha(encode(one))),
            TABLES[topic.table],
        )
        for at, one in enumerate(messages, first)
    ]
    rows = pa.Table.from_batches(batches, schema=TABLES[topic.table])
    datasets.append(topic.table, rows, {app_id(topic.table, "u", 0): first + len(messages) - 1})


@pytest.fixture
def settings(make_settings):
    made = make_settings()
    write(made, *(problem(number) for number in range(5)), problem(5, source="mine", question=HOSTILE))
    write(made, example(0), example(1), example(2, text=HOSTILE))
    return made


def exported(settings, form, out, table="", query="", pin=None):
    return export(settings, form, wanted(settings, form, table, query), out, pin)


def rows_of(out: Path) -> list[dict]:
    files = sorted((out / "data").iterdir())
    if files[0].suffix == ".jsonl":
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def header_of(out: Path) -> dict:
    text = (out / "README.md").read_text("utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("\n---\n")[0])


@pytest.mark.parametrize("form", ["hf", "parquet", "jsonl"])
def test_a_table_comes_back_row_for_row(settings, tmp_path, form):
    done = exported(settings, form, tmp_path / "deep" / "out", "problems")
    found = rows_of(tmp_path / "deep" / "out")
    wanted_rows = sql.query(settings, "select * from problems").to_pylist()
    mine = [name for name in wanted_rows[0] if not name.startswith("_")]
    assert [{name: row[name] for name in mine} for row in found] == [
        {name: row[name] for name in mine} for row in wanted_rows
    ]
    assert (set(found[0]) & set(META.names) == set(META.names)) == (form != "hf")
    assert (done.rows, done.files, done.sources) == (6, 1, {"chain_sum": 5, "mine": 1})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"], "nothing is left beside it"


def test_the_card_says_what_is_in_it(make_settings, tmp_path):
    flags = [
        "search.k=3",
        'policy.weights_dirs=["/secret/place"]',
        "broker.bootstrap=somebody:9092",
        "engine.threads=2",
    ]
    source = '[{kind="file", name="/home/me/mine.jsonl", license="MIT"}, {name="chain_sum"}]'
    settings = make_settings(*flags, f"problems.sources={source}")
    write(settings, *(problem(number) for number in range(5)), problem(5, source="mine"))
    query = "select id, source -- ``` and ````\nfrom problems where source <> '---'"
    exported(settings, "hf", tmp_path / "out", query=query)
    header = header_of(tmp_path / "out")
    ours = header["astro_factory"]
    assert ours["query"] == query
    assert ours["tables"] == Datasets(Path(settings.factory.data) / "datasets").versions()
    assert (ours["code_version"], ours["rows"], ours["format"]) == (code_version(), 6, "hf")
    assert ours["sources"] == [
        {"name": "chain_sum", "rows": 5, "license": "Apache-2.0"},
        {"name": "mine", "rows": 1, "license": "MIT"},
    ]
    assert ours["settings"]["search.k"] == 3
    assert ours["settings"]["problems.sources"][0]["name"] == "mine.jsonl"
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    for private in ("/secret", "/home/me", "somebody", str(tmp_path), "engine.threads"):
        assert private not in text, private
    assert f"`````sql\n{query}\n`````" in text
    assert "| source | string |" in text
    assert "license" not in header, "the sources have several"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    exported(settings, "hf", tmp_path / "one", query="select * from problems where source = 'mine'")
    assert header_of(tmp_path / "one")["license"] == "mit"


def test_hostile_names_stay_text_in_the_card(settings, tmp_path):
    column = HOSTILE.replace('"', '""')
    query = f"select 1 as \"{column}\", '{HOSTILE}' as source"
    exported(settings, "parquet", tmp_path / "out", query=query)
    header = header_of(tmp_path / "out")
    assert header["astro_factory"]["query"] == query
    assert header["astro_factory"]["sources"] == [{"name": HOSTILE, "rows": 1, "license": "unknown"}]
    assert "license" not in header
    assert "<script>" not in (tmp_path / "out" / "README.md").read_text("utf-8").split("|---|---|")[1]


def test_what_is_no_source_of_problems_is_not_in_the_card(make_settings, tmp_path):
    settings = make_settings('problems.sources=[{kind="file", name="mine.jsonl", license="MIT"}]')
    write(settings, problem(0))
    for name, query in (
        ("flat", "select unnest(['mine', 'all', '', null]) as source"),
        ("nested", "select {'source': unnest(['mine', 'all', '', null])} as problem union all select null"),
    ):
        exported(settings, "hf", tmp_path / name, query=query)
        header = header_of(tmp_path / name)
        assert header["astro_factory"]["sources"] == [{"name": "mine", "rows": 1, "license": "MIT"}]
        assert header["license"] == "mit"
    exported(settings, "hf", tmp_path / "replays", query="select 'p0' as row_id, 'trees@17' as source")
    assert header_of(tmp_path / "replays")["astro_factory"]["sources"] == []


def test_examples_are_what_sfttrainer_takes_and_the_tokens_are_ours(settings, tmp_path):
    exported(settings, "trl", tmp_path / "out")
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == ["e0", "e1", "e2"]
    assert rows[0]["prompt"] == [{"role": "user", "content": "What is 0+1?"}]
    assert rows[0]["completion"] == [{"role": "assistant", "content": "0 + 1 = 1\n\nAnswer: 1"}]
    assert rows[2]["completion"][0]["content"] == HOSTILE
    chat = Chat(resolve("tiny"), settings.policy)
    turns = rows[0]["prompt"] + rows[0]["completion"]
    theirs = chat.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    ours = [*chat.prompt_ids("What is 0+1?"), *chat.encode(rows[0]["completion"][0]["content"]), chat.eos_id]
    assert list(theirs) == ours
    assert header_of(tmp_path / "out")["astro_factory"]["query"] == settings.sft.sql


@pytest.mark.parametrize(("table", "query"), [("problems", ""), ("", "select id, problem from examples")])
def test_problems_are_what_grpotrainer_takes(settings, tmp_path, table, query):
    exported(settings, "trl", tmp_path / "out", table, query)
    row = next(row for row in rows_of(tmp_path / "out") if row["id"][1:] == "1")
    assert set(row) == {"prompt", "answer", "grader", "metadata", "source", "difficulty", "id"}
    assert (row["prompt"], row["answer"]) == ([{"role": "user", "content": "What is 1+1?"}], "2")


def test_the_columns_for_trl_get_its_types(settings, tmp_path):
    query = """
        select 'q' question, 42 answer, 7 id, 2::utinyint difficulty, {'size': 3, 'of': [1.5]} metadata, null source
        union all select 'r', 43, null, null, null, 'mine'"""
    exported(settings, "trl", tmp_path / "out", query=query)
    row, other = rows_of(tmp_path / "out")
    assert row["prompt"] == [{"role": "user", "content": "q"}]
    assert (row["answer"], row["id"], row["difficulty"], row["source"]) == ("42", "7", 2.0, None)
    assert json.loads(row["metadata"]) == {"size": 3, "of": [1.5]}
    assert (other["answer"], other["id"], other["difficulty"], other["metadata"]) == ("43", None, None, None)


def test_an_instruct_models_prompt_has_its_system_turn_and_examples(settings, make_settings, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (model / name).write_bytes((Path(resolve("tiny")) / name).read_bytes())
    config = json.loads((Path(resolve("tiny")) / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "factory_format": "chat"}))
    exported(make_settings(f"policy.path={model}"), "trl", tmp_path / "out", "problems")
    prompt = next(row["prompt"] for row in rows_of(tmp_path / "out") if row["id"] == "p0")
    assert prompt[0] == {"role": "system", "content": INSTRUCTION}
    assert prompt[2]["role"] == "assistant"
    assert prompt[-1] == {"role": "user", "content": "What is 0+1?"}


def test_an_older_version_is_exported_as_it_was(settings, tmp_path):
    before = Datasets(Path(settings.factory.data) / "datasets").versions()["problems"]
    write(settings, problem(6), problem(7), first=6)
    assert exported(settings, "hf", tmp_path / "now", "problems").rows == 8
    assert exported(settings, "hf", tmp_path / "then", "problems", pin={"problems": before}).rows == 6
    assert header_of(tmp_path / "then")["astro_factory"]["tables"]["problems"] == before


@pytest.mark.parametrize(
    ("form", "table", "query", "says"),
    [
        ("hf", "problems", "select 1", "leave one of them out"),
        ("hf", "", "", "name what to export"),
        ("hf", "", "select id, answer as id from problems", "two columns 'id'"),
        ("hf", "", "select id from problems where false", "no rows"),
        ("hf", "", "select id as _id from problems", "no others"),
        ("parquet", "", "select interval 1 day as span", "CAST it"),
        ("trl", "", "select id, question from problems", "for trl the rows need"),
        ("trl", "evaluations", "", "for trl the rows need"),
        ("trl", "", "select null::varchar question, '1' answer", "needs its 'question'"),
        ("trl", "", "select 'q' question, null answer", "needs its 'answer'"),
        ("trl", "", "select case when id <> 'e1' then problem end as problem from examples", "needs its 'question'"),
        ("trl", "", "select problem, nullif(id, 'e1') as text from examples", "needs its 'text'"),
        ("trl", "", "select 'q' question, [1] answer", "'answer' is to be a string"),
        ("trl", "", "select {'a': 1} question, '1' answer", "'question' is to be a string"),
        ("trl", "", "select problem, '\\xFF'::blob as text from examples", "'text' is to be a string"),
        ("trl", "", "select 'q' question, '1' answer, 'hard' difficulty", "'difficulty' is to be a double"),
        ("hf", "", "select nosuch from problems", "nosuch"),
        ("hf", "", "drop view problems", "only SELECT"),
        ("hf", "", "select * from read_text('/etc/passwd')", "Cannot access"),
        ("hf", "", "select if(range = 200000, 'x', '1')::int as n from range(300000)", "Could not convert"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(settings, tmp_path, form, table, query, says):
    with pytest.raises((NotExported, sql.BadQuery), match=r".") as caught:
        exported(settings, form, tmp_path / "place" / "out", table, query)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "place").glob("*")) if (tmp_path / "place").exists() else True
    with pytest.raises(BadSettings, match="no table 'nope'"):
        wanted(settings, "hf", "nope", "")


@pytest.mark.parametrize("there", ["file", "directory", "link"])
def test_what_is_there_is_never_touched(settings, tmp_path, there):
    out = tmp_path / "out"
    {"file": lambda: out.write_text("mine"), "directory": out.mkdir, "link": lambda: out.symlink_to("nowhere")}[there]()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(NotExported, match="is there already"):
        exported(settings, "hf", out, "problems")
    assert sorted(tmp_path.iterdir()) == before
    assert there != "file" or out.read_text() == "mine"


def test_many_rows_stream_into_several_files(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "GROUP_BYTES", 1 << 16)
    monkeypatch.setattr(export_files, "SHARD_BYTES", 1 << 18)
    query = "select range as id, repeat('x', 100) as text from range(20000)"
    done = exported(settings, "parquet", tmp_path / "out", query=query)
    assert done.rows == 20_000
    assert 5 < done.files < 20
    assert [row["id"] for row in rows_of(tmp_path / "out")] == list(range(20_000))


GROWTH = """
import resource, sys
from pathlib import Path
from deploy.export import export, wanted
from schemas.load import load
settings = load(None, {}, [f"factory.data={sys.argv[1]}"])
for name, rows in (("small", 30_000), ("large", 600_000)):
    query = f"select range as id, repeat(md5(range::varchar), 30) as text from range({rows})"
    export(settings, "parquet", wanted(settings, "parquet", "", query), Path(sys.argv[2]) / name)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(settings, tmp_path):
    script = tmp_path / "growth.py"  # with -c, DuckDB takes the process for a person and draws a progress bar
    script.write_text(GROWTH, "utf-8")
    command = [sys.executable, str(script), settings.factory.data, str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True)
    small, large = (int(kilobytes) << 10 for kilobytes in done.stdout.split())
    assert large - small < 200 << 20, "the rows of the large one are 580 MB"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_export_has_no_out(settings, tmp_path, number):
    place = tmp_path / "work"
    place.mkdir()
    query = "select range as id, repeat('x', 1000) as text from range(3000000)"
    command = [*COMMAND, "--format", "jsonl", "--sql", query, "out", "--data", settings.factory.data]
    process = subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(place.glob(".out.*.part/out/data/train-00000.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert not (place / "out").exists()
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert not said
        assert not list(place.iterdir()), "nor what was half written"


def test_a_sigterm_during_a_query_ends_without_a_trace(settings, tmp_path):
    query = "select md5(range::varchar) as id from range(3000000) order by id"
    command = [*COMMAND, "--format", "jsonl", "--sql", query, "out", "--data", settings.factory.data]
    place = tmp_path / "work"
    place.mkdir()
    process = subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stderr=subprocess.PIPE)
    while not list(place.glob(".out.*.part")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)  # it sorts for longer than this
    assert not list(place.glob(".out.*.part/out/data"))
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said, list(place.iterdir())) == (128 + signal.SIGTERM, b"", [])


def test_the_command_line(settings, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--data", settings.factory.data, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )

    done = run("--format", "jsonl", "problems", "out", "--as-of", "problems@1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 6
    assert header_of(tmp_path / "out")["astro_factory"]["as_of"] == "problems@1"
    began = datetime.now().astimezone()
    assert run("--format", "hf", "problems", "then", "--as-of", "0.1s").returncode == 0
    ours = header_of(tmp_path / "then")["astro_factory"]
    assert timedelta(0) < datetime.fromisoformat(ours["as_of"]) - began + timedelta(seconds=0.2) < timedelta(seconds=60)
    assert f"as of {ours['as_of']}.\n" in (tmp_path / "then" / "README.md").read_text("utf-8")
    tables = Datasets(Path(settings.factory.data) / "datasets")
    assert pinned(tables, ours["as_of"], datetime.now().astimezone()) == ours["tables"]
    for arguments, says in (
        (["--format", "trl", "--sql", "select null question, 1 answer", "x"], "needs its 'question'"),
        (["--format", "csv", "problems", "x"], "hf, trl, parquet, jsonl"),
        (["--format", "hf", "problems", "x", "y"], "not 3 names"),
        (["--format", "hf", "problems", "out"], "is there already"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert says in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("form", ["hf", "trl", "parquet", "jsonl"])
def test_datasets_opens_it(settings, tmp_path, form, monkeypatch):
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("the package `datasets` is not installed here (benchmarks/train.py has an environment with it)")
    from datasets import load_dataset

    exported(settings, form, tmp_path / "out", "examples")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.num_rows == 3
    assert loaded[2]["text" if form != "trl" else "completion"] in (
        HOSTILE,
        [{"role": "assistant", "content": HOSTILE}],
    )


def test_another_duckdb_attaches_the_tables_as_their_log_has_them(settings):
    write(settings, problem(6), first=6)
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.compact("problems", files=1)
    text = attach.script(settings)
    with duckdb.connect() as other, datasets.connect() as ours:
        other.execute(text)
        other.execute(text)  # later rows come by a later script
        count = "select count(*), count(distinct id) from problems"
        assert other.execute(count).fetchall() == [(7, 7)], "a glob would find the old files, too"
        for name in (*TABLES, "superseded", "replaced"):
            said, wanted_rows = (
                one.sql(f'select * from "{name}" order by all').to_arrow_table() for one in (other, ours)
            )
            assert said.schema == wanted_rows.schema, name
            assert said.to_pylist() == wanted_rows.to_pylist()
        other.execute(attach.script(settings, {"problems": 1}))
        assert other.execute("select count(*) from problems").fetchall() == [(6,)]
    assert "problems@1," in attach.script(settings, {"problems": 1}).splitlines()[0]


def test_a_source_is_known_by_the_name_of_its_problems(make_settings):
    sources = '[{kind="hub", name="a/b", license="CC-BY-4.0", params={label="l"}}, {kind="file", name="/x/gsm.jsonl"}]'
    made = make_settings(f"problems.sources={sources}")
    assert export_card.license_of("l", made) == "CC-BY-4.0"
    assert export_card.license_of("gsm", made) == export_card.license_of("a/b", made) == "unknown"
    assert export_card.license_of("countdown", make_settings()) == "Apache-2.0"
