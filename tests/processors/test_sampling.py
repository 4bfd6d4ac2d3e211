"""The strategies best_of_n and sample: every sample counted once, paths token-exact, stops and budgets as set."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scripted import ANSWER, BLANK, EOS, Cycle, Policy, Words, drive, new_sampling

from schemas.search_settings import SearchSection

WRONG, RIGHT, OTHER = [ANSWER, 9, EOS], [ANSWER, 8, EOS], [ANSWER, 10, EOS]


def section(**changes: Any) -> SearchSection:
    return SearchSection(**{"strategy": "sample", "samples": 20, "stop_early": False, "adaptive": False, **changes})


@hypothesis_settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 5), st.booleans())
def test_invariants(seed, samples, depth, adaptive):
    policy = Policy(seed)
    settings = section(samples=samples + 1, depth=depth, adaptive=adaptive, reach=0.2)
    search = drive(new_sampling(settings, seed), policy)
    root = search.arena.root
    assert root.rollouts == len(policy.asks) == search.graded <= settings.samples
    assert root.rollouts_correct == search.graded_correct
    for node in search.arena.nodes:
        assert node.depth <= depth
        assert node.terminal == bool(node.verdict)
        assert 0 <= node.q <= 1
        inside = sum(child.visits for child in node.children)
        assert node.visits >= inside, "N counts the samples through a node"
        assert not (node.terminal and node.children)
        if node is not root:
            assert node.merged == node.visits >= 1
            assert Words().decode(node.token_ids).strip() == node.text.strip()
        tokens = search.prompt + [token for step in node.path() for token in step.token_ids]
        assert any(said[: len(tokens)] == tokens for said in policy.said)
    assert search.stopped == "budget" or adaptive


def test_by_hand():
    """Ten samples in turn: 'a' then the right answer, 'a' then a wrong one, and the right answer at once."""
    search = drive(new_sampling(section(samples=10)), Cycle([1, BLANK, *RIGHT], [1, BLANK, *WRONG], RIGHT))
    nodes = [(n.text, n.depth, n.visits, n.verdict, n.q) for n in search.arena.nodes]
    assert nodes == [
        ("", 0, 10, "", pytest.approx(0.7)),
        ("a", 1, 7, "", pytest.approx(4 / 7)),
        ("Answer: 1", 2, 4, "correct", 1.0),
        ("Answer: 2", 2, 3, "wrong", 0.0),
        ("Answer: 1", 1, 3, "correct", 1.0),
    ]
    assert search.solved


def test_best_of_n_stops_at_the_first_round_that_solves_and_sample_goes_on():
    texts = [WRONG] * 20 + [RIGHT] + [WRONG] * 79
    for strategy, stop_early, drawn in (("best_of_n", True, 24), ("best_of_n", False, 100), ("sample", True, 100)):
        settings = section(strategy=strategy, stop_early=stop_early, samples=100)
        search = drive(new_sampling(settings), Cycle(*texts))
        assert (search.arena.root.rollouts, search.solved) == (drawn, True)
        assert search.stopped == ("complete" if drawn == 24 else "budget")


def test_sample_stops_when_linearization_has_enough():
    search = drive(new_sampling(section(stop_early=True, samples=100), enough_wrong=2), Cycle(WRONG, OTHER, RIGHT))
    assert (search.arena.root.rollouts, search.stopped) == (4, "complete")


def test_a_token_budget_ends_it_after_its_round():
    search = drive(new_sampling(section(samples=1000, max_tokens=100)), Cycle(WRONG))
    assert search.stopped == "tokens"
    assert 100 <= search.generated_tokens < 100 + 4 * 3


def test_a_problem_out_of_reach_and_one_too_easy_are_given_up():
    hard = drive(new_sampling(section(samples=1000, adaptive=True)), Cycle(WRONG))
    assert (hard.stopped, hard.arena.root.rollouts) == ("out of reach", 152)  # 149 in rounds of 4
    easy = drive(new_sampling(section(samples=1000, adaptive=True)), Cycle(RIGHT))
    assert (easy.stopped, easy.arena.root.rollouts) == ("too easy", 60)  # 59
