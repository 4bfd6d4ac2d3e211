import itertools
import json

import pytest

from producers.sources.gym import CHUNK, Gym
from producers.sources.items import BadSource
from schemas.codec import decode, encode
from schemas.messages import Problem
from schemas.tiny_problems import FAMILIES, is_held_out


def some(source, count, start=0):
    return list(itertools.islice(source.items(start), count))


@pytest.mark.parametrize(
    ("generator", "grader"),
    [("countdown", "countdown"), ("chain_sum", "numeric"), ("gsm_symbolic", "numeric"),
     ("simple_equations", "numeric"), ("basic_arithmetic", "math")],
)  # fmt: skip
def test_generators_give_problems_with_their_grader(generator, grader):
    problems = [item.problem for item in some(Gym(generator, {}, 0), 30)]
    assert {problem.grader for problem in problems} == {grader}
    assert all(problem.question and problem.answer and problem.source == generator for problem in problems)
    assert all(decode(encode(problem), Problem) == problem for problem in problems)
    assert all(type(problem.difficulty) is float for problem in problems)
    assert len({problem.id for problem in problems}) > 20


def test_countdown_carries_what_its_grader_needs():
    for item in some(Gym("countdown", dict(FAMILIES["countdown"]), 0), 20):
        metadata = json.loads(item.problem.metadata)
        assert set(metadata) == {"numbers", "target"}
        assert str(metadata["target"]) in item.problem.question
        assert item.problem.difficulty == 3.0


def test_a_stream_is_the_same_again_and_another_for_another_seed_name_or_purpose():
    def ids(*args):
        return [item.problem.id for item in some(Gym("chain_sum", *args), 40)]

    first = ids({}, 1)
    assert first == ids({}, 1)
    assert not set(first) & (set(ids({}, 2)) | set(ids({}, 1, "eval")) | set(ids({"label": "other"}, 1)))


def test_a_stream_goes_on_over_its_chunks_and_can_begin_anywhere():
    source = Gym("chain_sum", {}, 0)
    across = some(source, 40, CHUNK - 20)
    assert [item.index for item in across] == list(range(CHUNK - 20, CHUNK + 20))
    assert some(source, 20, CHUNK) == across[20:]
    assert len({item.problem.id for item in across}) == 40


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_tiny_families_say_which_are_held_out(family):
    items = some(Gym(family, dict(FAMILIES[family]), 0), 300)
    marked = [item.held_out for item in items]
    assert marked == [is_held_out(family, json.loads(item.problem.metadata)) for item in items]
    assert 45 < sum(marked) < 110, len(marked)


def test_other_parameters_are_another_family():
    items = some(Gym("countdown", {"min_numbers": 4, "max_numbers": 4}, 0), 100)
    assert not any(item.held_out for item in items)


def test_what_cannot_be_opened_is_one_sentence():
    with pytest.raises(BadSource, match="did you mean 'countdown'"):
        Gym("contdown", {}, 0)
    with pytest.raises(BadSource, match="refuses its params"):
        Gym("countdown", {"min_numberz": 4}, 0)
    with pytest.raises(BadSource, match="no grader 'x'; built in: countdown, numeric"):
        Gym("countdown", {"grader": "x"}, 0)
