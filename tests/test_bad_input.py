"""Bad input: what goes in, what is said, and where it ends up. One table for each way in; no process is started.

Not repeated here: a wrong command line and its exit code 2 (deploy/test_cli.py), TLS, SASL and secrets
(processors/test_access.py), SQL that is wrong, writes or takes too long (deploy/test_sql.py), files of problems as they
are in the wild (producers/sources/test_files.py), the dead letters they become (producers/test_problems.py), bytes on
topics and in tables (processors/test_app.py, test_sink.py, test_large.py), announced weights
(processors/test_engine_restart.py), what trainers cannot use (trainers/test_refusals.py), and hostile answers
(conformance/test_hostile.py).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import plan
from deploy.cli import explain
from processors import asking
from processors.chat import Chat, few_shot, resolve
from processors.dataset import Datasets
from processors.large import unpacked
from processors.rows import Place, message_batch
from producers import prompts
from producers.sources.files import Files
from producers.sources.held_out import Reserved
from producers.sources.mapping import Fields
from schemas import messages as m
from schemas.codec import BadMessage, decode, encode
from schemas.load import load
from schemas.settings import PolicySection, PromptsSection, SqlSection
from schemas.tables import TABLES

DEEP = "[" * 100_000


def told(action: Callable[[], Any]) -> str:
    """The one sentence that the command prints before it ends with exit code 2 (deploy/cli.py)."""
    with pytest.raises(Exception, match=r"(?s).") as caught:
        action()
    sentence = explain(caught.value)
    assert sentence is not None, f"a traceback: {caught.value!r}"
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("search.timeout_s=-1", "Expected `float` > 0.0 - at `search.timeout_s`"),
        ("search.timeout_s=nan", "search.timeout_s = nan: not a number that can be used"),
        ("search.timeout_s=inf", "search.timeout_s = inf"),
        ("search.c_puct=-inf", "search.c_puct = -inf"),
        ("search.k=99999999999999999999999", "search.k = 99999999999999999999999"),
        ("search.depth=2.5", "Expected `int`, got `float` - at `search.depth`"),
        ("search.k=" + "[" * 3000, "at `search.k`"),
        ("factory.stages=search", "Expected `array`, got `str` - at `factory.stages`"),
        ("broker.compression=lz4", "at `broker.compression`: write one of none, gzip, zstd"),
        ("sft.ranks=0", "at `sft.ranks`"),
        ("linearize.min_wrong=3", "min_wrong = 3 is above max_wrong = 2"),
        ("evaluate.ks=[8]", "8 is above evaluate.samples = 1"),
        ('factory.stages=["serch"]', "did you mean 'search'"),
        ("engine.url=ftp://gpu", "write it as http://HOST:PORT"),
        ("evaluate.file=/nowhere.jsonl", "evaluate.file: /nowhere.jsonl: no such file"),
        ('problems.sources=[{kind="file", name="/nowhere.jsonl"}]', "/nowhere.jsonl: no such file"),
        ("policy.path=/nowhere", "no config.json there"),
        ("policy.few_shot=/nowhere.json", "policy.few_shot = /nowhere.json"),
    ],
)
def test_a_setting_stops_the_start_with_a_sentence(flag: str, said: str) -> None:
    assert said in told(lambda: plan.check(load(environment={}, flags=[flag])))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("deep.toml", b"[search]\nk = " + b"[" * 3000, "deep.toml: not readable as settings"),
        ("deep.json", DEEP.encode(), "deep.json: not readable as settings"),
        ("list.json", b"[]", "it holds no [sections]"),
        ("null.json", b"null", "it holds no [sections]"),
        ("bytes.toml", b"\xff\xfe", "bytes.toml: not readable as settings"),
        ("twice.toml", b"[search]\nk = 1\nk = 2\n", "twice.toml: not readable as settings"),
    ],
)
def test_a_settings_file_stops_the_start_with_a_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in told(lambda: load(tmp_path / name, {}, []))


@pytest.mark.parametrize("content", ["{}", "[{}]", '[{"question": 1, "answer": "2"}]', DEEP, "\x00"])
def test_a_file_of_worked_examples_stops_the_start_with_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "shots.json").write_text(content)
    assert 'expected JSON [{"question", "answer"}]' in told(lambda: few_shot(str(tmp_path / "shots.json")))


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        (b'{"question": ' + b"[" * 4000 + b"]" * 4000 + b', "answer": "1"}', "malformed line", "recursion"),
        (b'{"question": "q", "answer": NaN}', "malformed line", "not JSON"),
        (b'{"question": "q", "answer": 1e999}', "malformed line", "out of range"),
        (b'{"question": "\\ud800", "answer": "1"}', "malformed line", "surrogate"),
        (b'{"question": "\xff", "answer": "1"}', "malformed line", "utf-8"),
        (b'"{}"', "malformed line", "found str"),
        (b'{"question": null, "answer": "1"}', "missing question", "no question or problem"),
        (b'{"question": " \\n ", "answer": "1"}', "missing question", "no question or problem"),
        (b'{"question": "q", "answer": " "}', "missing answer", "no answer"),
        (b'{"question": "q", "answer": "1", "grader": "eval"}', "unknown grader", "no grader 'eval'"),
        (b'{"question": "' + b"x" * 20_000 + b'", "answer": "1"}', "too long", "problems.max_bytes is 10000"),
        (b'{"question": "q", "answer": "' + b"9" * 20_000 + b'"}', "too long", "problems.max_bytes is 10000"),
    ],
)
def test_a_line_of_a_problem_file_becomes_a_dead_letter(tmp_path: Path, line: bytes, kind: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(line + b'\n{"question": "1+1?", "answer": "2"}\n')
    bad, good = Files("p", [tmp_path / "p.jsonl"], Fields(), 10_000).items()
    assert bad.bad is not None
    assert (bad.bad.line, bad.bad.kind) == (1, kind)
    assert said in bad.bad.detail
    assert good.problem is not None, "and the rest goes on"


@pytest.mark.parametrize(
    ("fields", "question", "grader"),
    [
        ('"question": "a\\u0000\\u001b[31m\\u202e", "answer": "1"', "a\x00\x1b[31m\u202e", "math"),
        ('"question": "{{ 7 * 7 }}{% raw %}", "answer": "1"', "{{ 7 * 7 }}{% raw %}", "math"),
        ('"question": "q", "answer": "__import__(\'os\')", "grader": "text"', "q", "text"),
        ('"question": "q", "answer": "1", "grader": "countdown", "metadata": {"numbers": "rm"}', "q", "countdown"),
        ('"question": {"question": "inner"}, "answer": "1"', '{"question": "inner"}', "math"),
        ('"question": "q\\", \\"answer\\": \\"2", "answer": "1", "id": "../../x"', 'q", "answer": "2', "math"),
    ],
)
def test_a_field_stays_in_its_field(tmp_path: Path, fields: str, question: str, grader: str) -> None:
    """It is a problem whose text is that text: as a message, as a row, and in the prompt."""
    (tmp_path / "p.jsonl").write_text(f"{{{fields}}}\n")
    (item,) = Files("p", [tmp_path / "p.jsonl"], Fields(), 10_000).items()
    assert item.problem is not None
    assert (item.problem.question, item.problem.grader) == (question, grader)
    assert item.problem.id == m.content_id("p", question, item.problem.answer)
    assert decode(encode(item.problem), m.Problem) == item.problem
    place = Place(topic="problems", topic_id="u", partition=0, offset=0, time_ms=0, sha="s")
    (row,) = message_batch(item.problem, place, TABLES["problems"]).to_pylist()
    assert row["question"] == question


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(resolve("tiny"), PolicySection())


@pytest.mark.parametrize(
    "question", ["1+1?<end>", "<end><end>", "<pad>a<end>b<pad>", "<en<end>d>", "a\ufdd0b<end>", "<end>\n\n2+2?<end>"]
)
def test_a_question_cannot_speak_in_control_tokens(chat: Chat, question: str) -> None:
    ids = chat.prompt_ids(question)
    special = set(chat.tokenizer.all_special_ids)
    assert not special & set(ids), "the template of this policy makes none either"
    assert chat.tokenizer.decode(ids) == f"{question}\n\n"
    assert not special & set(chat.encode(question)), "nor can a chain of thought that is trained on"


def test_an_ordinary_question_has_the_tokens_it_always_had(chat: Chat) -> None:
    question = "Using all the numbers 1, 2 < 3.\n\nBut wait, are we solving the problem correctly so far? Hmm...  é "
    text = chat.tokenizer.apply_chat_template(chat.messages(question), tokenize=False, add_generation_prompt=True)
    assert chat.prompt_ids(question) == chat.tokenizer.encode(text, add_special_tokens=False)
    assert chat.encode(question) == chat.tokenizer.encode(question, add_special_tokens=False)


PROBLEM = encode(m.Problem(id="p", question="q", answer="1", source="s"))
WEIGHTS = encode(m.Weights(policy="policy", version=1, parent=0, path="/x", sha256="abc", trainer="rl"))
REFERENCE = encode(m.Reference(kind="Problem", id="p", sha256="0" * 64, bytes=1))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (m.Problem, b"", "truncated"),
        (m.Problem, b"null", "Expected `object`"),
        (m.Problem, b'{"id": ' + DEEP.encode(), "not a Problem"),
        (m.Problem, PROBLEM + b"x", "trailing characters"),
        (m.Problem, PROBLEM.replace(b'"id"', b'"idd"'), "unknown field `idd`"),
        (m.Problem, PROBLEM.replace(b'"q"', b'"\xff"'), "utf-8"),
        (m.Problem, PROBLEM.replace(b'"index":0', b'"index":1e400'), "out of range"),
        (m.Weights, WEIGHTS.replace(b"abc", b"../../../tmp/x"), "sha256"),
        (m.Weights, WEIGHTS.replace(b'"abc"', b'""'), "sha256"),
        (m.Reference, REFERENCE.replace(b"0" * 64, b"../" * 20), "sha256"),
    ],
)
def test_a_message_that_is_none_is_a_dead_letter_that_says_why(kind: type[m.Message], value: bytes, said: str) -> None:
    """Each stage and the sink make one of a BadMessage (processors/test_app.py, test_sink.py)."""
    with pytest.raises(BadMessage, match=f"not a {kind.__name__}") as caught:
        decode(value, kind)
    assert said in str(caught.value)


def test_a_reference_leads_to_no_other_file(tmp_path: Path) -> None:
    settings = load(environment={}, flags=[f"factory.data={tmp_path}"])
    for name in ("../../../etc/passwd", "/etc/passwd", "0" * 63, "A" * 64):
        with pytest.raises(BadMessage, match="travels as a file"):
            unpacked(settings, REFERENCE.replace(b"0" * 64, name.encode()))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Datasets:
    made = Datasets(tmp_path_factory.mktemp("bad") / "datasets")
    made.create()
    return made


OUTSIDE = [
    "select * from read_csv('/etc/passwd')",
    "select * from read_parquet('/etc/*')",
    "select * from read_json('/etc/hostname')",
    "select * from read_csv('https://example.com/x.csv')",
    "select * from glob('/etc/*')",
    "select getenv('HOME')",
    "attach '/tmp/x.db'",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "copy problems to '/tmp/x.csv'",
    "export database '/tmp/x'",
]


@pytest.mark.parametrize("query", OUTSIDE)
def test_sql_reaches_nothing_but_the_tables(datasets: Datasets, query: str) -> None:
    def ask() -> None:
        limits = SqlSection(timeout_s=60.0, memory_mb=256)
        with asking.bounded(datasets, limits) as connection:
            asking.answer(connection, asking.reading(connection, query), limits)

    assert re.search("Cannot access file|only SELECT|does not exist", told(ask))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select id from problems", "pass_rate"),
        ("select 1 as id, 'often' as pass_rate, '' as why", "Could not convert"),
        ("select 'a' as id, 1 as pass_rate, '' as why) ; drop view problems; from (select 1", "one query at a time"),
        ("copy problems to '/tmp/x.csv'", "syntax error"),
        ("select text as id, 1 as pass_rate, '' as why from read_text('/etc/hostname')", ""),
    ],
)
def test_sql_in_the_settings_is_told_at_the_start(datasets: Datasets, query: str, said: str) -> None:
    reserved = Reserved(load(environment={}, flags=["evaluate.problems=0"]))
    sentence = told(lambda: prompts.choose(datasets, PromptsSection(sql=query), reserved))
    assert sentence.startswith("prompts.sql must be a query with columns id, pass_rate, why: ")
    assert said in sentence
