"""Columns built a field at a time hold what rows built a message at a time would; what does not fit stays out alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.rows import Buffer, Place, Unwritable, Waiting, message_rows
from schemas import messages as m
from schemas.tables import META, TABLES, to_row

FLOATS = st.floats(allow_nan=False)
IDS = st.integers(-(2**63), 2**63 - 1)
NODES = st.lists(
    st.builds(m.Node, id=IDS, parent=IDS, depth=IDS, text=st.text(), token_ids=st.lists(IDS, max_size=3), q=FLOATS,
              terminal=st.booleans(), verdict=st.sampled_from(["", "correct", "wrong"])), max_size=4,
)  # fmt: skip
PROBLEMS = st.builds(m.Problem, id=st.text(), question=st.text(), answer=st.text(), source=st.text(), difficulty=FLOATS)
TREES = st.builds(
    m.Tree, id=st.text(), problem=PROBLEMS, nodes=NODES, policy_version=IDS, policy_sha=st.text(), seed=IDS,
    iterations=IDS, generated_tokens=IDS, prompt_tokens=IDS, requests=IDS, seconds=FLOATS, solved=st.booleans(),
)  # fmt: skip
LETTERS = st.builds(m.DeadLetter, id=st.text(), stage=st.text(), topic=st.text(), error=st.text(), value=st.binary())
ROLLOUTS = st.builds(
    m.Rollout, token_ids=st.lists(IDS, max_size=2), logprobs=st.lists(FLOATS, max_size=2), finish=st.just("stop"),
    spans=st.lists(st.builds(m.Span, version=IDS, sha=st.text(), start=IDS, stop=IDS), max_size=2), text=st.text(),
)  # fmt: skip
GROUPS = st.builds(
    m.RolloutGroup, id=st.text(), problem=PROBLEMS, round=IDS, prompt_ids=st.lists(IDS, max_size=2),
    rollouts=st.lists(ROLLOUTS, max_size=2),
)  # fmt: skip


def place(offset, time_ms=1_700_000_000_123):
    return Place(topic="x", topic_id="u", partition=3, offset=offset, time_ms=time_ms, sha=f"sha{offset}")


def problem(name, index=0):
    return m.Problem(id=name, question="q", answer="a", source="s", index=index)


@settings(deadline=None, max_examples=40)
@given(st.one_of(*(st.lists(kind, min_size=1, max_size=3) for kind in (TREES, LETTERS, GROUPS))))
def test_the_columns_of_messages_are_their_rows(messages):
    schema = TABLES[{m.Tree: "trees", m.DeadLetter: "dead_letters", m.RolloutGroup: "rollouts"}[type(messages[0])]]
    rows = message_rows(messages, [place(at) for at in range(len(messages))], schema).to_pylist()
    assert [{name: row[name] for name in row if name not in META.names} for row in rows] == list(map(to_row, messages))
    assert [(row["_partition"], row["_offset"], row["_sha"]) for row in rows] == [
        (3, at, f"sha{at}") for at in range(len(rows))
    ]


@pytest.mark.parametrize("time_ms", [-1, 0, 10**18])
def test_a_records_time_may_be_anything(time_ms):
    (row,) = message_rows([problem("p")], [place(0, time_ms)], TABLES["problems"]).to_pylist()
    assert 1970 <= row["_time"].year <= 9999


def test_what_does_not_fit_stays_out_alone_and_its_id_is_new_again():
    buffer = Buffer(TABLES["problems"], {}, {})
    for at, (name, index) in enumerate((("p0", 0), ("p1", 2**70), ("p2", 2))):
        assert buffer.judge("app", at, name, f"sha{at}") == "new"
        assert not buffer.due(name)
        buffer.add(Waiting(problem(name, index), place(at), None), 10)
    assert buffer.due("p1"), "another copy must be judged by whether this one fits"
    ((bad, error),) = buffer.convert()
    assert (bad.message.id, type(error)) == ("p1", Unwritable)
    assert buffer.judge("app", 3, "p1", "sha3") == "new"
    assert buffer.judge("app", 4, "p0", "sha0") == "copy"
    assert buffer.judge("app", 5, "p0", "other") == "losing"
    rows, offsets = buffer.hand_over()
    assert (rows["id"].to_pylist(), offsets) == (["p0", "p2"], {"app": 5})
    assert buffer.judge("app", 5, "p0", "sha0") == "copy", "it is not committed yet"
    buffer.done(offsets)
    assert buffer.judge("app", 5, "p0", "sha0") == "covered"
