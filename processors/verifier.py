"""The stage 'verify': Trace in, Example or Filtered out; RolloutGroup in, RewardGroup out.

A trace is believed nothing: its final answer is graded again from its text, and what its fields claim is compared with
what its segments say. A group is paid as a whole: a reward for every rollout, in order, whatever the grader met; but a
group with a response that was cut off by no fault of its own gets none, since that reward would say nothing.
"""

from itertools import pairwise
from typing import Any

from processors import chat
from processors.answers import answer_key
from processors.app import Source, attach, stage_app
from processors.cloning import join
from processors.grading import Grader, reward
from processors.status import Status
from schemas.messages import Example, Filtered, Message, RewardGroup, RolloutGroup, Segment, Trace, content_id
from schemas.settings import Settings, VerifySection
from schemas.topics import BY_NAME

STAGE = "verify"
LIMIT = 8


def build(settings: Settings, grader: Grader, status: Status) -> Any:  # noqa: ANN401 - a faust.App
    """The Faust app of this stage, ready for app.run."""
    app = stage_app(STAGE, settings)

    async def verify(trace: Trace, source: Source) -> list[Message]:
        return [await judge(trace, source.sha, grader, settings.verify)]

    async def pay(group: RolloutGroup, source: Source) -> list[Message]:
        return [refused(group) if is_aborted(group) else await rewarded(group, source.sha, grader)]

    attach(app, BY_NAME["traces"], verify, status, settings, limit=LIMIT)
    attach(app, BY_NAME["rollouts"], pay, status, settings, limit=LIMIT)
    return app


def is_aborted(group: RolloutGroup) -> bool:
    """Whether a rollout was aborted, or there is none."""
    return not group.rollouts or any(rollout.finish == "abort" for rollout in group.rollouts)


def refused(group: RolloutGroup) -> Filtered:
    """The row that accounts for all rollouts and response tokens of an aborted group."""
    return Filtered(
        id=content_id(STAGE, group.id, "aborted"),
        stage=STAGE,
        input_topic="rollouts",
        input_id=group.id,
        why="aborted",
        rollouts=len(group.rollouts),
        tokens=sum(len(rollout.token_ids) for rollout in group.rollouts),
        source=group.problem.source,
        difficulty=group.problem.difficulty,
    )


async def rewarded(group: RolloutGroup, sha: str, grader: Grader) -> RewardGroup:
    """The group with +1 or -1 and an outcome for each rollout; a response cut off before its answer is 'unparsable'."""
    verdicts = await grader.grade_many([(group.problem, rollout.text) for rollout in group.rollouts])
    assert len(verdicts) == len(group.rollouts)
    return RewardGroup(
        id=group.id,
        problem=group.problem,
        round=group.round,
        rollouts_sha=sha,
        prompt_ids=group.prompt_ids,
        rollouts=group.rollouts,
        rewards=[reward(verdict.outcome) for verdict in verdicts],
        verdicts=[verdict.outcome for verdict in verdicts],
        backtracks=[chat.count_backtracks(rollout.text) for rollout in group.rollouts],
        temperature=group.temperature,
    )


async def judge(trace: Trace, sha: str, grader: Grader, settings: VerifySection) -> Example | Filtered:
    """The example, with the names of the checks it passed, or why it is none (the first check that failed)."""
    checks = structure(trace, settings)
    failed = next((name for name, passed in checks.items() if not passed), "")
    if failed:
        return _filtered(trace, f"check failed: {failed}")
    failures = failed_steps(trace)
    if trace.merge != "terminal":  # a branch that was left before its terminal has no answer to grade
        failures = [text for text in failures if chat.states_answer(text)]
    final, *wrong = await grader.grade_many([(trace.problem, text) for text in (trace.text, *failures)])
    if final.outcome != "correct":
        return _filtered(trace, f"check failed: ends_correct ({final.outcome})")
    if any(verdict.outcome != "wrong" for verdict in wrong):
        return _filtered(trace, "check failed: fails_wrong")
    return Example(
        id=trace.id,
        tree_id=trace.tree_id,
        trace_sha=sha,
        problem=trace.problem,
        arm=trace.arm,
        text=trace.text,
        backtracks=trace.backtracks,
        verdict=final.outcome,
        checks=[*checks, "ends_correct", "fails_wrong"],
    )


def structure(trace: Trace, settings: VerifySection) -> dict[str, bool]:
    """The checks that need no grading, by name, in the order in which they are reported."""
    segments = trace.segments
    keys = [answer_key(answer) for answer in trace.wrong_answers]
    jumps = [segment.node for segment in segments if segment.kind == "jump"]
    steps = [segment for segment in segments if segment.kind == "step"]
    returns = len(trace.walk) - len(set(trace.walk))  # a walk names a node again only to go back to it
    said = chat.count_backtracks(trace.text) if trace.phrases else len(jumps)  # without phrases no word says it
    named = trace.merge != "terminal" or len(jumps) <= len(keys)
    return {
        "length": 0 < len(trace.text) <= settings.max_trace_chars,
        "text_is_segments": trace.text == join(segments),
        "starts_at_root": trace.walk[:1] == [0],
        "steps_follow_walk": _is_subsequence([segment.node for segment in steps], trace.walk),
        "no_reserved": not any(phrase in segment.text for segment in steps for phrase in chat.RESERVED),
        "verdict_follows": _verdicts_follow(segments) if trace.phrases else not _judged(segments),
        "distinct_wrong": len(set(keys)) == len(keys) and answer_key(trace.problem.answer) not in keys,
        "backtracks": returns == len(jumps) == trace.backtracks == said and named,
        "fails_named": len(failed_steps(trace)) == len(jumps),
    }


def failed_steps(trace: Trace) -> list[str]:
    """The texts of the steps that were left: what stands before a jump (and its reflection and verdict)."""
    before = 3 if trace.phrases else 1
    left = [at - before for at, segment in enumerate(trace.segments) if segment.kind == "jump" and at >= before]
    return [trace.segments[at].text for at in left if trace.segments[at].kind == "step"]


def _judged(segments: list[Segment]) -> bool:
    return any(segment.kind in {"reflection", "verdict"} for segment in segments)


def _verdicts_follow(segments: list[Segment]) -> bool:
    """A reflection is followed by a verdict on the same node, a bad one by a jump; none of them stands elsewhere."""
    for before, after in pairwise([None, *segments, None]):
        reflects = before is not None and before.kind == "reflection"
        if reflects != (after is not None and after.kind == "verdict"):
            return False
        if before is not None and after is not None and reflects and before.node != after.node:
            return False
        doubts = before is not None and before.kind == "verdict" and before.text == chat.VERDICT_BAD
        if doubts != (after is not None and after.kind == "jump"):
            return False
    return True


def _is_subsequence(few: list[int], many: list[int]) -> bool:
    rest = iter(many)
    return all(one in rest for one in few)


def _filtered(trace: Trace, why: str) -> Filtered:
    return Filtered(
        id=content_id(STAGE, trace.id, why),
        stage=STAGE,
        input_topic="traces",
        input_id=trace.id,
        why=why,
        source=trace.problem.source,
        difficulty=trace.problem.difficulty,
    )
