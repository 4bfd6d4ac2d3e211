"""The rows of nodes are what a reader with the trees before them would write, however wild the trees are."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.nodes import node_rows
from processors.rows import Place, message_rows
from schemas import messages as m
from schemas.tables import TABLES, to_row
from tests.processors.forest import problem, tree, trees

IDS = st.integers(-3, 5) | st.sampled_from([-(2**63), 2**63 - 1])
WILD = st.builds(
    m.Node, id=IDS, parent=IDS, depth=IDS, text=st.text(), token_ids=st.lists(IDS, max_size=3),
    terminal=st.booleans(), verdict=st.sampled_from(["", "correct", "wrong"]),
)  # fmt: skip
TREES = st.lists(st.builds(tree, st.lists(WILD, max_size=8), st.just(problem())) | trees(), min_size=1, max_size=4)


def rows_of(grown: list[m.Tree]) -> pa.RecordBatch:
    """As the sink has them when the nodes are made."""
    places = [
        Place(topic="trees", topic_id="u", partition=3, offset=at, time_ms=1_700_000_000_123, sha=f"sha{at}")
        for at in range(len(grown))
    ]
    return message_rows(grown, places, TABLES["trees"])


def path_correct(nodes: list[m.Node], at: int) -> bool:
    """By going down: is it a correct terminal, or is one of its children's?"""
    below = [
        child
        for child in range(at + 1, len(nodes))
        if max((place for place, node in enumerate(nodes) if node.id == nodes[child].parent), default=-1) == at
    ]
    here = nodes[at].terminal and nodes[at].verdict == "correct"
    return here or any(path_correct(nodes, child) for child in below)


@settings(deadline=None, max_examples=150)
@given(TREES)
def test_nodes_say_what_they_are_and_whose(grown):
    expected = [
        {
            **to_row(node), "tree_id": one.id, "problem_id": one.problem.id, "source": one.problem.source,
            "policy_version": one.policy_version, "_offset": at, "_sha": f"sha{at}", "_partition": 3,
            "path_correct": path_correct(one.nodes, place),
        }
        for at, one in enumerate(grown)
        for place, node in enumerate(one.nodes)
    ]  # fmt: skip
    rows = node_rows(rows_of(grown))
    assert rows.schema == TABLES["nodes"]
    found = rows.to_pylist()
    assert [{name: row[name] for name in want} for row, want in zip(found, expected, strict=True)] == expected


@given(st.lists(trees(6), min_size=2, max_size=5), st.data())
def test_some_rows_of_more_have_their_own_nodes(grown, data):
    rows = rows_of(grown)
    first = data.draw(st.integers(0, len(grown) - 1))
    apart = [node_rows(rows.slice(0, first)), node_rows(rows.slice(first))]
    assert pa.Table.from_batches(apart) == pa.Table.from_batches([node_rows(rows)])
