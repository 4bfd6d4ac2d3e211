"""Tables whose every text is hostile: markup, a script's end, control and bidirectional characters."""

from pathlib import Path

import msgspec
import pyarrow as pa
from tokenizers import Tokenizer

from processors.chat import resolve
from processors.dataset import Datasets, app_id
from processors.nodes import node_rows
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202e{{ 7*7 }}' \" &amp; done"

PROBLEM = m.Problem(id="problem1", question=f"Make 6 {EVIL}", answer=f"2*3{EVIL}", source=f"count{EVIL}")
OTHER = m.Problem(id="problem2", question="Make 7", answer="3+4", source="sums")


def node(number, parent, text, depth=1, **other):
    return m.Node(id=number, parent=parent, depth=depth, text=text, token_ids=[1, 2], **other)


NODES = [
    node(0, -1, "", 0, visits=9, q=0.5),
    node(1, 0, f"Let us add {EVIL}", q=0.1, visits=3, rollouts=4),
    node(2, 1, "Answer: 2+3", 2, terminal=True, verdict="wrong", answer=f"2+3{EVIL}"),
    node(3, 0, "Let us multiply", q=0.9, visits=5, prior=0.25),
    node(4, 3, "Answer: 2*3", 2, terminal=True, verdict="correct", answer="2*3", q=1.0, votes=8, votes_yes=7),
]


def tree(id_, problem, nodes=NODES, **other):
    fields = {"policy_version": 2, "policy_sha": "", "seed": 0, "iterations": 8, "generated_tokens": 1234}
    fields |= {"prompt_tokens": 0, "requests": 0, "seconds": 1.5, "solved": True, "stopped": "complete"}
    return m.Tree(id=id_, problem=problem, nodes=nodes, **(fields | other))


WALK = [0, 1, 2, 0, 3, 4]
SEARCH = m.Trace(
    id="trace-search", tree_id="tree1", tree_sha="sha-tree1", problem=PROBLEM, arm="search", walk=WALK,
    text="all of it",
    segments=[
        m.Segment(kind="step", node=1, text=f"Let us add {EVIL}"),
        m.Segment(kind="step", node=2, text="Answer: 2+3"),
        m.Segment(kind="reflection", node=2, text="But wait, are we right?"),
        m.Segment(kind="verdict", node=2, text="I'm not sure."),
        m.Segment(kind="jump", node=0, text="Let's go back to where we began"),
        m.Segment(kind="step", node=3, text="We multiply, in other words"),
        m.Segment(kind="step", node=4, text="Answer: 2*3"),
    ],
    backtracks=1, wrong_answers=[f"2+3{EVIL}"], rewriter="model", rewrites=2, fallbacks=1, fallback_reasons=["numbers"],
)  # fmt: skip
DIRECT = msgspec.structs.replace(
    SEARCH, id="trace-direct", arm="direct", walk=[0, 3, 4], backtracks=0, wrong_answers=[],
    segments=[m.Segment(kind="step", node=3, text="Let us multiply")],
)  # fmt: skip
EXAMPLE = m.Example(
    id="trace-direct", tree_id="tree1", trace_sha="sha-trace-direct", problem=PROBLEM, arm="direct", text="t",
    backtracks=0, verdict="correct", checks=["length", "ends_correct"],
)  # fmt: skip


TOKENIZER = Tokenizer.from_file(f"{resolve('tiny')}/tokenizer.json")


def rollout(text, version=3, of=""):
    """A rollout whose tokens after the fourth are all likely; they are those of another text where `of` is one."""
    ids = TOKENIZER.encode(of or text).ids
    likely = [-0.001, -0.2, -1.5, -7.0, *[-0.001] * len(ids)][: len(ids)]
    span = m.Span(version=version, sha="w", start=0, stop=len(ids))
    return m.Rollout(token_ids=ids, logprobs=likely, spans=[span], finish="stop", text=text)


