"""Procedure cloning: what the words must say about the walk, for any tree, and the known tree word by word."""

from random import Random

import forest
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import chat
from processors.answers import extract_answer
from processors.cloning import clone, join, jump
from processors.linearize import Walk, visit, walks
from schemas.search_settings import LinearizeSection

SETTINGS = LinearizeSection(direct=2, search=4, max_wrong=3, positive_share=0.7)


@settings(deadline=None)
@given(forest.trees(), st.integers())
def test_the_words_follow_the_walk(tree, seed):
    rng = Random(seed)
    for walk in walks(tree, rng, SETTINGS):
        segments = clone(tree, walk, rng, SETTINGS)
        spoken = [segment for segment in segments if segment.kind in ("step", "jump")]
        assert [segment.node for segment in spoken] == walk.nodes[1:]
        kinds = ["jump" if position.kind == "backtrack" else "step" for position in walk.positions[1:]]
        assert [segment.kind for segment in spoken] == kinds
        assert all(segment.text == tree.nodes[segment.node].text for segment in spoken if segment.kind == "step")
        text = join(segments)
        assert chat.count_backtracks(text) == walk.backtracks
        assert extract_answer(text) == tree.nodes[walk.nodes[-1]].answer


@settings(deadline=None)
@given(forest.trees(), st.integers())
def test_a_verdict_follows_its_reflection_and_never_precedes_it(tree, seed):
    rng = Random(seed)
    for walk in walks(tree, rng, SETTINGS):
        segments = clone(tree, walk, rng, SETTINGS)
        reflections = [i for i, segment in enumerate(segments) if segment.kind == "reflection"]
        verdicts = [i for i, segment in enumerate(segments) if segment.kind == "verdict"]
        assert verdicts == [i + 1 for i in reflections]
        for at in verdicts:
            about = tree.nodes[segments[at].node]
            assert segments[at - 1].node == segments[at].node == segments[at - 2].node
            bad = segments[at].text == chat.VERDICT_BAD
            assert bad == (about.verdict == "wrong"), "a bad verdict on wrong terminals only"
            assert bad == (at + 1 < len(segments) and segments[at + 1].kind == "jump")
            if not about.terminal:
                assert about.q >= SETTINGS.positive_q
                assert about.visits > 0
        middle = [segments[at] for at in verdicts if not tree.nodes[segments[at].node].terminal]
        assert len(middle) <= (1 if walk.arm == "search" else 0)


def test_the_known_tree_word_by_word():
    tree = forest.example()
    walk = Walk("search", visit(tree, [6, 3, 4]), (6, 3))
    assert join(clone(tree, walk, Random(0), LinearizeSection(positive_share=1.0))) == (
        "Three plus four is eight.\n\n"
        "Answer: 5.0\n\n"
        "But wait, are we solving the problem correctly so far? Hmm...\n\n"
        "I'm not sure if we're solving the problem correctly so far.\n\n"
        "Let's restart our solution from the beginning.\n\n"
        "Use 3, 4: 3 + 4 = 7\n\n"
        "But wait, are we solving the problem correctly so far? Hmm...\n\n"
        "Our solution seems to be correct so far.\n\n"
        "Answer: 6\n\n"
        "But wait, are we solving the problem correctly so far? Hmm...\n\n"
        "I'm not sure if we're solving the problem correctly so far.\n\n"
        "Let's go back to where we use 3, 4: 3 + 4 = 7\n\n"
        "Answer: 7\n\n"
        "But wait, are we solving the problem correctly so far? Hmm...\n\n"
        "Our solution seems to be correct so far."
    )


@pytest.mark.parametrize(("arm", "reflects", "last"), [
    ("direct", True, chat.VERDICT_GOOD), ("direct", False, "Answer: 7"), ("best_of_n", True, "Answer: 7"),
])  # fmt: skip
def test_only_astros_own_traces_reflect(arm, reflects, last):
    tree = forest.example()
    walk = Walk(arm, visit(tree, [4]))
    segments = clone(tree, walk, Random(0), LinearizeSection(positive_share=1.0, direct_reflects=reflects))
    assert segments[-1].text == last
    assert sum(segment.kind == "reflection" for segment in segments) == (last != "Answer: 7")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("Use 1, 2: 1 + 2 = 3", "Let's go back to where we use 1, 2: 1 + 2 = 3"),
        ("First, we add.\nThen more.", "Let's go back to where we wrote: First, we add. Then more."),
        ("", "Let's restart our solution from the beginning."),
        ("word " * 100, "Let's go back to where we wrote: " + "word " * 48 + "..."),
    ],
)
def test_a_jump_quotes_what_it_goes_back_to(step, said):
    assert jump(step) == said


def test_a_step_never_holds_a_blank_line_or_an_empty_text():
    nodes = [forest.node(0, -1), forest.node(1, 0, "\n a \n \n b "), forest.node(2, 1, " "), *[
        forest.node(3, 2, "Answer: 7", "correct")]]  # fmt: skip
    tree = forest.tree(nodes)
    segments = clone(tree, Walk("direct", visit(tree, [3])), Random(0), LinearizeSection())
    assert [segment.text for segment in segments[:2]] == ["a \n b", "Answer: 7"]


def test_the_known_tree_without_phrases():
    tree = forest.example()
    bare = LinearizeSection(positive_share=1.0, phrases=False)
    segments = clone(tree, Walk("search", visit(tree, [6, 3, 4]), (6, 3)), Random(0), bare)
    assert join(segments) == (
        "Three plus four is eight.\n\nAnswer: 5.0\n\n"
        "Use 3, 4: 3 + 4 = 7\n\nAnswer: 6\n\n"  # back to the root: nothing to tell again
        "Use 3, 4: 3 + 4 = 7\n\nAnswer: 7"
    )
    assert [(segment.kind, segment.node) for segment in segments] == [
        ("step", 5), ("step", 6), ("jump", 0), ("step", 1), ("step", 3), ("jump", 1), ("step", 4),
    ]  # fmt: skip


@settings(deadline=None)
@given(forest.trees(), st.integers(), st.sampled_from(["terminal", "low_q", "random"]))
def test_without_phrases_there_are_steps_and_jumps_only(tree, seed, merge):
    bare = LinearizeSection(direct=2, search=4, max_wrong=3, positive_share=1.0, phrases=False, merge=merge)
    rng = Random(seed)
    for walk in walks(tree, rng, bare):
        segments = clone(tree, walk, rng, bare)
        assert {segment.kind for segment in segments} <= {"step", "jump"}
        assert [segment.node for segment in segments] == walk.nodes[1:], "every position keeps its node"
        text = join(segments)
        assert not any(phrase in text for phrase in chat.RESERVED)
        assert extract_answer(text) == tree.nodes[walk.nodes[-1]].answer


@settings(deadline=None)
@given(forest.trees(), st.integers(), st.sampled_from(["low_q", "random"]))
def test_a_bad_verdict_is_on_what_is_left_and_praise_never_is(tree, seed, merge):
    options = LinearizeSection(direct=1, search=4, max_wrong=3, positive_share=1.0, merge=merge)
    rng = Random(seed)
    for walk in walks(tree, rng, options):
        segments = clone(tree, walk, rng, options)
        bad = [segment.node for segment in segments if segment.text == chat.VERDICT_BAD]
        good = [segment.node for segment in segments if segment.text == chat.VERDICT_GOOD]
        assert bad == list(walk.wrong)
        assert not set(bad) & set(good)
