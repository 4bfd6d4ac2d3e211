"""The whole search against a scripted policy: invariants on random settings, and small trees known by hand."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scripted import ANSWER, BLANK, EOS, PIECES, Cycle, Policy, Words, drive, new_search

from processors.chat import states_answer
from processors.mcts import Mcts
from processors.mcts_tree import priors
from processors.strategy import says_yes
from schemas.messages import Node
from schemas.search_settings import SearchSection

SETTINGS = st.builds(
    SearchSection,
    k=st.integers(1, 4),
    rollouts=st.integers(0, 3),
    iterations=st.integers(0, 6),
    depth=st.integers(1, 5),
    c_puct=st.floats(0, 3),
    step_tokens=st.integers(1, 8),
    rollout_tokens=st.integers(1, 24),
    votes=st.integers(0, 2),
    widen=st.booleans(),
    widen_power=st.floats(0, 1),
    adopt=st.booleans(),
    stop_early=st.booleans(),
    adaptive=st.booleans(),
    race_z=st.floats(0.1, 3),
    race_margin=st.floats(-0.1, 1),
    reach=st.sampled_from([0, 0.02, 0.5]),
    easy=st.sampled_from([0, 0.05, 0.5]),
    max_tokens=st.sampled_from([0, 1, 100]),
)


def nodes_of(search: Mcts) -> list[Node]:
    return [node.freeze() for node in search.arena.nodes]


def check_shape(search: Mcts) -> None:
    nodes = nodes_of(search)
    children: dict[int, list[Node]] = {}
    for index, node in enumerate(nodes):
        assert node.id == index
        assert node.parent < index
        assert (node.parent == -1) == (index == 0)
        if node.parent >= 0:
            children.setdefault(node.parent, []).append(node)
            assert node.depth == nodes[node.parent].depth + 1 <= search.settings.depth
    for node in nodes:
        below = children.get(node.id, [])
        assert len({child.text for child in below}) == len(below), "siblings have distinct texts"
        assert node.terminal == bool(node.verdict)
        assert not (node.terminal and below)
        assert node.terminal or not states_answer(node.text)
        assert node.verdict == "unparsable" or not node.terminal or states_answer(node.text)


def check_values(search: Mcts) -> None:
    nodes = nodes_of(search)
    inside: dict[int, list[float]] = {node.id: [] for node in nodes}
    for node in reversed(nodes):
        if node.visits:
            inside[node.id].append(node.value)
        if node.parent >= 0:
            inside[node.parent] += inside[node.id]
    for node, branch in zip(nodes, search.arena.nodes, strict=True):
        assert 0 <= node.q <= 1
        assert 0 <= node.value <= 1
        assert node.rollouts_correct <= node.rollouts <= search.settings.rollouts
        assert node.visits == len(inside[node.id]), "N counts the evaluated nodes of the subtree"
        assert branch.adopted == (node.visits == 0)
        if node.visits:
            assert node.q == pytest.approx(sum(inside[node.id]) / len(inside[node.id])), "Q is their mean value"
        if node.terminal:
            assert node.value == (node.verdict == "correct")
        live = [child for child in branch.children if not child.adopted]
        assert [child.prior for child in live] == pytest.approx(priors([child.logprob for child in live]))
        assert all(child.prior == 0 for child in branch.children if child.adopted)


def check_budget(search: Mcts, policy: Policy) -> None:
    s = search.settings
    correct = sum(node.verdict == "correct" for node in search.arena.nodes)
    assert search.iterations <= s.iterations
    assert search.requests == len(policy.asks)
    assert search.requests <= s.rollouts + search.iterations * (s.k + s.k * s.rollouts) + s.votes * correct
    assert search.generated_tokens == sum(
        len(said) - len(ask.prompt_ids) for said, ask in zip(policy.said, policy.asks, strict=True)
    )
    assert search.prompt_tokens == sum(len(ask.prompt_ids) for ask in policy.asks)
    assert all(len(ask.prompt_ids) + ask.max_tokens <= search.context for ask in policy.asks)
    assert len({ask.seed for ask in policy.asks}) == len(policy.asks)


def check_tokens(search: Mcts, policy: Policy) -> None:
    """Every path without a cut is, token for token, the beginning of something the policy was given and said."""
    for node in search.arena.nodes:
        if any(step.cut for step in node.path()):
            continue
        tokens = search.prompt + [token for step in node.path() for token in step.token_ids]
        assert any(said[: len(tokens)] == tokens for said in policy.said) or node is search.arena.root
        assert Words().decode(node.token_ids).strip() == node.text.strip()


@hypothesis_settings(max_examples=150, deadline=None)
@given(SETTINGS, st.integers(0, 10**6), st.integers(12, 80), st.integers(1, 4))
def test_invariants(settings, seed, context, enough_wrong):
    policy = Policy(seed)
    search = drive(new_search(settings, seed, context, enough_wrong), policy, each=check_shape)
    check_shape(search)
    check_values(search)
    check_budget(search, policy)
    check_tokens(search, policy)
    assert search.solved <= any(node.verdict == "correct" for node in search.arena.nodes)
    if settings.votes == 0:
        assert search.solved == any(node.verdict == "correct" for node in search.arena.nodes)
    if not settings.adopt and search.iterations:
        merged: Counter[int] = Counter()
        for node in search.arena.nodes[1:]:
            assert node.parent is not None
            merged[node.parent.id] += node.merged
        assert all(merged[n.id] <= settings.k * n.expansions for n in search.arena.nodes)


@hypothesis_settings(max_examples=30, deadline=None)
@given(SETTINGS, st.integers(0, 10**6))
def test_the_same_seed_gives_the_same_tree(settings, seed):
    one, two = (drive(new_search(settings, seed), Policy(3)) for _ in range(2))
    assert nodes_of(one) == nodes_of(two)
    assert one.generated_tokens == two.generated_tokens


@hypothesis_settings(max_examples=60, deadline=None)
@given(SETTINGS, st.integers(0, 10**6))
def test_adopted_paths_give_new_answers_and_no_reflection(settings, seed):
    search = drive(new_search(settings, seed), Policy(seed, reflects=0.2))
    for node in search.arena.nodes:
        assert "But wait" not in node.text
        if node.adopted and node.terminal:
            earlier = [other for other in search.arena.nodes[: node.id] if other.terminal]
            assert node.answer not in {other.answer for other in earlier}
            assert node.verdict in {"correct", "wrong"}


@hypothesis_settings(max_examples=60, deadline=None)
@given(SETTINGS, st.integers(0, 10**6))
def test_why_it_stopped_is_true(settings, seed):
    search = drive(new_search(settings, seed), Policy(seed))
    assert search.stopped in {"complete", "too easy", "out of reach", "tokens", "budget", "exhausted"}
    assert (search.stopped == "complete") <= (settings.stop_early and search.solved)
    assert (search.stopped in {"too easy", "out of reach"}) <= settings.adaptive
    assert (search.stopped == "out of reach") <= (search.graded_correct == 0)
    assert (search.stopped == "too easy") <= (search.graded_correct == search.graded)
    assert (search.stopped == "tokens") <= (0 < settings.max_tokens <= search.generated_tokens)
    assert (search.stopped == "budget") <= (search.iterations == settings.iterations)


def test_a_race_is_won_early_and_a_close_one_is_run_to_the_end():
    """Root: 8 wrong. Then two steps: a's rollouts are all wrong; b's are all right, or every second one is."""
    a, b, wrong, right = [1, BLANK], [2, BLANK], [ANSWER, 9, EOS], [ANSWER, 8, EOS]
    settings = SearchSection(k=2, rollouts=8, iterations=1, depth=4, race_z=1.0, race_margin=0.25, stop_early=False)
    clear = [wrong] * 8 + [a, b] + [wrong] * 2 + [right] * 2
    search = drive(new_search(settings), Cycle(*clear))
    assert [node.rollouts for node in search.arena.root.children if not node.adopted] == [2, 2]
    close = [wrong] * 8 + [a, b] + [wrong, right] * 8
    search = drive(new_search(settings), Cycle(*close))
    assert [node.rollouts for node in search.arena.root.children if not node.adopted] == [8, 8]
    fixed = msgspec.structs.replace(settings, adaptive=False)
    search = drive(new_search(fixed), Cycle(*clear))
    assert [node.rollouts for node in search.arena.root.children if not node.adopted] == [8, 8]


def test_different_seeds_give_different_trees():
    settings = SearchSection(k=3, rollouts=2, iterations=4)
    assert nodes_of(drive(new_search(settings, 1), Policy())) != nodes_of(drive(new_search(settings, 2), Policy()))


def test_rollouts_of_one_prefix_are_adjacent():
    policy = Policy()
    fixed = SearchSection(k=4, rollouts=3, iterations=5, stop_early=False, adaptive=False)
    drive(new_search(fixed), policy)
    prefixes = [tuple(ask.prompt_ids) for ask in policy.asks if not ask.stop]
    runs = [prefix for index, prefix in enumerate(prefixes) if index == 0 or prefixes[index - 1] != prefix]
    assert len(runs) == len(set(runs))


def test_a_tree_by_hand():
    """Root pass: one wrong rollout. Then k=3: 'a' twice and the right answer; 'a' gets one correct rollout."""
    a, right, wrong = [1, BLANK], [ANSWER, 8, EOS], [ANSWER, 9, EOS]
    policy = Cycle(wrong, a, a, right, right)
    settings = SearchSection(k=3, rollouts=1, iterations=1, depth=4)
    nodes = nodes_of(drive(new_search(settings), policy))
    assert [(n.text, n.parent, n.visits, n.merged, n.verdict) for n in nodes] == [
        ("", -1, 3, 1, ""),
        ("Answer: 2", 0, 0, 1, "wrong"),
        ("a", 0, 1, 2, ""),
        ("Answer: 1", 0, 1, 1, "correct"),
    ]
    assert [n.q for n in nodes] == pytest.approx([(1 + 1 + 0) / 3, 0, 1, 1])
    assert [n.prior for n in nodes] == pytest.approx([1, 0, 0.5, 0.5])
    assert (nodes[0].rollouts, nodes[0].value, nodes[2].rollouts_correct) == (1, 0.0, 1)


def test_two_expansions_by_hand():
    """Root: 1 of 2 rollouts right, so R = 1/2. First expansion: a (0 of 2) and b (1 of 2), priors 1/2 each.

    After it N(root) = 3, Q(root) = (1/2 + 0 + 1/2) / 3 = 1/3. Selection at the root, whose second pass may not widen it
    (ceil(2 ** 0) = 1): a: 0 + sqrt(3) / 2 / 2 = 0.43, b: 1/2 + 0.43, so b. Second expansion, below b: the right answer
    (verdict 1). Then N(b) = 2, Q(b) = (1 * 1 + 1/2) / 2 = 3/4; N(root) = 4, and
    Q(root) = (Q_a N_a + Q_b N_b + R) / (N_a + N_b + 1) = (0 + 3/2 + 1/2) / 4 = 1/2.
    """
    a, b, wrong, right = [1, BLANK], [2, BLANK], [ANSWER, 9, EOS], [ANSWER, 8, EOS]
    policy = Cycle(wrong, right, a, b, wrong, wrong, wrong, right, right, right)
    settings = SearchSection(
        k=2, rollouts=2, iterations=2, depth=4, c_puct=1.0, widen_power=0.0, adopt=False, stop_early=False
    )
    nodes = nodes_of(drive(new_search(settings), policy))
    assert [(n.text, n.parent, n.visits, n.verdict) for n in nodes] == [
        ("", -1, 4, ""),
        ("a", 0, 1, ""),
        (" b", 0, 2, ""),
        ("Answer: 1", 2, 1, "correct"),
    ]
    assert [n.q for n in nodes] == pytest.approx([1 / 2, 0, 3 / 4, 1])
    assert [n.value for n in nodes] == pytest.approx([1 / 2, 0, 1 / 2, 1])
    assert nodes[3].merged == 2


def test_a_sampled_step_takes_an_adopted_node_over():
    wrong = [1, BLANK, ANSWER, 9, EOS]
    policy = Cycle(wrong)
    settings = SearchSection(k=2, rollouts=2, iterations=1, depth=4)
    search = drive(new_search(settings), policy)
    nodes = nodes_of(search)
    assert [(n.text, n.visits, n.merged) for n in nodes] == [("", 2, 1), ("a", 1, 3), ("Answer: 2", 0, 1)]
    assert [n.prior for n in nodes] == [1, 1, 0]


def test_stop_early_needs_a_correct_and_enough_wrong_answers():
    texts = [[ANSWER, digit, EOS] for digit in (8, 9, 10)]
    for enough, iterations in ((2, 1), (3, 6)):
        settings = SearchSection(k=3, rollouts=0, iterations=6)
        search = drive(new_search(settings, enough_wrong=enough), Cycle(*texts))
        assert search.solved
        assert search.iterations <= iterations
        assert (search.stopped == "complete") == (enough == 2)


def test_votes_must_be_unanimous():
    right = [ANSWER, 8, EOS]
    for replies, solved in (([14], True), ([15], False), ([1], False)):
        policy = Cycle(right, *[[*replies, EOS]] * 2)
        search = drive(new_search(SearchSection(k=1, rollouts=1, votes=2, iterations=0)), policy)
        node = search.arena.nodes[1]
        assert (node.verdict, node.votes) == ("correct", 2)
        assert search.solved == solved
        assert node.votes_yes == 2 * solved


def test_replies_to_votes():
    assert says_yes("Yes.")
    assert says_yes("No wait ... Answer: YES")
    assert not says_yes("yes, hm, no")
    assert not says_yes("")
    assert not says_yes("yesterday")


def test_a_policy_that_only_reflects_is_cut_counted_and_given_up():
    wait = [PIECES.index("But wait"), BLANK]
    search = drive(new_search(SearchSection(k=2, rollouts=0, iterations=5)), Cycle(wait))
    assert len(search.arena.nodes) == 1
    assert (search.iterations, search.cuts) == (1, 2)


def test_a_step_that_can_go_on_wins_over_its_dead_twin():
    search = drive(new_search(SearchSection(k=2, rollouts=0, iterations=1)), Cycle([1, EOS], [1, BLANK]))
    nodes = nodes_of(search)
    assert [(n.text, n.terminal, n.merged, n.token_ids) for n in nodes[1:]] == [("a", False, 2, [1, BLANK])]


def test_a_prompt_without_room_is_refused():
    with pytest.raises(ValueError, match="leaves no room"):
        new_search(SearchSection(step_tokens=48), context=40)


def test_the_root_is_widened_while_a_single_expansion_would_miss():
    """Two samples of many first steps: without widening the root keeps two children at most, with it more."""
    widths = []
    for widen in (False, True):
        search = drive(new_search(SearchSection(k=2, rollouts=0, iterations=12, depth=2, widen=widen)), Policy(5, 0, 0))
        widths.append(len(search.arena.root.children))
    assert widths[0] <= 2 < widths[1]


def test_votes_change_no_sample():
    for seed in range(5):
        texts = []
        for votes in (0, 2):
            policy = Policy(seed)
            drive(new_search(SearchSection(votes=votes, iterations=3, stop_early=False), seed), policy)
            asks = zip(policy.asks, policy.said, strict=True)
            texts.append([said for ask, said in asks if ask.prompt_ids[:3] != [12, 12, 2]])
        assert texts[0] == texts[1]
