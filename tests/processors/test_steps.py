"""Steps out of tokens: ends, cuts and splits, on a tokenizer with awkward pieces and on a real byte-level one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import PIECES, Said, Words

from processors.chat import STEP_END, Chat, resolve, states_answer
from processors.steps import final_text, read_step, split
from schemas.settings import PolicySection

WORDS = Words()


def said(*pieces: str, finish: str = "stop") -> Said:
    ids = [PIECES.index(piece) for piece in pieces]
    return Said(ids, [-float(i + 1) for i in range(len(ids))], finish)


def test_a_step_keeps_its_tokens_and_delimiter():
    step = read_step(said("a", " b", ".\n\n"), WORDS)
    assert step is not None
    assert (step.text, step.end, step.token_ids, step.logprob) == ("a b.", "delimiter", [1, 2, 6], -2.0)
    assert not step.answers
    assert not step.dead


def test_an_answer_is_terminal_however_it_ended():
    for end in ("", "\n\n"):
        step = read_step(said("Answer: ", "1", end), WORDS)
        assert step is not None
        assert step.answers
        assert not step.dead


def test_an_end_without_an_answer_is_dead():
    for sampled in (said("a", ""), said("a", " b", finish="length"), said("")):
        step = read_step(sampled, WORDS)
        assert step is not None
        assert step.dead


def test_an_empty_step_is_none():
    for sampled in (said("\n\n"), said("\n", "\n"), said("But wait", " b", "\n\n"), said("\n", finish="length")):
        assert read_step(sampled, WORDS) is None


def test_a_reflection_is_cut_with_its_tokens():
    step = read_step(said("a", "\n", "But wait", " b", "\n\n"), WORDS)
    assert step is not None
    assert (step.text, step.token_ids, step.cut, step.end) == ("a", [1, PIECES.index("\n\n")], True, "delimiter")
    assert step.logprob == -1.0


def test_a_reflection_after_an_answer_leaves_the_answer():
    step = read_step(said("Answer: ", "1", "\n", "But wait", finish="length"), WORDS)
    assert step is not None
    assert step.answers
    assert step.cut
    assert step.text == "Answer: 1"


def test_a_rollout_splits_at_blank_lines_and_ends_with_its_answer():
    steps = split(said("a", "\n", "\n", "\n", " b", ".\n\n", "Answer: ", "2", "\n\n", "a", ""), WORDS)
    assert [step.text for step in steps] == ["a", " b.", "Answer: 2"]
    assert [step.token_ids for step in steps] == [[1, 4, 4], [4, 2, 6], [7, 9, 5]]
    assert [step.end for step in steps] == ["delimiter"] * 3
    assert steps[0].logprob == -2.0


@given(st.lists(st.integers(1, len(PIECES) - 1), max_size=25), st.booleans())
def test_splitting_loses_no_token_before_the_answer(tokens, ended):
    ids = [*tokens, 0] if ended else tokens
    steps = split(Said(ids, [-1.0] * len(ids), "stop" if ended else "length"), WORDS)
    joined = [token for step in steps for token in step.token_ids]
    assert joined == ids[: len(joined)]
    answered = bool(steps) and steps[-1].answers
    assert answered or joined == ids
    assert not any(step.answers for step in steps[:-1])
    assert all(step.end == "delimiter" for step in steps[:-1])
    for step in steps[:-1]:
        body = WORDS.decode(step.token_ids).lstrip("\n")
        assert STEP_END in body
        assert STEP_END not in WORDS.decode(step.token_ids[:-1]).lstrip("\n")


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=20), st.sampled_from(["stop", "length"]))
def test_read_step_is_total_and_its_text_is_its_tokens(tokens, finish):
    step = read_step(Said(tokens, [-1.0] * len(tokens), finish), WORDS)
    if step is not None:
        assert WORDS.decode(step.token_ids).lstrip("\n").startswith(step.text)
        assert "But wait" not in step.text
        assert step.token_ids[: len(tokens)] == tokens[: len(step.token_ids)] or step.cut
        assert step.dead or step.answers or STEP_END in WORDS.decode(step.token_ids)


def test_the_graded_part_of_a_rollout():
    assert final_text("a\n\nAnswer: 1\n\nAnswer: 2") == "a\n\nAnswer: 1"
    assert final_text("a\n\nAnswer: 1\n\nBut wait, no\n\nAnswer: 2").endswith("Answer: 2")
    assert final_text("a\n\nb") == "a\n\nb"


@given(st.text(alphabet="ab:1\n Answer", max_size=60))
def test_the_graded_part_is_a_prefix_that_answers_iff_the_whole_does(text):
    part = final_text(text)
    assert text.startswith(part)
    assert states_answer(part) == any(states_answer(p) for p in text.split(STEP_END))


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(resolve("tiny"), PolicySection())


def test_the_tiny_tokenizer_splits_a_solution_token_for_token(chat):
    text = "Use 3, 5, 7 to make 22: 5 * 3 = 15\n\nUse 15, 7 to make 22: 15 + 7 = 22\n\nAnswer: 5 * 3 + 7"
    ids = [*chat.encode(text), chat.eos_id]
    steps = split(Said(ids, [-1.0] * len(ids), "stop"), chat)
    assert [step.text for step in steps] == text.split(STEP_END)
    assert [token for step in steps for token in step.token_ids] == ids
    assert [step.end for step in steps] == ["delimiter", "delimiter", "eos"]
    first = read_step(Said(steps[0].token_ids, [-1.0] * len(steps[0].token_ids), "stop"), chat)
    assert first == steps[0]


def test_the_tiny_tokenizer_cuts_a_reflection(chat):
    text = "Use 3, 5 to make 8: 5 + 3 = 8\nBut wait, are we solving the problem correctly so far?"
    ids = chat.encode(text)
    step = read_step(Said(ids, [-1.0] * len(ids), "length"), chat)
    assert step is not None
    assert step.text == "Use 3, 5 to make 8: 5 + 3 = 8"
    assert chat.decode(step.token_ids) == step.text + STEP_END
    assert step.token_ids[: -len(chat.encode(STEP_END))] == ids[: len(step.token_ids) - len(chat.encode(STEP_END))]