def rewards(id_, verdicts, of=""):
    fields = {
        "id": id_,
        "problem": PROBLEM,
        "round": 1,
        "prompt_ids": [1],
        "rollouts": [rollout(EVIL, of=of), rollout("Use 5, 14, 3", 4, of)],
    }
    group = m.RolloutGroup(**fields, seconds=0.5)
    values = [1.0 if verdict == "correct" else -1.0 for verdict in verdicts]
    return group, m.RewardGroup(**fields, rollouts_sha="s", rewards=values, verdicts=verdicts, backtracks=[1, 0])


def step(number, trainer, rows):
    return m.TrainingStep(
        id=f"{trainer}:{number}", run=trainer, trainer=trainer, step=number, version=number + 4, loss=1.0 / number,
        lr=1e-3, grad_norm=1.0, tokens=100, rows=rows, rollouts=len(rows) * 2, reward=0.1 * number, time=100.0 * number,
    )  # fmt: skip


LETTER = m.DeadLetter(
    id="letter1", stage="verify", topic="traces", partition=3, offset=7, input_id="trace-x", key=b"k\xff",
    value=b'{"id": "<b>&\x00\xfe"}', error=f"bad {EVIL}", detail=f"Traceback {EVIL}", time=5.0,
)  # fmt: skip
LINE = m.DeadLetter(id="letter2", stage="produce", topic="", file="problems.jsonl", line=4, error="no question")


def evaluation(version):
    return m.Evaluation(
        id=f"e{version}", policy="policy", version=version, sha="w", trainer="rl", source="all", problems=10, samples=2,
        greedy=False, pass_at_1=0.1 * version, low=0.05, high=0.4, ks=[2], pass_at_k=[0.5], maj_at_k=[0.25], tokens=9.0,
        backtracks=0.5, unparsable=0.0,
    )  # fmt: skip


def everything():
    of_other_weights = rewards("group2", ["wrong", "wrong"], of="Use 1, 2, 3 to make 4")
    groups, graded = zip(rewards("group1", ["correct", "wrong"]), of_other_weights, strict=True)
    waits = msgspec.structs.replace(groups[0], id="group3", problem=OTHER)
    answers = m.Answers(id="answers1", asked="a", policy="policy", version=3, sha="w", trainer="rl", problem=PROBLEM,
                        texts=[EVIL], verdicts=["correct"], tokens=[3], backtracks=[0], finishes=["stop"])  # fmt: skip
    weights = [
        m.Weights(policy="policy", version=at, parent=at - 1, path="/nowhere", sha256="w", trainer="rl")
        for at in (3, 4)
    ]
    return [
        [PROBLEM, OTHER], [tree("tree1", PROBLEM), tree("tree2", OTHER, solved=False, stopped="budget")],
        [SEARCH, DIRECT], [EXAMPLE], [m.Prompt(id="group1", problem=PROBLEM, round=1, why=EVIL, pass_rate=0.25)],
        [*groups, waits], list(graded), weights, [answers], [evaluation(1), evaluation(2)],
        [step(1, "sft", ["trace-direct"]), step(2, "sft", ["trace-direct"]), step(1, "rl", ["group1"])],
        [
            m.Filtered(id="f1", stage="rl", input_topic="rewards", input_id="group2", why="all_equal", rollouts=2),
            m.Filtered(id="f2", stage="evaluate", input_topic="weights", input_id="3:w", why="refused"),
        ],
        [LETTER, LINE],
    ]  # fmt: skip


def write(datasets, messages, first=0):
    """Rows as a sink writes them; a tree's nodes, too."""
    table = BY_MESSAGE[type(messages[0])].table
    places = [
        Place(topic=table, topic_id="u", partition=0, offset=at, time_ms=at, sha=f"sha-{getattr(one, 'id', '')}")
        for at, one in enumerate(messages, first)
    ]
    batches = [message_batch(one, place, TABLES[table]) for one, place in zip(messages, places, strict=True)]
    datasets.append(table, pa.Table.from_batches(batches), {app_id(table, "u", 0): first + len(messages) - 1})
    if table == "trees":
        nodes = list(map(node_rows, batches))
        datasets.append("nodes", pa.Table.from_batches(nodes), {app_id("nodes", "u", 0): first + len(messages) - 1})


def fill(data):
    datasets = Datasets(Path(data) / "datasets")
    datasets.create()
    for messages in everything():
        write(datasets, messages)
    return datasets
