"""The tree that the search grows: which node to expand next (PUCT, widening) and how values go up. No sampling here.

Kept apart from the order of requests (mcts.py) so that each formula stands alone and is tested with worked numbers.
"""

import math
from dataclasses import dataclass, field

from processors.steps import Step
from schemas.messages import Node
from schemas.search_settings import SearchSection


@dataclass(slots=True)
class Branch:
    """A node while it grows; the fields are Node's, and what only the search needs."""

    id: int
    parent: "Branch | None"
    depth: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    prior: float = 1.0
    visits: int = 0
    q: float = 0.0
    value: float = 0.0
    rollouts: int = 0
    rollouts_correct: int = 0
    terminal: bool = False
    answer: str = ""
    verdict: str = ""
    votes: int = 0
    votes_yes: int = 0
    merged: int = 1
    cut: bool = False
    adopted: bool = False
    """Taken from a rollout: in the tree for linearization, but no part of selection and values."""
    length: int = 0
    """Tokens of its path, the prompt left out."""
    passes: int = 0
    """Iterations whose selection reached it."""
    expansions: int = 0
    spent: bool = False
    """An expansion brought nothing new: it is not sampled again."""
    children: list["Branch"] = field(default_factory=list)

    def freeze(self) -> Node:
        """The message of this node."""
        parent = -1 if self.parent is None else self.parent.id
        values = {name: getattr(self, name) for name in Node.__struct_fields__ if name != "parent"}
        return Node(parent=parent, **values)

    def path(self) -> list["Branch"]:
        """The nodes from the root to this one, both included."""
        up: list[Branch] = []
        node: Branch | None = self
        while node is not None:
            up.append(node)
            node = node.parent
        return up[::-1]

    def child(self, text: str) -> "Branch | None":
        """The child with this text; siblings' texts are distinct."""
        return next((child for child in self.children if child.text == text), None)


def priors(logprobs: list[float]) -> list[float]:
    """pi(a|S) of siblings: softmax over their mean token log-probabilities ([ours])."""
    if not logprobs:
        return []
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]


def puct(child: Branch, parent_visits: int, c_puct: float) -> float:
    """Q(S,a) + c_puct * pi(a|S) * sqrt(N(S)) / (1 + N(S,a)); N(S,a) is the visits of the child that a leads to."""
    return child.q + c_puct * child.prior * math.sqrt(parent_visits) / (1 + child.visits)


def backup(new: Branch) -> None:
    """Carry the value of a node that was just evaluated to the root.

    On every state S of its path, the node itself included: N(S) += 1. Then, from the node upwards, for the edge
    (S, a) that leads to S' with children i and own value R (mean of its rollouts, or its verdict):

        Q(S,a) = (sum_i Q_i N_i + R) / (sum_i N_i + 1)

    A leaf has no children: Q = R. Every new child of an expansion is backed up once, in order, so N counts the
    evaluated nodes of a subtree (itself included), and Q is the mean of R over them. Adopted nodes have N = 0.
    """
    for node in reversed(new.path()):
        node.visits += 1
        weight = sum(child.visits for child in node.children)
        total = sum(child.q * child.visits for child in node.children)
        node.q = (total + node.value) / (weight + 1)


class Arena:
    """All nodes of one tree, in order of their ids; parents come before children."""

    def __init__(self, settings: SearchSection, room: int) -> None:
        """`room`: the tokens that a path may have, the prompt left out."""
        self.settings = settings
        self.room = room
        self.root = Branch(id=0, parent=None, depth=0)
        self.nodes = [self.root]

    def add(self, parent: Branch, step: Step, *, adopted: bool = False) -> Branch:
        """A new child of `parent`."""
        child = Branch(id=len(self.nodes), parent=parent, depth=parent.depth + 1, text=step.text, cut=step.cut)
        child.token_ids, child.logprob = list(step.token_ids), step.logprob
        child.length = parent.length + len(step.token_ids)
        child.adopted, child.terminal = adopted, step.answers or step.dead
        child.prior = 0.0
        parent.children.append(child)
        self.nodes.append(child)
        return child

    def set_priors(self, parent: Branch) -> None:
        """Renew pi(a|S) over the children that take part in the search."""
        live = [child for child in parent.children if not child.adopted]
        for child, prior in zip(live, priors([child.logprob for child in live]), strict=True):
            child.prior = prior

    def can_sample(self, node: Branch) -> bool:
        """Whether steps may be sampled from this state (again): within depth and context, and not in vain before."""
        if node.terminal or node.adopted or node.spent or node.depth >= self.settings.depth:
            return False
        return node.length + self.settings.step_tokens <= self.room and (not node.expansions or self.settings.widen)

    def is_open(self, node: Branch) -> bool:
        """Whether anything in this node's subtree can still be expanded."""
        return self.can_sample(node) or any(self.is_open(child) for child in node.children)

    def wants_expansion(self, node: Branch) -> bool:
        """Progressive widening: the p-th pass may find a node that was sampled less than ceil(p^widen_power) times.

        With the default 0.5 a node is sampled on passes 1, 2, 5, 10, 17, ..., and whenever nothing below it is open.
        """
        if not self.can_sample(node):
            return False
        allowed = math.ceil(node.passes**self.settings.widen_power)
        return node.expansions < max(1, allowed) or not any(self.is_open(child) for child in node.children)

    def select(self) -> Branch | None:
        """The next node to expand, from the root by PUCT over open children; None when the tree is exhausted.

        Terminal nodes are left out: their value is exact, and a second visit would only spend an iteration.
        """
        node = self.root
        if not self.is_open(node):
            return None
        while True:
            node.passes += 1
            if self.wants_expansion(node):
                return node
            options = [child for child in node.children if self.is_open(child)]
            visits = node.visits
            node = max(options, key=lambda child: puct(child, visits, self.settings.c_puct))

    def adopt(self, parent: Branch, steps: list[Step]) -> Branch | None:
        """Put a rollout from `parent` into the tree as a chain of adopted nodes; its last step answers.

        Steps that a child has already (same text and tokens) are shared.

        Returns:
            The new terminal node, or None where the chain does not fit: too deep, a reflection or an empty step in it,
            another tokenisation of a child's text (the tail was not sampled from that state), a terminal on the way.
        """
        known = 0
        for step in steps:
            child = parent.child(step.text)
            if child is None:
                break
            if child.terminal or child.token_ids != step.token_ids:
                return None
            parent, known = child, known + 1
        rest = steps[known:]
        if not rest or parent.depth + len(rest) > self.settings.depth or not rest[-1].answers:
            return None
        if any(not step.text for step in rest):
            return None
        for step in rest:
            parent = self.add(parent, step, adopted=True)
        return parent
