"""The stage's pure part: what a tree becomes, always the same, and nothing is dropped without a word."""

import hashlib
import json

import forest
import msgspec
import pytest
from hypothesis import given, settings

from processors.linearizer import traces
from schemas.codec import encode
from schemas.messages import Filtered, Trace
from schemas.search_settings import LinearizeSection
from schemas.settings import FactorySection, Settings

SETTINGS = Settings(linearize=LinearizeSection(direct=1, search=3))


@settings(deadline=None)
@given(forest.trees())
def test_each_tree_gives_traces_or_one_reason(tree):
    made = traces(tree, "sha", SETTINGS)
    assert made
    if isinstance(made[0], Filtered):
        (row,) = made
        assert (row.stage, row.input_topic, row.input_id, row.tokens) == ("linearize", "trees", tree.id, 11)
        assert row.why in {"no correct terminal", "no correct terminal passed the votes"}
        return
    assert all(isinstance(trace, Trace) for trace in made)
    assert len({trace.id for trace in made}) == len(made)
    for trace in made:
        assert trace.problem == tree.problem
        assert (trace.tree_id, trace.tree_sha) == (tree.id, "sha")
        assert trace.text == "\n\n".join(segment.text for segment in trace.segments)
        assert trace.walk[0] == 0
        assert trace.backtracks == sum(segment.kind == "jump" for segment in trace.segments)
        assert len(trace.wrong_answers) == trace.backtracks


@settings(deadline=None)
@given(forest.trees())
def test_the_same_tree_gives_the_same_bytes_and_another_copy_other_ids(tree):
    first, second = ([encode(one) for one in traces(tree, "sha", SETTINGS)] for _ in range(2))
    assert first == second
    if isinstance(traces(tree, "sha", SETTINGS)[0], Trace):
        other = {trace.id for trace in traces(tree, "another sha", SETTINGS)}
        assert not other & {trace.id for trace in traces(tree, "sha", SETTINGS)}


def test_the_factory_seed_changes_the_choice():
    tree = forest.grown(40, 3)
    seeds = (msgspec.structs.replace(SETTINGS, factory=FactorySection(seed=seed)) for seed in range(20))
    assert len({tuple(encode(trace) for trace in traces(tree, "s", settings)) for settings in seeds}) > 1


def test_reasons():
    def why(verdict: str, **votes: int) -> str:
        nodes = [forest.node(0, -1), forest.node(1, 0, "Answer: 7", verdict, **votes)]
        (row,) = traces(forest.tree(nodes), "s", SETTINGS)
        assert isinstance(row, Filtered)
        return row.why

    assert why("wrong") == "no correct terminal"
    assert why("timeout") == "no correct terminal"
    assert why("correct", votes=8, votes_yes=7) == "no correct terminal passed the votes"
    nothing = Settings(linearize=LinearizeSection(direct=0, search=3))
    nodes = [forest.node(0, -1), forest.node(1, 0, "Answer: 7", "correct")]
    (row,) = traces(forest.tree(nodes), "s", nothing)
    assert row.why == "no walk under these settings"


def digest(settings: Settings, *, ids: bool) -> tuple[int, str]:
    """How many traces 60 fixed trees give, and the sha256 of what they say."""
    said = hashlib.sha256()
    made = [one for seed in range(60) for one in traces(forest.grown(30, seed), "sha", settings)]
    found = [one for one in made if isinstance(one, Trace)]
    for one in found:
        words = [[segment.kind, segment.node, segment.text] for segment in one.segments]
        rest = [one.walk, words, one.text, one.backtracks, one.wrong_answers, one.arm]
        said.update(json.dumps([one.id, *rest] if ids else rest).encode())
    return len(found), said.hexdigest()


def test_the_defaults_give_what_they_gave_before_there_were_options():
    """Golden values of the first version, ids included: options must not move a walk, a word or an id."""
    first = "de8fa53381d8f6fdb27ce57f2c1537d1e689d955a77f8f3d674d302878009cf1"
    assert digest(Settings(), ids=True) == (136, first)
    more = Settings(linearize=LinearizeSection(direct=2, search=4, max_wrong=3))
    second = "b70557cf6a92bb0875e09757eab25301ac7dce176a153e3e2284b43886656797"
    assert digest(more, ids=False) == (190, second)


OPTIONS = [{"merge": "low_q"}, {"merge": "random"}, {"phrases": False}, {"min_wrong": 2}, {"vote_filter": False},
           {"rewriter": "model"}, {"direct": 2}]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_another_way_gives_other_ids_and_says_so(option):
    tree = forest.example()
    other = Settings(linearize=LinearizeSection(**option))
    plain, made = ([one for one in traces(tree, "sha", way) if isinstance(one, Trace)] for way in (Settings(), other))
    assert made
    assert not {one.id for one in plain} & {one.id for one in made}
    assert {(one.merge, one.phrases) for one in made} == {(other.linearize.merge, other.linearize.phrases)}


def test_a_branch_left_early_has_no_wrong_answer():
    way = Settings(linearize=LinearizeSection(direct=0, search=9, max_wrong=1, merge="low_q"))
    left = [one for one in traces(forest.example(), "sha", way) if isinstance(one, Trace) and one.walk[1:3] == [5, 0]]
    assert [(one.backtracks, one.wrong_answers) for one in left] == [(1, [])]
    assert all(one.text.startswith("Three plus four is eight.\n\nBut wait, are we") for one in left)


def test_reasons_when_the_votes_do_not_count():
    nodes = [forest.node(0, -1), forest.node(1, 0, "Answer: 7", "correct", votes=8, votes_yes=7)]
    way = Settings(linearize=LinearizeSection(direct=0, search=3, vote_filter=False))
    (row,) = traces(forest.tree(nodes), "s", way)
    assert isinstance(row, Filtered)
    assert row.why == "no walk under these settings"
