import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from producers.sources.files import Files
from producers.sources.items import RAW_BYTES, BadSource
from producers.sources.mapping import Fields, fields
from schemas import settings as s
from schemas.codec import decode, encode
from schemas.messages import Problem, content_id

REAL = Path(__file__).parents[4] / "shared" / "data"


def files(path, max_bytes=1_048_576, **params):
    return Files(path.stem, [path], fields(params, path.stem), max_bytes)


def lines(path, *rows):
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def only(source):
    return [item.problem for item in source.items()]


def test_gsm8k_is_known_by_its_fields(tmp_path):
    row = {"question": "Eggs?", "answer": "16 - 3 = 13\n13 * 2 = 26\n#### 1,026"}
    [problem] = only(files(lines(tmp_path / "gsm8k.jsonl", row)))
    assert problem == Problem(
        id=content_id("gsm8k", "Eggs?", "1026"), question="Eggs?", answer="1026", grader="numeric", source="gsm8k"
    )


def test_math_500_and_amc_are_known_by_their_fields(tmp_path):
    math = {"problem": "Half?", "solution": "so", "answer": r"\frac{1}{2}", "level": 4, "unique_id": "x"}
    amc, half = {"problem": "Whole?", "answer": 27.0, "url": "u"}, {"problem": "Part?", "answer": 2.5}
    found = only(files(lines(tmp_path / "m.jsonl", math, amc, half)))
    assert [(one.answer, one.grader) for one in found] == [(r"\frac{1}{2}", "math"), ("27", "math"), ("2.5", "math")]
    assert [one.difficulty for one in found] == [4.0, 0.0, 0.0]
    assert type(found[0].difficulty) is float


def test_a_mapping_in_the_settings_wins(tmp_path):
    path = lines(tmp_path / "own.jsonl", {"question": "no", "q": "yes", "a": 7, "answer": "no", "hard": 3})
    [problem] = only(files(path, question="q", answer="a", grader="numeric", difficulty="hard"))
    assert (problem.question, problem.answer, problem.grader, problem.difficulty) == ("yes", "7", "numeric", 3.0)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"qestion": "q"}, "did you mean 'question'"),
        ({"grader": "mth"}, "no grader 'mth'; built in: countdown, numeric, math"),
        ({"question": 3}, "str"),
    ],
)
def test_a_wrong_mapping_is_refused(params, said):
    with pytest.raises(BadSource, match=said):
        fields(params, "f.jsonl")


def test_a_row_whose_grader_is_not_there_is_named_and_not_graded_by_another(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"question": "When?", "answer": "14:30", "grader": "daytme"})
    (item,) = files(path).items()
    assert item.problem is None
    assert item.bad.kind == "unknown grader"
    assert "no grader 'daytme'" in item.bad.detail
    [problem] = only(files(path, grader="text"))
    assert problem.grader == "text", "that of all rows wins"


def test_a_grader_for_all_rows_gets_each_rows_metadata(tmp_path):
    path = lines(
        tmp_path / "p.jsonl", {"question": "24?", "answer": "24", "metadata": {"numbers": [4, 6], "target": 24}}
    )
    [problem] = only(files(path, grader="countdown"))
    assert problem.metadata == '{"numbers": [4, 6], "target": 24}'
    [problem] = only(files(path))
    assert problem.metadata == "", "of no grader that asked for it"


def test_what_is_no_problem_is_named_and_the_rest_goes_on(tmp_path):
    good = {"question": "1+1?", "answer": "2"}
    path = lines(
        tmp_path / "mixed.jsonl",
        good, b"{", b"\xff\xfe", b"", b"[1]", {"answer": "2"}, {"question": "2+2?"}, {"question": " ", "answer": "2"},
        {"question": "x" * 5_000_000, "answer": "1"}, {"question": "last?", "answer": "3"},
    )  # fmt: skip
    items = list(files(path).items())
    assert [(item.bad.line, item.bad.kind) for item in items if item.bad] == [
        (2, "malformed line"), (3, "malformed line"), (5, "malformed line"), (6, "missing question"),
        (7, "missing answer"), (8, "missing question"), (9, "too long"),
    ]  # fmt: skip
    assert [item.problem.index for item in items if item.problem] == [0, 9]
    long = items[-2].bad
    assert len(long.raw) == RAW_BYTES
    assert "value holds the first 65536 of 50000" in long.detail
    assert items[1].bad.raw == b"{"


