"""The verifier believes nothing: true traces become examples, each lie is named, and rewards never shift."""

import asyncio

import forest
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import chat
from processors.grading import Grader
from processors.linearizer import traces
from processors.verifier import is_aborted, judge, refused, rewarded
from schemas.messages import Example, Filtered, Rollout, RolloutGroup, Segment, Trace
from schemas.search_settings import LinearizeSection
from schemas.settings import Settings, VerifySection

SETTINGS = Settings(linearize=LinearizeSection(direct=1, search=4, max_wrong=3))
GRADER = Grader(SETTINGS)  # numbers only: it starts no process


def verdict(trace: Trace, limits: VerifySection = SETTINGS.verify) -> Example | Filtered:
    return asyncio.run(judge(trace, "sha", GRADER, limits))


@settings(deadline=None)
@given(forest.trees())
def test_what_the_linearizer_makes_passes(tree):
    for trace in traces(tree, "s", SETTINGS):
        if isinstance(trace, Trace):
            made = verdict(trace)
            assert isinstance(made, Example), made
            assert (made.id, made.trace_sha, made.text) == (trace.id, "sha", trace.text)
            assert {"ends_correct", "starts_at_root", "distinct_wrong", "verdict_follows"} <= set(made.checks)


@pytest.fixture
def true():
    made = traces(forest.example(), "s", Settings(linearize=LinearizeSection(direct=0, search=9, positive_share=0)))
    return next(trace for trace in made if isinstance(trace, Trace) and trace.backtracks == 2)


def told(trace: Trace, segments: list[Segment]) -> Trace:
    return msgspec.structs.replace(trace, segments=segments, text=chat.STEP_END.join(one.text for one in segments))


def swapped(segments: list[Segment], kind: str, text: str, which: int = 0) -> list[Segment]:
    at = [i for i, segment in enumerate(segments) if segment.kind == kind][which]
    return [*segments[:at], msgspec.structs.replace(segments[at], text=text), *segments[at + 1 :]]


def verdict_first(segments: list[Segment]) -> list[Segment]:
    at = next(i for i, segment in enumerate(segments) if segment.kind == "reflection")
    return [*segments[:at], segments[at + 1], segments[at], *segments[at + 2 :]]


def nothing_failed(segments: list[Segment]) -> list[Segment]:
    """Without the steps between the first return and the next reflection: the reflection has nothing to doubt."""
    start = 1 + next(i for i, segment in enumerate(segments) if segment.kind == "jump")
    stop = next(i for i in range(start, len(segments)) if segments[i].kind == "reflection")
    return [*segments[:start], *segments[stop:]]


