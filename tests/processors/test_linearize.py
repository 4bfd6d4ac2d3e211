"""Algorithm 1: every invariant of the walks, on any tree, checked by an oracle that knows only parents."""

from itertools import pairwise
from random import Random

import forest
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.answers import answer_key
from processors.linearize import BadTree, passes_votes, walks
from schemas.search_settings import LinearizeSection

SETTINGS = LinearizeSection(direct=2, search=5, max_wrong=3)


def ancestors(tree, node):
    found = []
    while (node := tree.nodes[node].parent) >= 0:
        found.append(node)
    return found


@settings(deadline=None)
@given(forest.trees(), st.integers())
def test_every_walk_keeps_every_invariant(tree, seed):
    for walk in walks(tree, Random(seed), SETTINGS):
        nodes = walk.nodes
        assert nodes[0] == 0, "starts at the root"
        end = tree.nodes[nodes[-1]]
        assert (end.terminal, end.verdict) == (True, "correct"), "ends at a correct terminal"
        assert passes_votes(end)
        keys = [answer_key(tree.nodes[wrong].answer) for wrong in walk.wrong]
        assert len(set(keys)) == len(keys), "wrong answers pairwise distinct"
        assert not {answer_key(tree.problem.answer), answer_key(end.answer)} & set(keys)
        assert walk.backtracks <= len(walk.wrong) <= SETTINGS.max_wrong
        assert (walk.arm == "search") == bool(walk.wrong)
        visited = [node for node in nodes if tree.nodes[node].terminal]
        assert visited == [*walk.wrong, end.id], "wrong ones first, the correct one last, no other terminal"
        for previous, position in pairwise(walk.positions):
            if position.kind == "backtrack":
                assert position.node in ancestors(tree, previous.node)
                assert tree.nodes[previous.node].terminal, "one goes back from terminals only"
            else:
                assert tree.nodes[position.node].parent == previous.node
        forward = [position.node for position in walk.positions if position.kind == "forward"]
        assert len(set(forward)) == len(forward), "no step is told twice"


@settings(deadline=None)
@given(forest.trees(), st.integers())
def test_as_many_different_walks_as_asked_for_or_as_there_are(tree, seed):
    found = walks(tree, Random(seed), SETTINGS)
    assert len({tuple(walk.nodes) for walk in found}) == len(found)
    correct = [node for node in tree.nodes if node.verdict == "correct" and passes_votes(node)]
    direct = [walk for walk in found if walk.arm != "search"]
    assert len(direct) == min(SETTINGS.direct, len(correct))
    golds = {answer_key("7")}
    wrong = {answer_key(node.answer) for node in tree.nodes if node.verdict == "wrong"} - golds
    possible = bool(correct and wrong and tree.strategy != "best_of_n")
    searched = len(found) - len(direct)
    assert (1 <= searched <= SETTINGS.search) if possible else searched == 0
    if possible and len(correct) * len(wrong) >= 8:
        assert searched == SETTINGS.search


@settings(deadline=None)
@given(forest.trees(), st.integers())
def test_the_same_seed_gives_the_same_walks(tree, seed):
    assert walks(tree, Random(seed), SETTINGS) == walks(tree, Random(seed), SETTINGS)


def test_a_known_tree():
    tree = forest.example()
    found = walks(tree, Random(1), LinearizeSection(direct=1, search=30, max_wrong=2))
    assert found[0].nodes == [0, 1, 4]
    assert {tuple(walk.nodes) for walk in found[1:]} == {
        (0, 1, 2, 1, 4),
        (0, 1, 3, 1, 4),
        (0, 5, 6, 0, 1, 4),
        (0, 1, 2, 1, 3, 1, 4),
        (0, 1, 3, 1, 2, 1, 4),
        (0, 5, 6, 0, 1, 3, 1, 4),
    }, "2 and 6 have one answer, and 3 before 6 would tell node 1 twice"
    assert {walk.arm for walk in found[1:]} == {"search"}


def test_votes_must_be_unanimous():
    tree = forest.example()
    for votes, yes, count in ((0, 0, 1), (8, 8, 1), (8, 7, 0)):
        nodes = list(tree.nodes)
        nodes[4] = msgspec.structs.replace(nodes[4], votes=votes, votes_yes=yes)
        found = walks(msgspec.structs.replace(tree, nodes=nodes), Random(0), LinearizeSection(direct=1, search=0))
        assert len(found) == count


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [forest.node(0, 0)],
        [forest.node(0, -1), forest.node(1, 1)],
        [forest.node(0, -1), forest.node(1, 2), forest.node(2, 1)],
        [forest.node(0, -1), forest.node(2, 0)],
        [forest.node(0, -1), forest.node(1, -1)],
    ],
)
def test_what_is_no_tree_is_refused(nodes):
    with pytest.raises(BadTree):
        walks(forest.tree(nodes), Random(0), SETTINGS)


def shown(tree, **options):
    """The node walks that 60 different seeds give under some options."""
    given = LinearizeSection(**{"direct": 0, "search": 8, **options})
    return {tuple(walk.nodes): walk for seed in range(60) for walk in walks(tree, Random(seed), given)}


def test_exactly_k_wrong_turns():
    tree = forest.example()
    assert {len(walk.wrong) for walk in shown(tree).values()} == {1, 2}
    assert {len(walk.wrong) for walk in shown(tree, min_wrong=2).values()} == {2}
    assert {len(walk.wrong) for walk in shown(tree, max_wrong=1).values()} == {1}
    assert shown(tree, min_wrong=3, max_wrong=4) == {}, "it has two wrong answers"
    with pytest.raises(ValueError, match="min_wrong = 3 is above max_wrong = 2"):
        LinearizeSection(min_wrong=3)


