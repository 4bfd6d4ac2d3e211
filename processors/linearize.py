"""Algorithm 1 of ASTRO: a search tree as walks that fail first and succeed last. Pure; `rng` makes every choice.

    Psi, Lambda = DFS(root)                 # correct and incorrect terminal nodes
    Psi'        = the nodes of Psi that pass the self-evaluation (unanimous votes; no votes = no filter)
    n*          = one of Psi', at random
    L_k         = k incorrect terminals with pairwise distinct answers, at random
    for n in L_k + [n*]: append the path root..n without the nodes already emitted, re-inserting first the common
                         ancestor where the new suffix does not follow the last node (that position is a backtrack)

Departures, all ours: answers are distinct when they differ as numbers or normalised strings (answers.answer_key), not
as text; the answers are sampled, then a terminal of each, so that a frequent mistake is not preferred; only terminals
judged 'wrong' count as incorrect, never the unreadable or timed out; a problem gives fewer walks where it holds fewer
different ones; and L_k is put into an order of a depth-first search that takes the child towards n* last: in another
order the common ancestor with what was emitted need not be an ancestor of the last node (a wrong one in A, a wrong one
in B, the end in A), and the walk would jump sideways or tell steps twice.

Ablations (settings.merge, ours): a wrong branch may also be left before its terminal, at a node of low Q or at any
node, but never at one that the end lies below: leaving it would be no going back. Everything else stays as above.
"""

from itertools import pairwise
from random import Random
from typing import Literal

import msgspec

from processors.answers import answer_key
from schemas.messages import Arm, Node, Tree
from schemas.search_settings import LinearizeSection

TRIES = 8
"""Draws for each search walk before it is taken that there is no other."""


class BadTree(ValueError):
    """The nodes are not a tree in order: ids 0..n-1, each parent before its children."""


class Position(msgspec.Struct, frozen=True):
    """One place of a walk: forward to a child of the previous node, or back to an ancestor of it."""

    node: int
    kind: Literal["forward", "backtrack"] = "forward"


class Walk(msgspec.Struct, frozen=True):
    """A walk from the root to a correct terminal, with the nodes in `wrong` left in that order on the way."""

    arm: Arm
    positions: tuple[Position, ...]
    wrong: tuple[int, ...] = ()

    @property
    def nodes(self) -> list[int]:
        """The node ids in order, returns included."""
        return [position.node for position in self.positions]

    @property
    def backtracks(self) -> int:
        """How often it goes back."""
        return sum(position.kind == "backtrack" for position in self.positions)


def check(tree: Tree) -> None:
    """Refuse nodes that are no tree.

    Raises:
        BadTree: with the place.
    """
    for place, node in enumerate(tree.nodes):
        low, high = (-1, -1) if place == 0 else (0, place - 1)
        if node.id != place or not low <= node.parent <= high:
            raise BadTree(f"tree {tree.id}: node {node.id} with parent {node.parent} at place {place}")
    if not tree.nodes:
        raise BadTree(f"tree {tree.id}: no nodes")


def terminals(tree: Tree) -> tuple[list[Node], list[Node]]:
    """Psi and Lambda: the correct and the wrong terminals, in the order of a depth-first search."""
    children: list[list[int]] = [[] for _ in tree.nodes]
    for node in tree.nodes[1:]:
        children[node.parent].append(node.id)
    correct: list[Node] = []
    wrong: list[Node] = []
    stack = [0]
    while stack:
        node = tree.nodes[stack.pop()]
        stack.extend(reversed(children[node.id]))
        if node.terminal and not children[node.id]:
            if node.verdict == "correct":
                correct.append(node)
            elif node.verdict == "wrong" and node.answer:
                wrong.append(node)
    return correct, wrong


def passes_votes(node: Node, wanted: int = 0) -> bool:
    """Psi': whether a correct solution had all its votes and they were unanimous (wanted 0, none cast: no filter)."""
    return node.votes >= wanted and node.votes_yes == node.votes


def votes_wanted(tree: Tree) -> int:
    """How many votes each solution was to get: a search that ran out of time has given some of them none."""
    return int(msgspec.json.decode(tree.settings).get("votes", 0)) if tree.settings else 0


def is_low(node: Node, settings: LinearizeSection) -> bool:
    """Whether a step's Q says that its branch is not worth going on with (settings.low_q, believed from visits on)."""
    inner = node.parent >= 0 and not node.terminal
    return inner and node.visits >= settings.low_q_visits and node.q <= settings.low_q


