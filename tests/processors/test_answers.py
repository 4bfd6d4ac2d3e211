"""Answers as text and numbers: what is read, what is refused, and that equality is exact."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.answers import answer_key, clean, extract_answer, normal, rational, words
from processors.chat import states_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n\nAnswer: 7", "7"),
        ("Answer: 5\n\nBut wait, hmm...\n\nAnswer: 6\n\nOur solution seems to be correct so far.", "6"),
        (r"so \boxed{5}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{5}" + "\n\nAnswer: 6", "6"),
        ("Answer: 6\n\n" + r"thus \boxed{5}.", "5"),
        (r"Answer: $\boxed{\{1, 2\}}$", r"\{1, 2\}"),
        ("**Final answer:** 12", "12"),
        ("The answer is: 12 apples", "12 apples"),
        ("the final answer = x + 1  \nmore", "x + 1"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{5} \boxed{6", ""),
        ("Answer:", ""),
        ("I know the answer: 3", ""),
        ("", ""),
    ],
)
def test_the_last_answer_stated(text, answer):
    assert extract_answer(text) == answer


@settings(deadline=None)
@given(
    st.text(alphabet="Answer: \\boxed{}56\n*thefinalis=", max_size=60), st.sampled_from(["", "\nAnswer: ", "\\boxed{"])
)
def test_an_answer_is_read_only_where_the_chat_format_sees_one(text, more):
    whole = text + more + text
    if extract_answer(whole):
        assert states_answer(whole)


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "Answer: ", "Answer:\n", "{", "\n", " ", "Answer ", "\\", "\\boxed", "*", "1,"]
)
def test_endless_text_is_read_in_linear_time(piece):
    text = piece * (2_000_000 // len(piece))
    start = time.perf_counter()
    extract_answer(text)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("$1,234.50", Fraction(2469, 2)),
        (r"\$5", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("5 €", 5),
        ("$18$", 18),
        (r"\(18\)", 18),
        ("**18**", 18),
        ("18.", 18),
        ("18.0", 18),
        ("1/2", Fraction(1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"\dfrac12", Fraction(1, 2)),
        (r"-\tfrac{3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("11/2", Fraction(11, 2)),
        ("\u22125", -5),
        (".5", Fraction(1, 2)),
        ("1.5e3", 1500),
        ("007", 7),
        ("+5", 5),
        ("3/-4", Fraction(-3, 4)),
        ("0.1", Fraction(1, 10)),
    ],
)
def test_numbers(text, value):
    number = rational(text)
    assert number is not None
    assert (number.value, number.percent) == (value, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,23",
        "12,3456",
        "1e9999",
        "5\u00b2",
        "\u0665",
        "--5",
        "3/0",
        r"\frac{1}{0}",
        "1 234",
        "5 apples",
        "3 pi",
        "5x",
        "2^10",
        "1/2/3",
        "12 1 1/2",
        "0x10",
        "1_000",
        "nan",
        "inf",
        "1..2",
        "(5)",
        "5, 6",
        "$",
        "%",
    ],
)
def test_what_is_no_number(text):
    assert rational(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18 apples", 18),
        ("18 dollars per hour.", 18),
        (r"18 \text{ cm}", 18),
        ("2 1/2 cups", Fraction(5, 2)),
        ("18 million", None),
        ("5 and a half", None),
        ("3 pi", None),
        ("5apples", None),
        ("5 or 6", None),
    ],
)
def test_units_count_only_where_they_may(text, value):
    number = rational(text, units=True)
    assert (number and number.value) == value


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("50%", "50", True),
        ("50%", "0.5", True),
        (r"50\%", "1/2", True),
        ("50%", "50 percent", True),
        ("50", "0.5", False),
        ("50%", "5", False),
        ("1%", "100", False),
    ],
)
def test_a_percent_sign_is_a_unit_or_a_factor(one, other, same):
    left, right = rational(one), rational(other)
    assert left is not None
    assert right is not None
    assert left.same(right) is same
    assert right.same(left) is same


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_all_spellings_of_a_number_have_one_key(top, bottom):
    value = Fraction(top, bottom)
    spellings = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", f"${top}/{bottom}$", f"**{top}/{bottom}**."]
    if value.denominator == 1:
        spellings += [f"{value.numerator:,}", f"{value.numerator}.00", f"${value.numerator}$"]
    assert {answer_key(spelling) for spelling in spellings} == {str(value)}


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_without_an_error_and_cleaning_settles(text):
    rational(text)
    rational(text, units=True)
    words(text)
    assert answer_key(text) == answer_key(text)
    assert normal(normal(text)) == normal(normal(normal(text)))
    assert len(clean(text)) <= len(text)


def test_what_dresses_an_answer_does_not_count_and_what_changes_it_does():
    assert normal(r"\left( 3, 4 \right)") == normal("(3,4)")
    assert normal(r"\text{Evelyn}") == normal("Evelyn")
    assert normal("1 1/2") != normal("11/2")
    assert normal("5\u00b2") != normal("52")
    assert words("  The  CAT. ") == words("the cat")
    assert words("a cat") != words("the cat")
