"""Selection, priors, backup and widening, each against numbers worked out by hand."""

import math

import pytest

from processors.mcts_tree import Arena, Branch, backup, priors, puct
from processors.steps import Step
from schemas.search_settings import SearchSection


def step(text: str, end: str = "delimiter", logprob: float = -1.0) -> Step:
    return Step(text=text, token_ids=[1, 5], logprob=logprob, end=end)  # type: ignore[arg-type]


def arena(**settings) -> Arena:
    return Arena(SearchSection(**settings), room=1000)


def grow(tree: Arena, parent: Branch, text: str, value: float) -> Branch:
    child = tree.add(parent, step(text))
    child.value = value
    tree.set_priors(parent)
    backup(child)
    return child


def test_backup_by_hand():
    tree = arena()
    tree.root.value = 0.5
    backup(tree.root)
    assert (tree.root.visits, tree.root.q) == (1, 0.5)
    a = grow(tree, tree.root, "a", 1.0)
    assert (tree.root.visits, tree.root.q) == (2, (1 * 1 + 0.5) / 2)
    b = grow(tree, tree.root, "b", 0.0)
    assert (tree.root.visits, tree.root.q) == (3, pytest.approx((1 + 0 + 0.5) / 3))
    below = grow(tree, a, "a1", 0.0)
    assert (below.visits, below.q) == (1, 0.0)
    assert (a.visits, a.q) == (2, (0 * 1 + 1.0) / 2)
    assert (tree.root.visits, tree.root.q) == (4, pytest.approx((0.5 * 2 + 0 * 1 + 0.5) / 4))
    assert (b.visits, b.q) == (1, 0.0)


def test_priors_are_a_softmax_of_mean_log_probs():
    assert priors([-1.0, -1.0 + math.log(3)]) == pytest.approx([0.25, 0.75])
    assert priors([-2000.0, -2000.0]) == [0.5, 0.5]
    assert priors([]) == []


def test_puct_by_hand():
    child = Branch(id=1, parent=None, depth=1, q=0.5, visits=2, prior=0.5)
    assert puct(child, parent_visits=4, c_puct=1.0) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert puct(child, parent_visits=4, c_puct=0.0) == 0.5


def test_selection_follows_puct_and_leaves_terminals_out():
    tree = arena(widen=False)
    backup(tree.root)
    good, poor = grow(tree, tree.root, "good", 1.0), grow(tree, tree.root, "poor", 0.0)
    end = tree.add(tree.root, step("Answer: 1", "eos"))
    end.value = 1.0
    backup(end)
    tree.root.expansions = 1
    assert tree.select() is good
    good.expansions = 1  # no child came of it: nothing is open there
    assert tree.select() is poor
    poor.spent = True
    assert tree.select() is None


def test_a_node_widens_on_passes_one_two_five_ten():
    tree = arena(widen_power=0.5)
    widened = []
    for count in range(1, 18):
        tree.root.passes = count
        child = tree.root.child("x") or grow(tree, tree.root, "x", 0.5)
        assert tree.is_open(child)
        if tree.wants_expansion(tree.root):
            widened.append(count)
            tree.root.expansions += 1
    assert widened == [1, 2, 5, 10, 17]


def test_without_widening_a_node_is_sampled_once():
    tree = arena(widen=False)
    assert tree.select() is tree.root
    tree.root.expansions = 1
    assert tree.select() is None


def test_when_everything_below_is_closed_a_node_is_sampled_again():
    tree = arena()
    tree.root.passes, tree.root.expansions = 3, 2
    tree.add(tree.root, step("Answer: 1"))
    assert tree.select() is tree.root


@pytest.mark.parametrize(("depth", "room"), [(1, 1000), (9, 40)])
def test_no_expansion_beyond_depth_or_context(depth, room):
    tree = Arena(SearchSection(depth=depth, step_tokens=39), room=room)
    child = grow(tree, tree.root, "a", 0.0)
    assert tree.can_sample(tree.root)
    assert not tree.can_sample(child)


def test_adoption_shares_steps_with_the_same_tokens():
    tree = arena(depth=3)
    first = tree.adopt(tree.root, [step("a"), step("Answer: 1", "eos")])
    second = tree.adopt(tree.root, [step("a"), step("Answer: 2", "eos")])
    assert first is not None
    assert second is not None
    assert [node.text for node in tree.nodes] == ["", "a", "Answer: 1", "Answer: 2"]
    assert first.parent is second.parent
    assert all(node.adopted and node.visits == 0 and node.prior == 0 for node in tree.nodes[1:])


def test_adoption_refuses_what_does_not_fit():
    tree = arena(depth=2)
    tree.add(tree.root, step("a"))
    other_tokens = Step(text="a", token_ids=[9, 9, 9], logprob=0, end="delimiter")
    end = step("Answer: 1", "eos")
    assert tree.adopt(tree.root, [other_tokens, end]) is None
    assert tree.adopt(tree.root, [step("b"), step("c"), end]) is None
    assert tree.adopt(tree.root, [step("b"), step("c", "eos")]) is None
    assert tree.adopt(tree.root, [step(""), end]) is None
    assert tree.adopt(tree.root, []) is None
    assert len(tree.nodes) == 2
    assert tree.adopt(tree.root, [end]) is not None
    assert tree.adopt(tree.root, [end]) is None
    assert tree.adopt(tree.root, [end, end]) is None


def test_freezing_keeps_every_field():
    tree = arena()
    child = grow(tree, tree.root, "a", 0.25)
    child.merged, child.votes, child.votes_yes, child.cut = 3, 2, 1, True
    node = child.freeze()
    assert (node.id, node.parent, node.depth, node.text, node.token_ids) == (1, 0, 1, "a", [1, 5])
    assert (node.visits, node.q, node.value, node.prior) == (1, 0.25, 0.25, 1.0)
    assert (node.merged, node.votes, node.votes_yes, node.cut) == (3, 2, 1, True)
    assert tree.root.freeze().parent == -1
