"""How many traces a second one core makes of trees: Algorithm 1 and the template's words, without broker and engine.

The trees are random, of the size and with the words of a search over school problems: 60 to 250 nodes, depth 4 to 10.
JSON-decoding the same trees in the same run is the yardstick, for it is the least that any reader of a tree must do.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

import msgspec

from benchmarks import report
from processors.linearizer import traces
from schemas.codec import content_sha, decode, encode
from schemas.messages import Node, Problem, Trace, Tree, content_id
from schemas.settings import Settings

TREES = 200
STEPS = (
    "First find how many {thing} there are in all. There are {a} boxes of {b}, so {a} * {b} = {c} {thing}.",
    "Use {a}, {b}: {a} + {b} = {c}",
    "Subtract the {a} that were given away from the total: {c} - {a} = {b} {thing} are left.",
    "Each of the {a} friends gets the same share of the {thing}, and {c} / {a} = {b}, so everyone has {b}.",
    "We know that the price went up by {a} percent, so the new price is {b} * 1.{a} = {c} dollars, tax included.",
    "Let x be the number of {thing}. Then {a}x + {b} = {c}, and we can subtract {b} from both sides.",
)
THINGS = ("crayons", "loaves of bread", "students", "tickets", "miles", "marbles", "eggs", "hours of work")


def grown(seed: int) -> Tree:
    """A random tree with at least one correct terminal and, as a rule, several wrong answers."""
    rng = Random(seed)
    size, deepest = rng.randint(60, 250), rng.randint(4, 10)
    gold = rng.randint(10, 999)
    question = f"{step(rng)} {step(rng)} How many {rng.choice(THINGS)} are there in the end?"
    problem = Problem(id=content_id("bench", seed), question=question, answer=str(gold), source="bench")
    nodes = [Node(id=0, parent=-1, depth=0, text="", token_ids=[], visits=size)]
    open_ = [0]
    while len(nodes) < size:
        parent = nodes[rng.choice(open_[-12:])]
        ends = parent.depth >= 2 and (parent.depth + 1 == deepest or rng.random() < 0.3)
        answer = str(gold if rng.random() < 0.4 else rng.randint(10, 999)) if ends or len(nodes) == 3 else ""
        nodes.append(node(rng, len(nodes), parent, answer, gold))
        open_ += [] if answer else [len(nodes) - 1]
    nodes.append(node(rng, len(nodes), nodes[open_[-1]], str(gold), gold))
    return Tree(
        id=content_id("tree", seed), problem=problem, nodes=nodes, policy_version=0, policy_sha="0" * 64, seed=seed,
        iterations=32, generated_tokens=size * 300, prompt_tokens=size * 200, requests=size * 8, seconds=1.0,
        solved=True, settings=msgspec.json.encode(Settings().search).decode(),
    )  # fmt: skip


def node(rng: Random, number: int, parent: Node, answer: str, gold: int) -> Node:
    """A child: a step, or a terminal where there is an answer."""
    text = f"{step(rng)}\nAnswer: {answer}" if answer else step(rng)
    right = answer == str(gold)
    return Node(
        id=number, parent=parent.id, depth=parent.depth + 1, text=text, logprob=-rng.random(), prior=rng.random(),
        token_ids=[rng.randrange(128_000) for _ in range(len(text) // 4)], visits=rng.randint(1, 30),
        q=rng.random() if not answer else float(right), value=rng.random(), rollouts=0 if answer else 8,
        terminal=bool(answer), answer=answer, verdict=("correct" if right else "wrong") if answer else "",
    )  # fmt: skip


def step(rng: Random) -> str:
    """A sentence of a solution."""
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    return rng.choice(STEPS).format(a=a, b=b, c=a * b, thing=rng.choice(THINGS))


def timed(work: Callable[[], int]) -> tuple[int, float]:
    """What it counted, and its processor seconds (of this one thread: other work on the machine does not count)."""
    began = time.thread_time()
    count = work()
    return count, time.thread_time() - began


def clone(trees: Iterable[Tree], shas: list[str], settings: Settings) -> Iterator[Trace]:
    """All traces of the trees, one tree at a time."""
    for tree, sha in zip(trees, shas, strict=True):
        yield from (one for one in traces(tree, sha, settings) if isinstance(one, Trace))


def decoded(data: list[bytes]) -> Iterator[Tree]:
    """The trees in the bytes, one at a time."""
    return (decode(one, Tree) for one in data)


def measure(data: list[bytes], trees: list[Tree]) -> dict[str, float]:
    """One run: traces/s, decoded trees/s, traces/s from bytes to bytes, and cloning's time over decoding's."""
    settings, shas = Settings(), [content_sha(one) for one in data]
    told, cloning_s = timed(lambda: sum(1 for _ in clone(trees, shas, settings)))
    read, decoding_s = timed(lambda: sum(len(tree.nodes) > 0 for tree in decoded(data)))
    sent, wire_s = timed(lambda: sum(len(encode(one)) > 0 for one in clone(decoded(data), shas, settings)))
    return {
        "traces_per_s": told / cloning_s,
        "decoded_trees_per_s": read / decoding_s,
        "wire_traces_per_s": sent / wire_s,
        "cloning_over_decoding_time": cloning_s / decoding_s,
        "traces_per_tree": told / read,
    }


def main() -> None:
    """Measure and write benchmarks/results/cloning.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trees, two runs")
    quick = parser.parse_args().quick
    trees = [grown(seed) for seed in range(TREES // 10 if quick else TREES)]
    data = [encode(tree) for tree in trees]
    runs = [measure(data, trees) for _ in range(2 if quick else 10)]
    values: dict[str, Sequence[float]] = {name: [run[name] for run in runs] for name in runs[0]}
    share = values.pop("cloning_over_decoding_time")
    sizes = [len(tree.nodes) for tree in trees]
    notes = [
        f"{len(trees)} trees of {min(sizes)} to {max(sizes)} nodes, about {sum(map(len, data)) // len(data)} bytes",
        "processor time of one thread; wire = decode the tree, linearize, clone, encode the traces",
    ]
    report.write("cloning", len(runs), values, {"cloning_over_decoding_time": sum(share) / len(share)}, notes)
    print(f"cloning: {sum(values['traces_per_s']) / len(runs):,.0f} traces/s")


if __name__ == "__main__":
    main()
