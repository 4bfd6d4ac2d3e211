"""The stages as the user starts them, against the real broker: trees in, examples out; rollouts in, rewards out."""

import subprocess
import sys
from pathlib import Path

import forest
import msgspec
import pytest
from worker_tools import stop, until

from processors import kafka
from schemas.codec import decode
from schemas.messages import DeadLetter, Example, Filtered, RewardGroup, Rollout, RolloutGroup, Trace

FACTORY = str(Path(sys.executable).with_name("factory"))


@pytest.fixture
def stages(settings, tmp_path):
    started = []
    for stage in ("linearize", "verify"):
        arguments = [FACTORY, stage, "--broker", kafka.bootstrap(settings), "--data", settings.factory.data]
        started.append(subprocess.Popen(arguments, cwd=tmp_path))
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def rows(settings, topic, kind):
    return [decode(record.value, kind) for record in kafka.tail(settings, topic, {})]


def rollouts(number: int) -> RolloutGroup:
    said = [
        Rollout(token_ids=[1], logprobs=[0.0], spans=[], finish="stop", text=text)
        for text in ("Answer: 2x", "Answer: x + x", "Answer: 3x", "no idea", "Answer: 9^9^9^9")
    ]
    return RolloutGroup(
        id=f"g{number}", problem=forest.problem("2x", "math", index=number), round=0, prompt_ids=[1], rollouts=said,
        temperature=1.0,
    )  # fmt: skip


@pytest.mark.slow
def test_trees_become_examples_and_rollouts_rewards(settings, send_all, stages):
    trees = [forest.tree(forest.grown(20, seed).nodes, forest.problem(index=seed)) for seed in range(30)]
    broken = forest.tree([forest.node(0, 0)], forest.problem(index=99))
    paid = [rollouts(number) for number in range(6)]
    cut = [msgspec.structs.replace(one, finish="abort") for one in paid[0].rollouts[:1]]
    aborted = msgspec.structs.replace(paid[0], id="aborted", rollouts=[*cut, *paid[0].rollouts[1:]])
    send_all(*trees, broken, aborted, *paid)

    def done(group, topic):
        return kafka.lag(settings, group, topic) == 0

    until(lambda: done("linearize", "trees") and done("verify", "rollouts"), 120, "trees and rollouts")
    until(lambda: done("verify", "traces"), 60, "traces")
    assert [stop(process) for process in stages] == [0, 0]
    traces, filtered = rows(settings, "traces", Trace), rows(settings, "filtered", Filtered)
    letters = rows(settings, "dead.letters", DeadLetter)
    answered = {trace.tree_id for trace in traces} | {letter.input_id for letter in letters}
    answered |= {row.input_id for row in filtered if row.input_topic == "trees"}
    assert answered == {tree.id for tree in [*trees, broken]}
    refused = [(row.input_id, row.why, row.rollouts) for row in filtered if row.input_topic != "trees"]
    assert refused == [("aborted", "aborted", 5)]
    assert [letter.input_id for letter in letters] == [broken.id]
    assert {example.id for example in rows(settings, "examples", Example)} == {trace.id for trace in traces}
    rewards = rows(settings, "rewards", RewardGroup)
    assert {group.id for group in rewards} == {f"g{number}" for number in range(6)}
    for group in rewards:
        assert group.rewards == [1, 1, -1, -1, -1]
        assert group.verdicts == ["correct", "correct", "wrong", "unparsable", "rejected"]
