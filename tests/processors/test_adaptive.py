"""The rules that stop a node's rollouts and a tree: worked numbers, and what must hold for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.adaptive import Tally, excluded, next_round, racing, wilson

TALLIES = st.lists(
    st.one_of(
        st.integers(0, 16).flatmap(lambda n: st.builds(Tally, correct=st.integers(0, n), trials=st.just(n))),
        st.builds(Tally, exact=st.sampled_from([0.0, 1.0])),
    ),
    max_size=8,
)


def test_wilson_by_hand():
    # z = 1, 2 of 4: middle (2 + 1/2) / 5, half sqrt(2 * 2 / 4 + 1/4) / 5
    assert wilson(2, 4, 1.0) == pytest.approx((0.5 - 1.25**0.5 / 5, 0.5 + 1.25**0.5 / 5))
    assert wilson(0, 4, 1.0) == pytest.approx((0.0, 0.2))
    assert wilson(4, 4, 1.0) == pytest.approx((0.8, 1.0))
    assert wilson(5, 10, 1.96) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # the textbook's example
    assert wilson(0, 0, 1.0) == (0.0, 1.0)


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.1, 3))
def test_wilson_holds_the_share_and_narrows(seen, z):
    correct, trials = seen
    low, high = wilson(correct, trials, z)
    assert 0 <= low <= correct / trials + 1e-12
    assert correct / trials - 1e-12 <= high <= 1
    wider = wilson(correct, trials, z + 0.5)
    assert wider[0] <= low + 1e-12
    assert wider[1] >= high - 1e-12
    low4, high4 = wilson(4 * correct, 4 * trials, z)
    assert high4 - low4 <= high - low + 1e-12


def test_races():
    none_of_two, two_of_two, one_of_two = Tally(trials=2), Tally(correct=2, trials=2), Tally(correct=1, trials=2)
    assert racing([none_of_two, two_of_two], [], 1.0, 0.25) == [False, False]
    assert racing([one_of_two, one_of_two], [], 1.0, 0.25) == [True, True]
    assert racing([one_of_two], [], 1.0, 0.25) == [False], "nobody to be compared with"
    assert racing([one_of_two, none_of_two], [Tally(exact=1.0)], 1.0, 0.25) == [False, False]
    assert racing([one_of_two], [Tally(exact=0.0)], 1.0, 0.25) == [False], "it leads, and the other cannot catch up"


@given(TALLIES, TALLIES, st.floats(0.1, 3), st.floats(0, 1))
def test_a_race_ends_where_no_child_can_beat_the_leader(new, old, z, margin):
    going = racing(new, old, z, margin)
    assert len(going) == len(new)
    bounds = [tally.bounds(z) for tally in (*new, *old)]
    best = max((low for low, _ in bounds), default=0.0)
    for (low, high), goes in zip(bounds, going, strict=False):
        if not goes and low < best:
            assert high - best <= margin
        if goes and low < best:
            assert high - best > margin
    assert racing(new, old, z, 1.0) == [False] * len(new)


@given(st.integers(0, 40), st.integers(0, 40))
def test_rounds_double_up_to_m_and_never_past_it(trials, most):
    due = next_round(trials, most)
    assert (due == 0) == (trials >= most)
    assert trials + due <= max(most, trials)
    rounds, done = [], 0
    while step := next_round(done, 16):
        rounds.append(step)
        done += step
    assert rounds == [2, 2, 4, 8]


def test_a_share_is_excluded_by_enough_misses():
    # (1 - 0.02)^149 = 0.0493, (1 - 0.02)^148 = 0.0503
    assert excluded(0, 149, 0.02)
    assert not excluded(0, 148, 0.02)
    assert not excluded(1, 1000, 0.02)
    assert not excluded(0, 10**6, 0.0)