def likelihood(tree: Tree, node: int) -> float:
    """Mean log-probability (nats a token) of the path to a node: which of N correct solutions is the best one."""
    steps = [tree.nodes[step] for step in path(tree, node)]
    tokens = sum(len(step.token_ids) for step in steps)
    return sum(step.logprob * len(step.token_ids) for step in steps) / max(tokens, 1)


def path(tree: Tree, node: int) -> list[int]:
    """The node ids from the root to `node`."""
    ids = []
    while node >= 0:
        ids.append(node)
        node = tree.nodes[node].parent
    return ids[::-1]


def in_order(tree: Tree, fails: list[int], end: int) -> list[int]:
    """The terminals in a depth-first order that takes children as `fails` first meets them, and `end`'s last."""
    last = dict.fromkeys(path(tree, end), len(fails))
    met = {node: place for place in reversed(range(len(fails))) for node in path(tree, fails[place])}
    return sorted(fails, key=lambda fail: [last.get(node, met[node]) for node in path(tree, fail)])


def visit(tree: Tree, targets: list[int]) -> tuple[Position, ...]:
    """The walk through these terminals: the loop of Algorithm 1."""
    positions: list[Position] = []
    emitted: set[int] = set()
    for target in targets:
        suffix = [node for node in path(tree, target) if node not in emitted]
        if positions and suffix:
            ancestor = tree.nodes[suffix[0]].parent
            if ancestor != positions[-1].node:
                positions.append(Position(ancestor, "backtrack"))
        positions += [Position(node) for node in suffix]
        emitted.update(suffix)
    return tuple(positions)


def walks(tree: Tree, rng: Random, settings: LinearizeSection) -> list[Walk]:
    """Up to settings.direct direct walks, then up to settings.search search walks; all different, possibly none.

    Raises:
        BadTree: where the nodes are not a tree.
    """
    check(tree)
    correct, wrong = terminals(tree)
    if settings.vote_filter:
        correct = [node for node in correct if passes_votes(node, votes_wanted(tree))]
    if not correct:
        return []
    arm: Arm = "best_of_n" if tree.strategy == "best_of_n" else "direct"
    ends = rng.sample(correct, min(settings.direct, len(correct)))
    if arm == "best_of_n":
        ends = sorted(correct, key=lambda node: likelihood(tree, node.id), reverse=True)[: settings.direct]
    found = [Walk(arm, visit(tree, [end.id])) for end in ends]
    if arm == "direct":
        found += _search_walks(tree, correct, _by_answer(tree, correct, wrong), rng, settings)
    return found


def _by_answer(tree: Tree, correct: list[Node], wrong: list[Node]) -> list[list[int]]:
    """The wrong terminals grouped by answer; an answer that equals the gold one or a correct one is left out."""
    right = {answer_key(answer) for answer in {tree.problem.answer, *(node.answer for node in correct)}}
    groups: dict[str, list[int]] = {}
    for node in wrong:
        groups.setdefault(answer_key(node.answer), []).append(node.id)
    return [ids for key, ids in groups.items() if key not in right]


def _search_walks(
    tree: Tree, correct: list[Node], wrong: list[list[int]], rng: Random, settings: LinearizeSection
) -> list[Walk]:
    least, most = settings.min_wrong, min(settings.max_wrong, len(wrong))
    found: dict[tuple[int, ...], Walk] = {}
    for _ in range(settings.search * TRIES if least <= most else 0):
        if len(found) == settings.search:
            break
        end = rng.choice(correct).id
        fails = [rng.choice(ids) for ids in rng.sample(wrong, rng.randint(least, most))]
        positions = visit(tree, [*in_order(tree, _left(tree, fails, end, rng, settings), end), end])
        left = tuple(before.node for before, after in pairwise(positions) if after.kind == "backtrack")
        if len(left) >= least:  # branches that are left before their terminals can be one branch
            found.setdefault(tuple(position.node for position in positions), Walk("search", positions, left))
    return list(found.values())


def _left(tree: Tree, fails: list[int], end: int, rng: Random, settings: LinearizeSection) -> list[int]:
    """The node where the branch of each wrong terminal is left: itself, or one between it and the path to the end."""
    if settings.merge == "terminal":
        return fails
    ends = set(path(tree, end))
    left: list[int] = []
    for fail in fails:
        branch = [tree.nodes[node] for node in path(tree, fail) if node not in ends]
        inner = [node for node in branch if node.id != fail and node.text.strip()]
        if settings.merge == "low_q":
            inner = [node for node in inner if is_low(node, settings)]
        left.append(rng.choice([*(node.id for node in inner), fail]))
    return left