LIES = {
    "fails_named": lambda t: told(t, nothing_failed(t.segments)),
    "ends_correct (wrong)": lambda t: told(t, swapped(t.segments, "step", "Answer: 8", -1)),
    "ends_correct (unparsable)": lambda t: told(t, swapped(t.segments, "step", "Answer: seven", -1)),
    "fails_wrong": lambda t: told(t, swapped(t.segments, "step", "Answer: 7", 1)),
    "starts_at_root": lambda t: msgspec.structs.replace(t, walk=t.walk[1:]),
    "steps_follow_walk": lambda t: msgspec.structs.replace(t, walk=[0, t.walk[-1]]),
    "distinct_wrong": lambda t: msgspec.structs.replace(t, wrong_answers=["5", "5.0"]),
    "distinct_wrong ": lambda t: msgspec.structs.replace(t, wrong_answers=["5", "14/2"]),
    "backtracks": lambda t: msgspec.structs.replace(t, backtracks=1),
    "backtracks ": lambda t: msgspec.structs.replace(t, wrong_answers=["5"]),
    "backtracks  ": lambda t: msgspec.structs.replace(t, walk=list(dict.fromkeys(t.walk))),
    "backtracks   ": lambda t: told(t, swapped(t.segments, "jump", "Let me think.")),
    "no_reserved": lambda t: told(t, swapped(t.segments, "step", "Use 3. But wait, no.")),
    "verdict_follows": lambda t: told(t, verdict_first(t.segments)),
    "verdict_follows ": lambda t: told(t, [s for s in t.segments if s.text != chat.VERDICT_GOOD]),
    "verdict_follows  ": lambda t: told(t, swapped(t.segments, "verdict", chat.VERDICT_GOOD)),
    "text_is_segments": lambda t: msgspec.structs.replace(t, text=t.text + "\n\nAnswer: 7"),
    "length": lambda t: told(t, swapped(t.segments, "step", "1 " * 20_000)),
    "length ": lambda t: told(t, []),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_named(true, lie):
    made = verdict(LIES[lie](true))
    assert isinstance(made, Filtered)
    assert made.why == f"check failed: {lie.strip()}"
    assert (made.stage, made.input_topic, made.input_id) == ("verify", "traces", true.id)
    assert isinstance(verdict(true), Example)


TEXTS = {
    "Answer: 7": "correct",
    "3 + 4 = 7\n\nAnswer: 6\n\n" + chat.REFLECTION + "\n\n" + chat.RESTART + ".\n\nAnswer: 7": "correct",
    "Answer: 7\n\nAnswer: 8": "wrong",
    "Answer: seven": "unparsable",
    "3 + 4 =": "unparsable",
    "": "unparsable",
    "Answer: " + "9" * 5000: "rejected",
    "Answer: 9^9^9^9": "unparsable",
    "\x00\ufffd": "unparsable",
}


def group(texts: list[str]) -> RolloutGroup:
    rollouts = [
        Rollout(token_ids=[i], logprobs=[-0.5], spans=[], finish="length" if not text else "stop", text=text)
        for i, text in enumerate(texts)
    ]
    return RolloutGroup(id="g", problem=forest.problem(), round=2, prompt_ids=[1], rollouts=rollouts, temperature=0.7)


@settings(deadline=None)
@given(st.lists(st.sampled_from(list(TEXTS)), max_size=16))
def test_one_reward_for_each_rollout_in_order(texts):
    asked = group(texts)
    paid = asyncio.run(rewarded(asked, "sha", GRADER))
    assert len(paid.rewards) == len(paid.verdicts) == len(paid.backtracks) == len(texts)
    assert paid.verdicts == [TEXTS[text] for text in texts]
    assert paid.rewards == [1.0 if TEXTS[text] == "correct" else -1.0 for text in texts]
    assert paid.backtracks == [text.count(chat.RESTART) for text in texts]
    assert (paid.rollouts, paid.rollouts_sha, paid.id, paid.round) == (asked.rollouts, "sha", "g", 2)
    assert paid.temperature == asked.temperature == 0.7


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_texts_get_as_many_rewards(texts):
    paid = asyncio.run(rewarded(group(texts), "sha", GRADER))
    assert len(paid.rewards) == len(texts)
    assert set(paid.rewards) <= {1.0, -1.0}


def with_finish(texts: list[str], finishes: list[str]) -> RolloutGroup:
    asked = group(texts)
    ended = [msgspec.structs.replace(r, finish=f) for r, f in zip(asked.rollouts, finishes, strict=True)]
    return msgspec.structs.replace(asked, rollouts=ended)


def test_one_aborted_rollout_refuses_the_group_and_all_of_it_is_accounted_for():
    for finishes, aborted in ((["stop", "length"], False), (["stop", "abort"], True), (["abort", "abort"], True)):
        assert is_aborted(with_finish(["Answer: 7", ""], finishes)) is aborted
    assert is_aborted(group([])), "a group without a rollout"
    row = refused(with_finish(["Answer: 7", "", "Answer: 8"], ["stop", "abort", "stop"]))
    assert (row.stage, row.input_topic, row.input_id, row.why) == ("verify", "rollouts", "g", "aborted")
    assert (row.rollouts, row.tokens, row.source) == (3, 3, "test")
    assert (refused(group([])).rollouts, refused(group([])).tokens) == (0, 0)
