import itertools
import json

import pytest

from producers.sources.held_out import Reserved, held_out, held_out_keys
from producers.sources.items import BadSource, question_key
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
    assert all(problem in reserved for problem in found)


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
    # The same questions stand in the training file, under other ids.
    assert held_out_keys(settings) == {question_key(f"{n}?") for n in range(10)}


@pytest.mark.parametrize("metadata", ["", "{}", '{"numbers": [1]}'])
def test_a_problem_of_another_origin_under_a_familys_name_is_no_crash(metadata):
    problem = held_out(with_sources(problems=1))[0]
    assert s.msgspec.structs.replace(problem, question="?", metadata=metadata) not in Reserved(with_sources())


def test_two_sources_of_one_name_and_a_weight_of_nothing_are_refused():
    twice = s.Source(name="countdown", params=dict(FAMILIES["countdown"]))
    with pytest.raises(BadSource, match=r"two are called 'countdown'.*label"):
        open_all(with_sources(twice, twice))
    with pytest.raises(BadSource, match="weight must be above 0"):
        open_all(with_sources(s.Source(name="countdown", weight=0.0)))
