"""The trees of the cloning benchmark are what its docstring says, or its number says nothing."""

from benchmarks.cloning import clone, grown, measure
from processors.linearize import terminals
from schemas.codec import encode
from schemas.settings import Settings


def test_the_trees_are_those_of_a_search() -> None:
    trees = [grown(seed) for seed in range(20)]
    assert len({encode(tree) for tree in trees}) == 20
    assert encode(grown(3)) == encode(trees[3])
    for tree in trees:
        assert 60 <= len(tree.nodes) <= 251
        assert 4 <= max(node.depth for node in tree.nodes) <= 10
        correct, wrong = terminals(tree)
        assert correct
        assert len(wrong) >= 2
    told = list(clone(trees, ["s"] * 20, Settings()))
    assert len(told) == 80
    assert {trace.arm for trace in told} == {"direct", "search"}


def test_a_run_measures_every_value() -> None:
    trees = [grown(seed) for seed in range(2)]
    values = measure([encode(tree) for tree in trees], trees)
    assert values["traces_per_tree"] == 4
    assert all(value > 0 for value in values.values())
