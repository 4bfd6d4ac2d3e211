"""The report's intervals against closed forms and simulations, and that pairing is what makes differences sharp."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.reproduce.report_numbers import Bootstrap, Z, at_budget, pearson
from processors.adaptive import wilson


def width(estimate) -> float:
    return estimate.high - estimate.low


def test_with_one_seed_the_interval_is_that_of_the_mean_over_problems():
    values = np.random.default_rng(1).normal(3, 2, size=(1, 500))
    estimate = Bootstrap(1, 500).mean(values)
    assert estimate.mean == pytest.approx(values.mean())
    assert width(estimate) == pytest.approx(2 * Z * values.std() / math.sqrt(500), rel=0.04)
    assert (estimate.low + estimate.high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_problems_and_seeds_both_vary_and_their_variances_add():
    rng = np.random.default_rng(2)
    of_seeds, of_problems = rng.normal(size=(8, 1)), rng.normal(size=(1, 200))
    values = of_seeds + of_problems
    expected = math.sqrt(of_seeds.var() / 8 + of_problems.var() / 200)
    assert Bootstrap(8, 200).means(values).std() == pytest.approx(expected, rel=0.03)
    assert width(Bootstrap(8, 200).mean(of_seeds + 0 * of_problems)) > 5 * width(Bootstrap(1, 200).mean(of_problems))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, boot = np.random.default_rng(3), Bootstrap(1, 60, resamples=1000)
    held = 0
    for _ in range(300):
        rates = rng.beta(2, 2, size=(1, 60))
        estimate = boot.mean(rng.binomial(16, rates) / 16)
        held += estimate.low <= 0.5 <= estimate.high
    assert 0.90 <= held / 300 <= 0.985


def test_pairing_cancels_what_makes_a_problem_hard():
    rng = np.random.default_rng(4)
    hard = rng.uniform(size=(3, 300))
    boot = Bootstrap(3, 300)
    better = hard + 0.1
    paired = boot.mean(better - hard)
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))
    unpaired = boot.mean(better - rng.permuted(hard, axis=1))
    assert width(unpaired) > 0.05
    assert width(boot.mean(hard)) > 0.02
    # the same draws for both arms: the resampled difference is the difference of the resamples
    np.testing.assert_allclose(boot.means(better) - boot.means(hard), boot.means(better - hard), atol=1e-12)


def test_the_draws_are_the_same_ones_each_time():
    values = np.random.default_rng(5).uniform(size=(2, 40))
    assert Bootstrap(2, 40).mean(values) == Bootstrap(2, 40).mean(values)


def test_where_no_resample_differs_a_share_is_not_certain():
    boot = Bootstrap(3, 50)
    none, every = boot.share(np.zeros((3, 50))), boot.share(np.ones((3, 50)))
    assert (none.mean, none.low, none.high) == (0.0, *wilson(0, 50))
    assert (every.mean, every.low, every.high) == (1.0, *wilson(50, 50))
    assert boot.share(np.full((3, 50), 0.5)).low == 0.5


def test_a_ratio_is_of_sums_and_may_have_nothing_below():
    above, below = np.array([[1.0, 0, 2]]), np.array([[4.0, 0, 2]])
    boot = Bootstrap(1, 3)
    ratio = boot.ratio(above, below)
    assert ratio is not None
    assert ratio.mean == 0.5
    assert 0.25 <= ratio.low <= 0.5 <= ratio.high <= 1.0
    assert boot.ratio(above, 0 * below) is None


MATRICES = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(0, 2**32 - 1)).map(
    lambda made: np.random.default_rng(made[2]).uniform(size=made[:2]).round(2)
)


@settings(max_examples=40, deadline=None)
@given(MATRICES, st.floats(-2, 2), st.floats(0.1, 100))
def test_estimates_lie_within_the_values_and_move_with_them(values, shift, scale):
    boot = Bootstrap(*values.shape, resamples=200)
    estimate = boot.mean(values)
    assert values.min() - 1e-9 <= estimate.low <= estimate.high <= values.max() + 1e-9
    moved = boot.mean(scale * (values + shift))
    expected = [scale * (part + shift) for part in (estimate.mean, estimate.low, estimate.high)]
    assert [moved.mean, moved.low, moved.high] == pytest.approx(expected, abs=1e-6)


def test_pearsons_r_and_fishers_interval():
    rng = np.random.default_rng(6)
    x, noise = rng.normal(size=(2, 28))
    x -= x.mean()
    noise -= noise.mean() + (noise @ x) / (x @ x) * x
    y = 0.5 * x / np.linalg.norm(x) + math.sqrt(0.75) * (noise - noise.mean()) / np.linalg.norm(noise - noise.mean())
    found = pearson(list(zip(x.tolist(), y.tolist(), strict=True)))
    assert found.pearson_r == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.pearson_r == pytest.approx(0.5, abs=0.02)
    # atanh(0.5) = 0.5493, 1.96 / sqrt(25) = 0.392
    assert (found.low, found.high) == pytest.approx((0.156, 0.736), abs=0.02)
    assert found.n == 28


def test_no_r_where_there_is_none():
    assert pearson([(1, 2), (2, 3), (3, 5)]).pearson_r is None
    assert pearson([(1, 2)] * 9).pearson_r is None
    perfect = pearson([(n, -2 * n) for n in range(5)])
    assert (perfect.pearson_r, perfect.low, perfect.high) == pytest.approx((-1, -1, -1))


def test_accuracy_at_a_budget_lies_between_two_k():
    values = {k: np.array([[float(k)]]) for k in (1, 2, 4)}
    assert at_budget(values, tokens=10, budget=10)[0, 0] == 1
    assert at_budget(values, tokens=10, budget=30)[0, 0] == pytest.approx(3)
    assert at_budget(values, tokens=10, budget=40)[0, 0] == 4
    assert at_budget(values, tokens=10, budget=9.6)[0, 0] == 1
    assert at_budget(values, tokens=10, budget=9) is None
    assert at_budget(values, tokens=10, budget=41) is None
