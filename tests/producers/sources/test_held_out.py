import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.sources.held_out import BY_FAMILY, Reserved, held_out, text_key
from producers.sources.items import BadSource, make_problem
from producers.sources.opening import open_all
from schemas import settings as s
from schemas.tiny_problems import FAMILIES, is_held_out


def with_sources(*sources, **evaluate):
    return s.Settings(problems=s.ProblemsSection(sources=list(sources)), evaluate=s.EvaluateSection(**evaluate))


def write(path, count):
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(count)))
    return path


def test_without_sources_it_is_the_tiny_families_own():
    settings = with_sources(problems=20)
    found = held_out(settings)
    assert [problem.source for problem in found] == ["countdown"] * 20 + ["chain_sum"] * 20
    assert all(is_held_out(problem.source, json.loads(problem.metadata)) for problem in found)
    assert len({problem.id for problem in found}) == 40
    assert found == held_out(settings)
    reserved = Reserved(settings)
    assert {reserved.why(problem) for problem in found} == {BY_FAMILY}
    copy = make_problem(source="mine", index=0, question=found[7].question, answer=found[7].answer, grader="math")
    assert reserved.why(copy) == f"held_out: the same text as countdown {found[7].index} of the evaluation"


def test_other_generators_have_a_stream_apart():
    settings = with_sources(s.Source(name="countdown", params={"min_numbers": 4, "max_numbers": 4}), problems=30)
    found = held_out(settings)
    trained = [item.problem for item in itertools.islice(open_all(settings)[0][0].items(), 300)]
    assert len(found) == 30
    assert not {problem.id for problem in found} & {problem.id for problem in trained}
    reserved = Reserved(settings)
    assert all(problem in reserved for problem in found)
    assert not any(problem in reserved for problem in trained)


@pytest.mark.parametrize(("rows", "wanted", "kept"), [(400, 30, 30), (40, 30, 4), (5, 30, 1), (1, 30, 0), (0, 30, 0)])
def test_the_end_of_a_file_is_held_out(tmp_path, rows, wanted, kept):
    settings = with_sources(s.Source(kind="file", name=str(write(tmp_path / "f.jsonl", rows))), problems=wanted)
    assert [problem.index for problem in held_out(settings)] == list(range(rows - kept, rows))


def test_a_file_for_evaluation_is_taken_from_its_beginning(tmp_path):
    train, test = write(tmp_path / "train.jsonl", 100), write(tmp_path / "test.jsonl", 50)
    settings = with_sources(s.Source(kind="file", name=str(train)), problems=10, file=str(test))
    assert [(problem.source, problem.index) for problem in held_out(settings)] == [("test", n) for n in range(10)]
    reserved, problems = Reserved(settings), [item.problem for item in open_all(settings)[0][0].items()]
    # The same questions stand in the training file, under other ids.
    assert [problem.index for problem in problems if problem in reserved] == list(range(10))
    assert reserved.why(problems[3]) == "held_out: the same text as test 3 of the evaluation"
    assert reserved.why(problems[10]) == ""
    renamed = s.msgspec.structs.replace(held_out(settings)[3], question="in other words")
    assert reserved.why(renamed) == "held_out: it is test 3 of the evaluation", "by its id, whatever the text"


def test_the_evaluations_file_may_have_a_mapping_of_its_own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "Two?", "target": 2}\n')
    source = s.Source(kind="file", name=str(path), params={"question": "text", "answer": "target"})
    assert [problem.answer for problem in held_out(with_sources(source, file=str(path)))] == ["2"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\dfrac{1}{2} + x$.", r"find \(\frac{1}{2}+ x\)"),
        ("What  is\n2 \u2212 1?", "what is 2 - 1"),
        ("Janet\u2019s ducks lay \uff11\uff16 eggs.", "Janet's ducks lay 16 eggs"),
        ("Is \\left(a,\\, b\\right) \u201copen\u201d?", 'is ( a , b ) "open" ?'),
    ],
)
def test_the_same_text_in_other_dress(one, other):
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1 + 12 = ?", "11 + 2 = ?"), ("2 - 1", "2 + 1"), ("-5?", "5?"), ("1 12", "11 2"), ("1.5", "15"), ("5!", "5")],
)
def test_another_problem_is_another_text(one, other):
    assert text_key(one) != text_key(other)


@given(
    words=st.lists(st.text("abXY0123456789+-*/=(){}^_", min_size=1, max_size=6), min_size=1, max_size=8), data=st.data()
)
def test_white_space_and_case_never_tell_texts_apart(words, data):
    spaces = data.draw(st.lists(st.sampled_from([" ", "  ", "\n", "\t "]), min_size=len(words), max_size=len(words)))
    other = "".join(space + word for space, word in zip(spaces, words, strict=True)).swapcase()
    assert text_key(other) == text_key(" ".join(words))


@pytest.mark.parametrize("metadata", ["", "{}", '{"numbers": [1]}'])
def test_a_problem_of_another_origin_under_a_familys_name_is_no_crash(metadata):
    problem = held_out(with_sources(problems=1))[0]
    other = s.msgspec.structs.replace(problem, id="other", question="?", metadata=metadata)
    assert other not in Reserved(with_sources())


def test_two_sources_of_one_name_and_a_weight_of_nothing_are_refused():
    twice = s.Source(name="countdown", params=dict(FAMILIES["countdown"]))
    with pytest.raises(BadSource, match=r"two are called 'countdown'.*label"):
        open_all(with_sources(twice, twice))
    with pytest.raises(BadSource, match="weight must be above 0"):
        open_all(with_sources(s.Source(name="countdown", weight=0.0)))
