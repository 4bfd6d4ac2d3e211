"""The rows of `nodes`, made from rows of `trees` as columns: Python objects would cost several times that.

A tree's row holds its nodes as a list; this is that list laid flat, with what the tree says beside each node.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import META, TABLES


def nodes_of(trees: pa.Table) -> pa.Table:
    """A row for each node of each tree; in few large steps, so that a thread beside this one keeps the interpreter."""
    return pa.Table.from_batches(map(node_rows, trees.combine_chunks().to_batches()), schema=TABLES["nodes"])


def node_rows(trees: pa.RecordBatch) -> pa.RecordBatch:
    """A row for each node of each tree.

    Args:
        trees: rows of `trees`.
    """
    lists: Any = trees.column("nodes")
    problem: Any = trees.column("problem")
    tree_of: Any = pc.list_parent_indices(lists)
    shared = {
        "tree_id": trees.column("id"),
        "problem_id": pc.struct_field(problem, "id"),
        "source": pc.struct_field(problem, "source"),
        **{name: trees.column(name) for name in ("policy_version", *META.names)},
    }
    nodes = dict(zip([field.name for field in lists.type.value_type], lists.flatten().flatten(), strict=True))
    right: Any = pc.and_(nodes["terminal"], pc.equal(nodes["verdict"], pa.scalar("correct")))
    told = (column.to_numpy(zero_copy_only=False) for column in (tree_of, nodes["id"], nodes["parent"], right))
    found = {name: array.take(tree_of) for name, array in shared.items()} | nodes
    found["path_correct"] = pa.array(_paths_correct(*told))
    return pa.record_batch([found[name] for name in TABLES["nodes"].names], schema=TABLES["nodes"])


def _paths_correct(tree_of: Any, ids: Any, parents: Any, right: Any) -> Any:  # noqa: ANN401 - numpy's arrays
    """For each node: does a correct terminal lie in its subtree, itself included?

    Args:
        tree_of: the number of its tree, rising; int64 of shape (nodes,), as all of them.
        ids: its id, which only its tree knows.
        parents: its parent's id. One that is not before it in the same tree is none.
        right: whether it is a correct terminal; bool.

    Returns:
        bool of shape (nodes,).
    """
    above = _above(tree_of, ids, parents)
    correct = right.copy()
    climbing = np.flatnonzero(correct)
    while climbing.size:
        climbing = np.unique(above[climbing])
        climbing = climbing[climbing >= 0]
        climbing = climbing[~correct[climbing]]
        correct[climbing] = True
    return correct


def _above(tree_of: Any, ids: Any, parents: Any) -> Any:  # noqa: ANN401 - numpy's arrays
    """The place of each node's parent, -1 = none; of two nodes with one id in a tree, the later is meant."""
    # An id is known by its rank among all, so that (tree, id) is one number and all parents are found by one search.
    known, of_id = np.unique(ids, return_inverse=True)
    of_parent = np.searchsorted(known, parents).clip(max=max(len(known) - 1, 0))
    keys, wanted = tree_of * len(known) + of_id, tree_of * len(known) + of_parent
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys, wanted, side="right", sorter=order) - 1
    places = order[at.clip(min=0)] if len(ids) else at
    there = (known[of_parent] == parents) & (at >= 0) & (keys[places] == wanted) & (places < np.arange(len(ids)))
    return np.where(there, places, -1)
