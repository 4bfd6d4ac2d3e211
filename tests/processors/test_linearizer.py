"""The stage's pure part: what a tree becomes, always the same, and nothing is dropped without a word."""

import forest
import msgspec
from hypothesis import given, settings

from processors.linearizer import traces
from schemas.codec import encode
from schemas.messages import Filtered, Trace
from schemas.settings import FactorySection, LinearizeSection, Settings

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
