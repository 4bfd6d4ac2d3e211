"""Trees for testing words: built by hand, or drawn by hypothesis with every oddity a search can leave behind."""

import json
from random import Random
from typing import Any

from hypothesis import strategies as st

from schemas.messages import Node, Problem, Tree, content_id

GOLD = 7


def problem(answer: str = str(GOLD), grader: Any = "numeric", metadata: str = "", index: int = 0) -> Problem:
    question = f"What is it, number {index}?"
    key = content_id("test", question, answer)
    return Problem(id=key, question=question, answer=answer, grader=grader, source="test", metadata=metadata)


def countdown(numbers: list[int], target: int) -> Problem:
    return problem("", "countdown", json.dumps({"numbers": numbers, "target": target}))


def tree(nodes: list[Node], asked: Problem | None = None, strategy: str = "mcts") -> Tree:
    asked = asked or problem()
    return Tree(
        id=content_id(asked.id, 0), problem=asked, nodes=nodes, strategy=strategy, policy_version=0, policy_sha="s",
        seed=0, iterations=1, generated_tokens=11, prompt_tokens=5, requests=1, seconds=0.1, solved=True,
    )  # fmt: skip


def node(number: int, parent: int, text: str = "", verdict: str = "", **fields: Any) -> Node:
    """A node; with a verdict it is terminal and its answer is what its text says."""
    answer = text.removeprefix("Answer: ") if verdict else ""
    values: dict[str, Any] = {"depth": 0, "token_ids": [1], "terminal": bool(verdict), "answer": answer, **fields}
    return Node(id=number, parent=parent, text=text, verdict=verdict, **values)


def example() -> Tree:
    """root -> 1 (high Q) -> {2 wrong, 3 wrong, 4 correct}; root -> 5 -> 6 wrong with the answer of 2."""
    return tree(
        [
            node(0, -1),
            node(1, 0, "Use 3, 4: 3 + 4 = 7", visits=3, q=0.9),
            node(2, 1, "Answer: 5", "wrong"),
            node(3, 1, "Answer: 6", "wrong"),
            node(4, 1, "Answer: 7", "correct"),
            node(5, 0, "Three plus four is eight.", visits=2, q=0.1),
            node(6, 5, "Answer: 5.0", "wrong"),
        ]
    )


def trees(largest: int = 40) -> st.SearchStrategy[Tree]:
    """Any shape; leaves carry any verdict and few different answers, some of them dressed-up golds."""
    return st.builds(grown, st.integers(1, largest), st.integers(0, 1 << 30))


def grown(size: int, seed: int) -> Tree:
    rng = Random(seed)
    reach = rng.choice([1, 3, 8, 40])
    parents = [-1, *(rng.randint(max(0, i - reach), i - 1) for i in range(1, size))]
    inner = set(parents)
    nodes = []
    for number, parent in enumerate(parents):
        if number and number not in inner and rng.random() < 0.8:
            nodes.append(leaf(rng, number, parent))
        else:
            text = f"Use {number} to make {GOLD}: {number} + 0 = {number}" if number else ""
            nodes.append(node(number, parent, text, visits=rng.randint(0, 3), q=rng.choice([0.0, 0.5, 0.8, 1.0])))
    return tree(nodes, strategy=rng.choice(["mcts", "mcts", "mcts", "best_of_n"]))


def leaf(rng: Random, number: int, parent: int) -> Node:
    verdict = rng.choice(["correct", "correct", "wrong", "wrong", "wrong", "unparsable", "timeout"])
    answers = {"correct": ["7", "7.0", "14/2"], "wrong": ["5", "5.0", "6", "-7", "1/2", "0.5", "21/3"]}
    said = rng.choice(answers.get(verdict, ["?"]))
    votes = rng.choice([0, 0, 8])
    yes = rng.choice([votes, votes, 0])
    return node(number, parent, f"Answer: {said}", verdict, votes=votes, votes_yes=yes, visits=1, q=1.0)
