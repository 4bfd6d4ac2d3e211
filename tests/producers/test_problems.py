"""The problems producer on a real broker: order, restarts, bad input, held-out problems."""

import json

from hypothesis import given
from hypothesis import strategies as st

from processors.history import history
from processors.status import Status
from producers import problems
from producers.sources.held_out import held_out, held_out_keys
from producers.sources.items import Item, question_key
from schemas.messages import DeadLetter, Filtered, Problem


def row(number: int) -> str:
    return json.dumps({"question": f"What is {number} + 1?", "answer": f"work #### {number + 1:,}"})


def source(path, **more):
    return "problems.sources=[" + ", ".join(f'{{kind="file", name="{p}"}}' for p in [path]) + "]"


def test_a_bad_file_is_named_line_by_line_and_the_rest_goes_on(factory_settings, tmp_path):
    path = tmp_path / "mixed.jsonl"
    huge = json.dumps({"question": "x" * 5_000_000, "answer": "1"})
    lines = [
        row(0),
        "{broken",
        '{"question": "q"}',
        '{"answer": "1"}',
        row(0),
        huge,
        "",
        row(1),
        "[]",
        '{"question": "\\ud800", "answer": "1"}',
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n" + row(2).encode())
    made = factory_settings(source(path), "problems.ahead=1000", "evaluate.problems=0")
    problems.run(made, Status(made, "produce"))
    letters = {letter.line: letter for letter in history(made, DeadLetter)}
    assert {line: letter.error for line, letter in letters.items()} == {
        2: "malformed line", 3: "missing answer", 4: "missing question", 5: "duplicate", 6: "too long",
        9: "malformed line", 10: "malformed line", 11: "malformed line",
    }  # fmt: skip
    assert all(letter.file == str(path) and letter.stage == "produce" for letter in letters.values())
    assert letters[2].value == b"{broken"
    assert letters[11].value == b"\xff\xfe"
    assert len(letters[6].value) == 65_536
    assert "first 65536 of" in letters[6].detail
    found = list(history(made, Problem))
    assert sorted((p.index, p.answer, p.grader) for p in found) == [
        (0, "1", "numeric"),
        (7, "2", "numeric"),
        (11, "3", "numeric"),
    ]
    problems.run(made, Status(made, "produce"))
    assert len(list(history(made, Problem))) == 3
    assert len(list(history(made, DeadLetter))) == 8


def test_a_restart_goes_on_and_partitions_are_even(factory_settings, tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(row(n) for n in range(200)))
    first = factory_settings(source(path), "problems.ahead=1000", "problems.limit=70", "evaluate.problems=8")
    problems.run(first, Status(first, "produce"))
    assert len(list(history(first, Problem))) == 70
    rest = factory_settings(source(path), "problems.ahead=1000", "evaluate.problems=8")
    problems.run(rest, Status(rest, "produce"))
    sent, kept = list(history(rest, Problem)), list(history(rest, Filtered))
    assert len(sent) == len({p.id for p in sent}) == 192
    assert {f.input_id for f in kept} == {p.id for p in held_out(rest)}
    assert len(kept) == 8
    assert not {question_key(p.question) for p in sent} & held_out_keys(rest)
    from processors import kafka

    ends = kafka.highwater(rest, ["problems"]).values()
    assert max(ends) - min(ends) <= 1


def test_it_never_runs_further_ahead_than_told(factory_settings, tmp_path):
    import threading

    made = factory_settings("problems.ahead=10")
    thread = threading.Thread(target=problems.run, args=(made, Status(made, "produce")), daemon=True)
    thread.start()
    thread.join(25)
    assert thread.is_alive()
    sent = list(history(made, Problem))
    assert len(sent) == 10
    assert {p.source for p in sent} == {"countdown", "chain_sum"}


class Counted:
    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def items(self, start=0):
        for index in range(start, self.length):
            yield Item(index=index, file=self.name)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.1, 10)), min_size=1, max_size=4), st.integers(0, 60))
def test_interleaving_is_the_same_from_wherever_it_goes_on(shapes, cut):
    sources = [(Counted(str(at), length), weight) for at, (length, weight) in enumerate(shapes)]
    whole = [(i.file, i.index) for i in problems.interleave(sources, {})]
    assert len(whole) == len(set(whole)) == sum(length for length, _ in shapes)
    at = {}
    for name, index in whole[:cut]:
        at[name] = index + 1
    assert [(i.file, i.index) for i in problems.interleave(sources, at)] == whole[cut:]