def test_a_line_at_the_limit_is_kept_whole(tmp_path):
    row = json.dumps({"question": "q" * 50, "answer": "1"}).encode()
    path = lines(tmp_path / "edge.jsonl", row, row.replace(b"q" * 50, b"q" * 51))
    at, beyond = files(path, max_bytes=len(row)).items()
    assert at.problem is not None
    assert beyond.bad.kind == "too long"


def test_parquet_gives_the_same_problems(tmp_path):
    rows = [{"question": f"{n}+0?", "answer": str(n)} for n in range(600)]
    pq.write_table(pa.Table.from_pylist([*rows, {"question": None, "answer": "1"}]), tmp_path / "same.parquet")
    *found, bad = files(tmp_path / "same.parquet").items()
    assert [item.problem for item in found] == only(files(lines(tmp_path / "same.jsonl", *rows)))
    assert (bad.bad.kind, bad.bad.line) == ("missing question", 601)


def test_a_file_that_is_missing_or_no_parquet_is_one_sentence(tmp_path):
    with pytest.raises(BadSource, match="no such file"):
        files(tmp_path / "none.jsonl")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(BadSource, match="cannot be read"):
        list(files(tmp_path / "text.parquet").items())


@given(
    content=st.binary(max_size=300)
    | st.lists(st.from_regex(rb'\{"(question|answer|level)": ?.{0,9}\}?')).map(b"\n".join)
)
@example(content=b'{"question": "q", "answer": "a", "level": 1' + b"0" * 400 + b"}")
@example(content=b'{"question": "q", "answer": 1' + b"0" * 5000 + b"}")
@example(content=b'{"question": "\\ud800", "answer": "a"}')
@example(content=b'{"question": "q", "answer": NaN}')
@example(content=b"[" * 100_000)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_one_item_a_line_that_can_be_sent(tmp_path, content):
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    items = list(files(path).items())
    expected = [n for n, line in enumerate(content.split(b"\n")) if line.strip()]
    assert [item.index for item in items] == expected
    for item in items:
        assert (item.problem is None) != (item.bad is None)
        if item.problem:
            assert decode(encode(item.problem), Problem) == item.problem


@given(start=st.integers(0, 14), sizes=st.lists(st.integers(0, 5), min_size=1, max_size=3))
@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_can_begin_anywhere(tmp_path, start, sizes):
    paths = [
        lines(tmp_path / f"{at}.jsonl", *({"question": f"{at} {n}", "answer": "1"} for n in range(size)))
        for at, size in enumerate(sizes)
    ]
    source = Files("several", paths, Fields(), 1000)
    everything = list(source.items())
    assert [item.index for item in everything] == list(range(sum(sizes)))
    assert list(source.items(start)) == everything[start:]


def test_the_name_of_a_source_is_the_files_stem(tmp_path):
    from producers.sources.opening import open_source

    path = lines(tmp_path / "my_set.jsonl", {"question": "q", "answer": "a"})
    assert open_source(s.Source(kind="file", name=str(path)), s.Settings()).name == "my_set"
    assert open_source(s.Source(kind="file", name=str(path), params={"label": "x"}), s.Settings()).name == "x"


@pytest.mark.skipif(not REAL.exists(), reason="the real problem sets are not here")
@pytest.mark.parametrize(
    ("name", "count", "grader", "first"),
    [
        ("gsm8k_test", 1319, "numeric", "18"),
        ("math500", 500, "math", r"\left( 3, \frac{\pi}{2} \right)"),
        ("amc23", 40, "math", "27"),
        ("aime24", 30, "math", "204"),
    ],
)
def test_real_sets_are_read_without_being_told(name, count, grader, first):
    items = list(files(REAL / f"{name}.jsonl").items())
    assert not [item.bad for item in items if item.bad]
    assert len({item.problem.id for item in items}) == count
    assert {item.problem.grader for item in items} == {grader}
    assert items[0].problem.answer == first
