"""Questions about the search that a person asks: each is one SQL query over the tables, with a known answer here."""

from pathlib import Path

import pyarrow as pa
import pytest

from deploy import sql
from processors.dataset import Datasets, app_id
from processors.linearizer import traces
from processors.nodes import node_rows
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.search_settings import LinearizeSection
from schemas.settings import Settings
from schemas.tables import TABLES

LED_TO_AN_ANSWER = """
select source, text, q, visits from nodes
where q < 0.2 and visits > 0 and parent >= 0 and path_correct
order by q, id
"""
"""Which steps had Q under 0.2 and still led to the answer: a correct terminal lies below them in their tree. An adopted
step has no Q (visits = 0)."""

TOLD_AS_THE_ANSWER = """
with recursive way as (
    select t.id as trace, n.tree_id, n._sha, n.id, n.parent, n.text, n.q, n.visits
    from traces t join nodes n on n.tree_id = t.tree_id and n._sha = t.tree_sha and n.id = t.walk[-1]
    union all
    select w.trace, n.tree_id, n._sha, n.id, n.parent, n.text, n.q, n.visits
    from way w join nodes n on n.tree_id = w.tree_id and n._sha = w._sha and n.id = w.parent
)
select tree_id, text, q, visits, count(*) as traces from way
where q < 0.2 and visits > 0 and parent >= 0
group by all order by q, text
"""
"""The same of the steps on the final path of a trace: what was told as the way to the answer."""

FALL_BACKS = """
select arm, sum(fallbacks) / sum(rewrites) as rate from traces where rewriter = 'model' group by arm order by arm
"""
FALL_BACK_REASONS = """
select reason, count(*) as times from (select unnest(fallback_reasons) as reason from traces)
group by reason order by times desc, reason
"""


def node(number, parent, text, verdict="", **other):
    answer = text.removeprefix("Answer: ") if verdict else ""
    fields = {"depth": 0, "token_ids": [], "terminal": bool(verdict), "verdict": verdict, "answer": answer, **other}
    return m.Node(id=number, parent=parent, text=text, **fields)


PROBLEM = m.Problem(id="p", question="?", answer="7", source="test", grader="numeric")
NODES = [
    node(0, -1, "", visits=9, q=0.1),
    node(1, 0, "low, and it led there", visits=8, q=0.1),
    node(2, 1, "lower, and it did not", visits=2, q=0.0),
    node(3, 2, "Answer: 5", "wrong", visits=1),
    node(4, 1, "low too, and it did", visits=5, q=0.19),
    node(5, 4, "Answer: 7", "correct", visits=1, q=1.0),
    node(6, 0, "not low, and it led there", visits=3, q=0.2),
    node(7, 6, "adopted: it has no Q", adopted=True),
    node(8, 7, "Answer: 7.0", "correct", q=1.0, adopted=True, votes=8, votes_yes=0),
]
TREE = m.Tree(
    id="t", problem=PROBLEM, nodes=NODES, policy_version=0, policy_sha="", seed=0, iterations=1, generated_tokens=1,
    prompt_tokens=1, requests=1, seconds=1.0, solved=True,
)  # fmt: skip


@pytest.fixture
def settings(make_settings):
    made = make_settings()
    datasets = Datasets(Path(made.factory.data) / "datasets")
    datasets.create()
    sha = content_sha(encode(TREE))
    told = [one for one in traces(TREE, sha, Settings(linearize=LinearizeSection())) if isinstance(one, m.Trace)]
    assert [one.arm for one in told] == ["direct", "search"]
    counts = {"rewriter": "model", "rewrites": 4, "fallbacks": 3, "fallback_reasons": ["numbers", "drift", "numbers"]}
    told[1] = m.Trace(**{name: getattr(told[1], name) for name in m.Trace.__struct_fields__} | counts)

    def keep(table, batches):
        rows = pa.Table.from_batches(batches, schema=TABLES[table])
        datasets.append(table, rows, {app_id(table, "u", 0): len(batches)})

    def place(offset, sha="s"):
        return Place(topic="x", topic_id="u", partition=0, offset=offset, time_ms=0, sha=sha)

    keep("trees", [message_batch(TREE, place(1, sha), TABLES["trees"])])
    keep("nodes", [node_rows(message_batch(TREE, place(1, sha), TABLES["trees"]))])
    keep("traces", [message_batch(one, place(at + 1), TABLES["traces"]) for at, one in enumerate(told)])
    return made


def asked(settings, query):
    return [tuple(row.values()) for row in sql.query(settings, query).to_pylist()]


def test_which_steps_had_a_low_q_and_still_led_to_the_answer(settings):
    assert asked(settings, LED_TO_AN_ANSWER) == [
        ("test", "low, and it led there", 0.1, 8),
        ("test", "low too, and it did", 0.19, 5),
    ]


def test_which_of_them_were_told_as_the_way_to_the_answer(settings):
    assert asked(settings, TOLD_AS_THE_ANSWER) == [
        ("t", "low, and it led there", 0.1, 8, 2),
        ("t", "low too, and it did", 0.19, 5, 2),
    ]


def test_the_rate_of_fall_backs_and_their_reasons(settings):
    assert asked(settings, FALL_BACKS) == [("search", 0.75)]
    assert asked(settings, FALL_BACK_REASONS) == [("numbers", 2), ("drift", 1)]
