"""`factory grade`: a line for a line in order, bad lines named and kept in place, numbers as written, and a stream."""

import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import grade as grading
from deploy.grade import NoPair, Pair, lines, read
from schemas.errors import Told

FACTORY = [sys.executable, "-m", "deploy.cli", "grade"]
MIXED = [
    ('{"gold": "18", "answer": "She has 18. #### 18"}', "correct"),
    ('{"gold": 18, "answer": 18.0}', "correct"),
    ("{broken", "unparsable"),
    ('{"gold": "2\\\\sqrt{2}", "answer": "\\\\sqrt{8}", "other": [1]}', "correct"),
    ("[1, 2]", "unparsable"),
    ('{"gold": "18"}', "unparsable"),
    ('{"gold": "\\\\sum_{k=1}^{10} k", "answer": "55"}', "correct"),
    ('{"gold": null, "answer": "18"}', "unparsable"),
    ('{"gold": "18", "answer": "9^9^9^9"}', "rejected"),
    ('{"gold": "18", "answer": "19", "grader": "numeric"}', "wrong"),
    ('{"gold": "18", "answer": "19", "grader": "guess"}', "unparsable"),
    ('{"gold": 8, "answer": "(3+5)", "grader": "countdown", "metadata": {"numbers": [3, 5], "target": 8}}', "correct"),
    ('{"gold": "7", "answer": "\\ud800"}', "unparsable"),
    ('{"gold": 12345678901234567890123, "answer": "12345678901234567890123"}', "correct"),
    ('{"gold": "5", "answer": ""}', "unparsable"),
]  # fmt: skip


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_the_command_writes_a_line_a_pair_in_order(tmp_path, way):
    text = "\n".join(line for line, _ in MIXED) + "\n\n"
    pairs, output = tmp_path / "pairs.jsonl", tmp_path / "verdicts.jsonl"
    pairs.write_text(text)
    arguments = [str(pairs), "--output", str(output)] if way == "file" else ["-", "--workers", "1"]
    ended = subprocess.run([*FACTORY, *arguments], input=text, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, "lines that are no pairs"
    found = rows(output.read_text() if way == "file" else ended.stdout)
    assert [row["outcome"] for row in found] == [outcome for _, outcome in MIXED]
    assert all(row.keys() - {"error"} == {"outcome", "seconds"} and row["seconds"] >= 0 for row in found)
    bad = [number for number, row in enumerate(found, 1) if "error" in row]
    assert bad == [3, 5, 6, 8, 11]
    for number in bad:
        assert found[number - 1]["error"].startswith(f"line {number}: ")
        assert f"line {number}: " in ended.stderr


def test_good_pairs_end_with_exit_code_0_and_a_missing_file_is_one_sentence(tmp_path, make_settings):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"gold": "1", "answer": "2"}\n')
    ended = subprocess.run([*FACTORY, str(pairs)], capture_output=True, text=True, check=False)
    assert (ended.returncode, rows(ended.stdout)[0]["outcome"]) == (0, "wrong")
    with pytest.raises(Told, match=r"^\S*nothing\.jsonl: No such file"):
        grading.grade(make_settings(), str(tmp_path / "nothing.jsonl"))


def test_a_long_file_is_a_stream(tmp_path, make_settings, monkeypatch):
    """No more than the look-ahead is ever read but not written, and the order holds over many windows."""
    count, waiting, most = 5000, 0, 0
    pairs, output = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    with pairs.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"gold": str(number), "answer": str(number + number % 3)}) + "\n")
    original, dumps = grading.read, json.dumps

    def counted(line: bytes) -> Pair:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return original(line)

    def written(row):
        nonlocal waiting
        waiting -= 1
        return dumps(row)

    monkeypatch.setattr(grading, "read", counted)
    monkeypatch.setattr(grading.json, "dumps", written)
    assert grading.grade(make_settings("verify.workers=2"), str(pairs), output) == 0
    monkeypatch.undo()
    assert [row["outcome"] for row in rows(output.read_text())] == [
        "wrong" if number % 3 else "correct" for number in range(count)
    ]
    assert most <= 2 * grading.AHEAD


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"3", "not an object"),
        (b'{"answer": "1"}', "no 'gold'"),
        (b'{"gold": ["1"], "answer": "1"}', "'gold' is neither"),
        (b'{"gold": "1", "answer": true}', "'answer' is neither"),
    ],
)
def test_what_is_no_pair_says_why(line, why):
    with pytest.raises(NoPair, match=why):
        read(line)


def test_numbers_keep_their_spelling():
    pair = read(b'{"gold": 0.10, "answer": 1e400, "metadata": {"numbers": [3, 4.50], "x": null}}')
    assert pair == Pair("0.10", "1e400", "math", '{"numbers":[3,4.50],"x":null}')
    assert read(b'{"gold": NaN, "answer": -Infinity}') == Pair("NaN", "-Infinity")


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)))
def test_every_line_that_is_not_blank_is_counted_once(content):
    found = list(lines(io.BytesIO(b"\n".join(content))))
    assert [line.strip(b"\n") for _, line in found] == [line for line in content if line.strip()]
    assert [number for number, _ in found] == [number for number, line in enumerate(content, 1) if line.strip()]


def test_a_line_beyond_the_limit_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(grading, "MAX_BYTES", 100)
    content = b'{"gold": "1", "answer": "' + b"1" * 10_000 + b'"}\n{"gold": "1", "answer": "1"}\n'
    (_, first), (number, second) = lines(io.BytesIO(content))
    assert len(first) == 101
    with pytest.raises(NoPair, match="longer than"):
        read(first)
    assert (number, read(second)) == (2, Pair("1", "1"))
