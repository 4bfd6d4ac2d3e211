"""pass@1, pass@k, maj@k and their intervals: against enumeration, published values and simulation; and the rows."""

from collections import Counter
from itertools import combinations
from random import Random

import msgspec
import pytest
from graded import answered, problem, weights
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processors.adaptive import wilson
from processors.chat import count_backtracks
from schemas.load import BadSettings
from schemas.messages import content_id
from schemas.settings import EvaluateSection, Settings
from schemas.tables import from_row, to_row
from trainers.scores import ALL, asked, interval, maj_at_k, majority, pass_at_k, summarize, vote

SHARES = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=40)
VOTES = st.lists(st.tuples(st.sampled_from(["", "1", "2", "3"]), st.booleans()), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(correct, total, low, high):
    """Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    assert wilson(correct, total) == pytest.approx((low, high), abs=6e-5)
    assert wilson(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=6e-5)


def test_without_a_problem_anything_is_possible():
    assert wilson(0, 0) == interval([]) == (0.0, 1.0)


@given(SHARES)
@hypothesis_settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_mean_and_stays_within_0_and_1(shares):
    low, high = interval(shares)
    mean = sum(shares) / len(shares)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert interval(shares) == (low, high), "the same shares, the same interval"


def test_one_sample_a_problem_has_wilsons_interval_and_so_have_equal_shares():
    assert interval([1.0, 0.0] * 50) == wilson(50, 100)
    assert interval([1.0] * 20) == wilson(20, 20), "a bootstrap of equal shares would claim certainty"
    assert interval([0.5] * 20) == wilson(10, 20)


def test_the_problem_is_the_unit_however_many_samples_it_has():
    """Half of 100 problems nearly always right: +-1.96 * 0.045, not the +-0.024 of 1,600 independent samples."""
    low, high = interval([0.95, 0.05] * 50)
    assert (low, high) == pytest.approx((0.412, 0.588), abs=0.015)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = Random(1)
    covered = 0
    for _ in range(100):
        shares = [sum(rng.random() < p for _ in range(4)) / 4 for p in (rng.random() for _ in range(40))]
        low, high = interval(shares)
        covered += low <= 0.5 <= high
    assert 88 <= covered <= 99


@given(marks=st.lists(st.booleans(), min_size=1, max_size=9), data=st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(marks, data):
    k = data.draw(st.integers(1, len(marks)))
    drawn = list(combinations(marks, k))
    assert pass_at_k(len(marks), sum(marks), k) == pytest.approx(sum(map(any, drawn)) / len(drawn))
    assert pass_at_k(len(marks), sum(marks), 1) == pytest.approx(sum(marks) / len(marks))


def test_pass_at_k_of_many_samples_is_exact():
    """The product that Chen et al. compute it by; C(20000, 5000) itself has thousands of digits."""
    product = 1.0
    for i in range(20_000 - 3 + 1, 20_000 + 1):
        product *= 1 - 5000 / i
    assert pass_at_k(20_000, 3, 5000) == pytest.approx(1 - product)
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 101, 100) == 1.0


def test_the_most_frequent_answer_decides_and_of_equals_the_first():
    assert majority([("2", False), ("1", True), ("1", True)])
    assert majority([("1", True), ("2", False)])
    assert not majority([("2", False), ("1", True), ("3", False)])
    assert majority([("", False), ("", False), ("1", True)]), "no answer is no vote"
    assert not majority([("", False)])


@given(VOTES)
def test_a_majority_is_no_rarer_than_any_other_answer(votes):
    truth = {key: next(right for other, right in votes if other == key) for key, _ in votes}
    counts = Counter(key for key, _ in votes if key)
    best = [key for key, count in counts.items() if count == max(counts.values())]
    assert majority(votes) == (bool(best) and truth[best[0]])  # a Counter keeps the order of first sight


@given(VOTES)
def test_a_majority_of_one_is_pass_at_1(votes):
    votes = [(key, right and bool(key)) for key, right in votes]
    assert maj_at_k(votes, 1) == sum(right for _, right in votes) / len(votes)


def test_maj_at_k_is_the_mean_over_whole_blocks_of_k():
    votes = [("1", True), ("1", True), ("2", False), ("2", False), ("2", False), ("1", True), ("1", True)]
    assert maj_at_k(votes, 3) == 0.5
    assert maj_at_k(votes, 7) == 1.0


@pytest.mark.parametrize(
    ("grader", "one", "other", "same"),
    [
        ("math", r"\frac{1}{2}", "0.5", True), ("math", "x", "y", False), ("math", "$x + 1$", "x+1", True),
        ("numeric", "18 apples", "$18$", True), ("numeric", "18", "18%", False), ("numeric", "a", "b", False),
        ("text", "Yes.", "yes", True), ("text", "yes", "no", False), ("countdown", "1 + 2", "1+2", True),
    ],
)  # fmt: skip
def test_votes_are_equal_as_the_grader_reads_them(grader, one, other, same):
    of = problem(grader=grader)
    assert (vote(of, one) == vote(of, other)) is same
    assert vote(of, "") == ""


def settings(**section) -> Settings:
    return Settings(evaluate=EvaluateSection(**section))


def test_a_row_for_each_source_and_the_last_is_the_mean_over_every_problem():
    back = "Let's go back to where we were. Let's restart our solution from the beginning."
    easy = [answered("easy", n, "1", tokens=4, nth=k) for n in range(3) for k in range(2)]
    hard = [answered("hard", 1, answer, text=back, tokens=20, nth=k) for k, answer in enumerate(["1", ""])]
    rows = summarize([*easy, *hard], weights(1), settings(samples=2), 2.5)
    assert [(row.source, row.problems, row.samples, row.pass_at_1) for row in rows] == [
        ("easy", 3, 2, 1.0), ("hard", 1, 2, 0.5), (ALL, 4, 2, 0.875),
    ]  # fmt: skip
    assert [(row.ks, row.pass_at_k, row.maj_at_k) for row in rows] == [([2], [1.0], [1.0])] * 3
    total = rows[-1]
    assert (total.low, total.high) == interval([1.0, 1.0, 1.0, 0.5])
    assert (total.tokens, total.unparsable, total.truncated, total.seconds) == (8.0, 1 / 8, 0.0, 2.5)
    assert total.backtracks == 2 * count_backtracks(back) / 8 == 0.5
    assert all((row.version, row.sha, row.trainer) == (1, "sha1", "sft") for row in rows)
    assert len({row.id for row in rows}) == 3
    again = summarize([*hard, *easy], weights(1), settings(samples=2), 9)
    assert [row.id for row in again] == [row.id for row in rows]
    other = summarize([*easy, *hard], weights(2), settings(samples=2), 1)
    assert {row.id for row in other}.isdisjoint(row.id for row in rows)
    assert all(from_row(to_row(row), type(row)) == row for row in rows)


def test_voting_can_win_and_lose_what_one_sample_and_many_tries_do_not():
    wins = [answered("wins", 0, answer, nth=k) for k, answer in enumerate(["2", "1", "1", "3"])]
    loses = [answered("loses", 0, answer, nth=k) for k, answer in enumerate(["1", "2", "2", "2"])]
    by_source = {row.source: row for row in summarize([*wins, *loses], weights(1), settings(samples=4, ks=[4, 2]), 0)}
    assert [by_source[name].pass_at_1 for name in ("wins", "loses", ALL)] == [0.5, 0.25, 0.375]
    assert by_source["wins"].ks == [2, 4]
    assert by_source["wins"].pass_at_k == pytest.approx([1 - 1 / 6, 1.0])
    assert by_source["wins"].maj_at_k == [0.5, 1.0], "(2, 1) says 2, (1, 3) says 1"
    assert by_source["loses"].pass_at_k == pytest.approx([0.5, 1.0])
    assert by_source["loses"].maj_at_k == [0.5, 0.0]
    total = by_source[ALL]
    assert total.maj_at_k == [0.5, 0.5]
    assert (total.maj_at_k_low[1], total.maj_at_k_high[1]) == wilson(1, 2)
    assert (total.pass_at_k_low[0], total.pass_at_k_high[0]) == interval([5 / 6, 0.5])


def test_what_is_asked_and_how_names_an_evaluation_and_its_order_does_not():
    draws = [(content_id(number), problem(number=number)) for number in range(4)]
    plain = EvaluateSection(samples=4)
    name = asked(draws, plain)
    assert asked(draws[::-1], plain) == name
    assert asked(draws, EvaluateSection(samples=4, ks=[4, 2])) == name
    regraded = [(draw, msgspec.structs.replace(one, answer="2")) for draw, one in draws]
    for other, section in [(draws[1:], plain), (regraded, plain), (draws, EvaluateSection(samples=4, ks=[3]))]:
        assert asked(other, section) != name


def test_the_k_in_force():
    assert EvaluateSection().every_k() == []
    assert EvaluateSection(samples=16).every_k() == [2, 4, 8, 16]
    assert EvaluateSection(samples=5).every_k() == [2, 4]
    assert EvaluateSection(samples=5, ks=[5, 1, 5]).every_k() == [1, 5]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["evaluate.samples=4", "evaluate.ks=[8]"], r"evaluate\.ks: 8 is above evaluate\.samples = 4"),
        (["evaluate.samples=4", "evaluate.greedy=true"], r"evaluate\.samples = 4"),
        (["evaluate.ks=[0]"], r"evaluate\.ks"),
    ],
)
def test_contradicting_settings_are_one_sentence(make_settings, flags, said):
    with pytest.raises(BadSettings, match=said):
        make_settings(*flags)
