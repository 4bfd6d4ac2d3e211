"""Messages: ids, bytes and rows keep what they are given."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import messages as m
from schemas.codec import BadMessage, content_sha, decode, encode
from schemas.tables import TABLES, from_row, message_schema, table_schema, to_row
from schemas.topics import BY_NAME, TOPICS, message_id, message_key

PROBLEM = m.Problem(id="p1", question="1 + 1?", answer="2", source="test")


@given(st.lists(st.text()), st.lists(st.text()))
def test_content_ids_of_different_parts_differ(left: list[str], right: list[str]) -> None:
    assert (m.content_id(*left) == m.content_id(*right)) == (left == right)


def test_a_problem_is_keyed_by_its_id_and_a_tree_by_its_problem() -> None:
    tree = m.Tree(
        id="t1", problem=PROBLEM, nodes=[], policy_version=0, policy_sha="s", seed=1, iterations=0,
        generated_tokens=0, prompt_tokens=0, requests=0, seconds=0.0, solved=False,
    )  # fmt: skip
    assert message_key(PROBLEM) == message_key(tree) == b"p1"
    assert message_id(tree) == "t1"


def test_every_topic_has_a_table_and_nodes_are_one_more() -> None:
    assert set(TABLES) == {topic.table for topic in TOPICS} | {"nodes"}
    assert BY_NAME["dead.letters"].table == "dead_letters"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b'{"id": 3}', b"[" * 100_000, encode(PROBLEM)[:-2]])
def test_bytes_that_are_no_message_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadMessage, match="not a Problem"):
        decode(data, m.Problem)


@given(
    st.builds(
        m.DeadLetter,
        id=st.text(),
        stage=st.text(),
        topic=st.text(),
        error=st.text(),
        key=st.binary(),
        value=st.binary(),
        offset=st.integers(-(2**63), 2**63 - 1),
        time=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_a_dead_letter_keeps_its_bytes_on_the_wire_and_in_a_row(letter: m.DeadLetter) -> None:
    data = encode(letter)
    assert decode(data, m.DeadLetter) == letter
    row = pa.Table.from_pylist([to_row(letter)], schema=message_schema(m.DeadLetter)).to_pylist()[0]
    assert content_sha(encode(from_row(row, m.DeadLetter))) == content_sha(data)


def test_the_metadata_columns_follow_the_fields() -> None:
    names = table_schema(m.Problem).names
    assert names[: len(m.Problem.__struct_fields__)] == list(m.Problem.__struct_fields__)
    assert names[-7:] == ["_topic", "_topic_id", "_partition", "_offset", "_time", "_schema", "_sha"]
