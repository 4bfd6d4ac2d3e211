"""What a response stated before its end: first answers, and what its backtracks leave."""

import pytest
from experiment import BACK, CORRECTED, DIRECT, RIGHT, SPOILED, WRONG, problem
from hypothesis import given
from hypothesis import strategies as st

from deploy.reproduce.report_attempts import Courses, stretches
from processors.chat import GO_BACK, RESTART, count_backtracks
from processors.grading import Grader
from schemas.settings import Settings


@pytest.fixture
def courses():
    grader = Grader(Settings())
    yield Courses(grader)
    grader.close()


@pytest.mark.parametrize(
    ("text", "first", "left"),
    [
        (DIRECT[0], True, 0),
        (DIRECT[1], False, 0),
        ("Use 3 and 4", False, 0),
        (CORRECTED, False, 0),
        (SPOILED, True, 1),
        (f"Use 3 and 4\n\n{BACK}{RIGHT}", True, 0),  # it left no answer: nothing right was left
        (f"{RIGHT}\n\n{BACK}{WRONG}\n\n{BACK}{RIGHT}", True, 1),
        (f"{RIGHT}\n\n{BACK}Use 3\n\n{BACK}{WRONG}", True, 2),  # nothing new was stated before the second
        (f"{WRONG}\n\n{RESTART}.\n\n{RIGHT}\n\n{RESTART}.\n\n{RIGHT}", False, 1),
        # a quotation states nothing
        (f"{WRONG}\n\n{GO_BACK} wrote: \\boxed{{3 + 4}}\n\nUse 3\n\n{BACK}{WRONG}", False, 0),
    ],
)
def test_the_course_of_a_response(courses, text, first, left):
    verdict = "correct" if text.endswith(RIGHT) else "wrong"
    course = courses.of(problem(1), text, verdict)
    assert (course.first_right, course.left_right) == (first, left)


def test_equal_steps_of_another_problem_are_graded_anew(courses):
    other = problem(2).__class__(**{n: getattr(problem(2), n) for n in problem(2).__struct_fields__} | {
        "metadata": '{"numbers": [3, 4], "target": 12}'
    })  # fmt: skip
    assert not courses.of(problem(1), CORRECTED, "correct").first_right
    assert courses.of(other, CORRECTED, "wrong").first_right
    assert not courses.of(problem(1), CORRECTED, "correct").first_right


PIECES = st.lists(st.sampled_from([RIGHT, WRONG, GO_BACK, RESTART, "Use 3", "\n\n", " ", "Answer:"]), max_size=20)


@given(PIECES)
def test_there_is_one_stretch_more_than_backtracks(pieces):
    text = "".join(pieces)
    found = stretches(text)
    assert len(found) == count_backtracks(text) + 1
    assert all(step in text for part in found for step in part)