def test_a_branch_is_left_at_a_low_q():
    tree = forest.example()  # node 5 has Q 0.1 with two visits
    assert (0, 5, 0, 1, 4) in shown(tree, merge="low_q", max_wrong=1)
    assert (0, 5, 6, 0, 1, 4) in shown(tree, merge="low_q", max_wrong=1), "or at the terminal below it"
    for options in ({"low_q": 0.05}, {"low_q_visits": 3}):
        found = shown(tree, merge="low_q", max_wrong=1, **options)
        assert (0, 5, 0, 1, 4) not in found
        assert found.keys() == shown(tree, max_wrong=1).keys()


def test_a_random_branch_is_left_anywhere_but_above_the_end():
    tree = forest.tree(
        [
            forest.node(0, -1),
            forest.node(1, 0, "a", visits=3, q=0.9),
            forest.node(2, 1, "b", visits=3, q=0.9),
            forest.node(3, 2, "c", visits=3, q=0.9),
            forest.node(4, 3, "Answer: 5", "wrong"),
            forest.node(5, 1, "Answer: 7", "correct"),
        ]
    )
    assert shown(tree, merge="random").keys() == {(0, 1, 2, 1, 5), (0, 1, 2, 3, 1, 5), (0, 1, 2, 3, 4, 1, 5)}
    assert shown(tree, merge="low_q").keys() == {(0, 1, 2, 3, 4, 1, 5)}


def test_the_vote_filter_can_be_off():
    tree = forest.example()
    nodes = [*tree.nodes[:4], msgspec.structs.replace(tree.nodes[4], votes=8, votes_yes=7), *tree.nodes[5:]]
    doubted = msgspec.structs.replace(tree, nodes=nodes)
    assert shown(doubted) == {}
    assert shown(doubted, vote_filter=False) == shown(tree)


@settings(deadline=None)
@given(forest.trees(), st.integers(), st.sampled_from(["low_q", "random"]), st.integers(1, 3), st.booleans())
def test_every_merge_keeps_the_invariants_that_are_not_about_terminals(tree, seed, merge, least, votes):
    options = LinearizeSection(direct=1, search=5, min_wrong=least, max_wrong=3, merge=merge, vote_filter=votes)
    for walk in walks(tree, Random(seed), options):
        nodes = walk.nodes
        end = tree.nodes[nodes[-1]]
        assert nodes[0] == 0
        assert (end.terminal, end.verdict) == (True, "correct")
        assert passes_votes(end) or not votes
        if walk.arm == "search":
            assert least <= walk.backtracks == len(walk.wrong) <= 3
        else:
            assert walk.backtracks == 0
        left = [before.node for before, after in pairwise(walk.positions) if after.kind == "backtrack"]
        assert left == list(walk.wrong)
        for node in (tree.nodes[number] for number in left):
            if node.terminal:
                assert node.verdict == "wrong"
            elif merge == "low_q":
                assert node.q <= options.low_q
                assert node.visits >= 1
            assert node.id not in ancestors(tree, end.id), "the end does not lie below what was given up"
        keys = [answer_key(tree.nodes[node].answer) for node in left if tree.nodes[node].terminal]
        assert len(set(keys)) == len(keys)
        assert not {answer_key(tree.problem.answer), answer_key(end.answer)} & set(keys)
        for before, position in pairwise(walk.positions):
            if position.kind == "backtrack":
                assert position.node in ancestors(tree, before.node)
            else:
                assert tree.nodes[position.node].parent == before.node
        forward = [position.node for position in walk.positions if position.kind == "forward"]
        assert len(set(forward)) == len(forward)


@settings(deadline=None)
@given(forest.trees(), st.integers(), st.sampled_from(["terminal", "low_q", "random"]), st.booleans())
def test_the_same_seed_gives_the_same_walks_under_every_option(tree, seed, merge, votes):
    options = LinearizeSection(merge=merge, vote_filter=votes)
    assert walks(tree, Random(seed), options) == walks(tree, Random(seed), options)


def test_best_of_n_tells_the_likeliest_correct_solution():
    nodes = [
        forest.node(0, -1, logprob=0.0, token_ids=[]),
        forest.node(1, 0, "Answer: 7", "correct", logprob=-0.9, token_ids=[1]),
        forest.node(2, 0, "3 + 4 = 7", logprob=-0.1, token_ids=[1, 2, 3]),
        forest.node(
            3, 2, "Answer: 7.0", "correct", logprob=-2.0, token_ids=[1]
        ),  # (-0.3 - 2) / 4 = -0.575 nats a token
        forest.node(4, 0, "Answer: 5", "wrong", logprob=-0.01),
    ]
    for seed in range(5):
        (walk,) = walks(forest.tree(nodes, strategy="best_of_n"), Random(seed), LinearizeSection(direct=1))
        assert (walk.arm, walk.nodes) == ("best_of_n", [0, 2, 3])
    assert len(walks(forest.tree(nodes, strategy="best_of_n"), Random(0), LinearizeSection(direct=2))) == 2


def test_a_solution_that_was_never_voted_on_does_not_pass_an_active_filter():
    nodes = [
        forest.node(0, -1),
        forest.node(1, 0, "Answer: 7", "correct", votes=8, votes_yes=7),
        forest.node(2, 0, "Answer: 7.0", "correct"),
    ]
    voted = msgspec.structs.replace(forest.tree(nodes), settings='{"votes": 8}')
    assert walks(voted, Random(0), LinearizeSection()) == []
    assert walks(voted, Random(0), LinearizeSection(vote_filter=False)) != []
