"""The checks of a rewrite: each can fail, by its name, and nothing that changes the mathematics passes."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import rewriter
from processors.rewrite_check import expressions, failure, keeps, numbers

STEP = "She has 3 boxes of 12 crayons, so 3 * 12 = 36 crayons."
GOOD = [
    (STEP, "There are 3 boxes with 12 crayons in each, and 3 * 12 = 36 crayons."),
    (STEP, "With three boxes of twelve crayons in each, she has 3*12=36 crayons."),
    (STEP, STEP),
    ("Half of $1,000 is 500.", "So half of 1000 is 500."),
    ("We get \\(\\frac{1}{2}\\) of it.", "That leaves \\frac{1}{2} of it."),
    ("Add 3 and 4: 3 + 4 = 7\nAnswer: 7", "Now we add 3 and 4, and 3 + 4 = 7.\nAnswer: 7"),
    ("The total is double that.", "In total it is twice that."),
    ("It's x, one of them.", "One of them is x."),
    ("He cannot use them.", "Those he can not use; he leaves them."),
]
BAD = {
    "empty": [(STEP, ""), (STEP, " \n ")],
    "paragraphs": [(STEP, f"{STEP}\n\nAnd more.")],
    "length": [(STEP, STEP + " So" * 100)],
    "reserved": [(STEP, f"But wait. {STEP}"), (STEP, f"let's restart. {STEP}")],
    "verdict": [
        (STEP, f"{STEP} That is wrong."),
        (STEP, f"Let me check: {STEP}"),
        (STEP, f"Correctly, {STEP}"),
        (STEP, f"Wait. {STEP}"),
        ("It is a right triangle.", "It is a right triangle, right?"),
    ],
    "negation": [
        ("Tom gets 6 dollars.", "Tom won't get 6 dollars."),
        ("There is no remainder.", "There is a remainder."),
        ("It is 2.", "It isn\u2019t 2."),
    ],
    "chatter": [(STEP, f"Here is the step: {STEP}"), (STEP, f"Rewritten: {STEP}")],
    "answer": [
        (STEP, f"{STEP}\nAnswer: 36"),
        (STEP, f"{STEP} \\boxed{{36}}"),
        ("So 3 + 4 = 7.\nAnswer: 7", "So 3 + 4 = 7."),
        ("So 3 + 4 = 7.\nAnswer: 7", "So 3 + 4 = 7.\nAnswer: 7.0"),
        ("So 3 + 4 = 7.\nAnswer: 7", "Answer: 7\nSo 3 + 4 = 7."),
    ],
    "expressions": [
        (STEP, "There are 3 boxes of 12 crayons, in all 36 crayons."),
        (STEP, "There are 3 boxes of 12 crayons, so 3 + 12 = 36 crayons."),
        (STEP, "There are 3 boxes of 12 crayons, so 12 * 3 = 36 crayons."),
        (STEP, "There are 3 boxes of 12 crayons, so 3 * 12 = 36 and 36 / 12 = 3."),
        ("Then x = 2 follows.", "Then y = 2 follows."),
        ("It is \\frac{1}{2} of it.", "It is \\frac{2}{1} of it."),
    ],
    "variables": [("Then x follows.", "Then y follows."), ("Then x follows.", "Then it follows.")],
    "numbers": [
        ("5 pears and 3 nuts", "3 nuts and 5 pears"),
        ("5 pears and 3 nuts", "5 pears and nuts"),
        ("5 pears and nuts", "5 pears and 2 nuts"),
        ("3 nuts, 5 pears, 3 figs", "3 nuts, 5 pears, 5 figs"),
        ("two pears", "three pears"),
        ("half of the pears", "a third of the pears"),
        ("1,000 pears", "1,001 pears"),
        ("2 squared pears", "2² squared pears"),
    ],
    "drift": [("Subtract the smaller from the larger.", "Bananas grow in the tropics.")],
}


@pytest.mark.parametrize(("step", "rewrite"), GOOD)
def test_the_same_step_in_other_words_passes(step, rewrite):
    assert failure(step, rewrite) == ""


@pytest.mark.parametrize(("name", "step", "rewrite"), [(name, *pair) for name, pairs in BAD.items() for pair in pairs])
def test_each_check_fails_by_its_name(name, step, rewrite):
    assert failure(step, rewrite) == name


def test_the_packaged_examples_pass_their_own_checks():
    file = Path(rewriter.__file__).with_name("rewrite_shots.json")
    shots = msgspec.json.decode(file.read_bytes(), type=list[rewriter.Shot])
    assert len(shots) >= 3
    for shot in shots:
        assert failure(shot.step, shot.rewrite) == ""
        assert shot.step != shot.rewrite


@given(st.text("ab 012,.=+*\n", max_size=60))
def test_a_step_is_a_rewrite_of_itself(step):
    assert failure(step, step) in {"", "empty", "paragraphs"}


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 99))
def test_no_changed_number_passes(said, at, other):
    told = [*said]
    told[at % len(told)] = other
    texts = [" and then ".join(f"{number} pears" for number in some) for some in (said, told)]
    same = keeps([str(one) for one in said], [str(one) for one in told])
    assert (failure(texts[0], texts[1]) == "") == same
    assert same == (said == told), "of equal length: nothing was repeated"


def test_what_is_read():
    assert numbers("Twelve of 1,200.50, .5 and 3/4; one 7th, 20%") == ["12", "1200.50", ".5", "3", "4", "7", "20"]
    assert expressions("So $2x + 3 = 11$, hence a well-known x = 4. And 3-4!") == ["2x+3=11", "x=4", "3-4"]


def test_a_long_hostile_text_is_read_in_time():
    for text in ("1," * 20_000, " " * 20_000 + "=", "=" * 20_000, "\\" * 20_000, "9" * 20_000, "a-" * 20_000):
        assert failure(text, text[:-1] + "7") in {"expressions", "numbers", "length", "drift", ""}
