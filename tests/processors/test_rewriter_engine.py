"""The stage as the user starts it, with vLLM and the tiny policy, which cannot rewrite: right all the same."""

import asyncio
import collections
import subprocess
import sys
from pathlib import Path

import forest
import pytest
from worker_tools import stop, until

from processors import kafka
from processors.grading import Grader
from processors.verifier import judge
from schemas.codec import decode
from schemas.messages import DeadLetter, Example, Filtered, Trace

FACTORY = str(Path(sys.executable).with_name("factory"))


@pytest.mark.slow
def test_trees_become_traces_in_the_models_words_or_their_own(settings, send_all, tmp_path):
    trees = [forest.tree(forest.grown(20, seed).nodes, forest.problem(index=seed)) for seed in range(12)]
    send_all(*trees, *trees)  # each twice: the same words must come again, in another crowd
    arguments = [FACTORY, "linearize", "--broker", kafka.bootstrap(settings), "--data", settings.factory.data]
    worker = subprocess.Popen([*arguments, "--set", "linearize.rewriter=model"], cwd=tmp_path)
    try:
        until(lambda: kafka.lag(settings, "linearize", "trees") == 0, 180, "trees")
        assert stop(worker) == 0
    finally:
        worker.kill()
        worker.wait()
    assert [decode(record.value, DeadLetter).error for record in kafka.tail(settings, "dead.letters", {})] == []
    records = [record.value for record in kafka.tail(settings, "traces", {})]
    made = [decode(value, Trace) for value in records]
    filtered = [decode(record.value, Filtered) for record in kafka.tail(settings, "filtered", {})]
    assert {one.tree_id for one in made} | {row.input_id for row in filtered} == {tree.id for tree in trees}
    assert set(collections.Counter(records).values()) == {2}, "two copies of every trace, byte for byte"
    assert {one.rewriter for one in made} == {"model"}
    assert sum(one.rewrites for one in made) > 20
    for one in made:
        assert one.fallbacks == len(one.fallback_reasons) <= one.rewrites
        assert isinstance(asyncio.run(judge(one, "sha", Grader(settings), settings.verify)), Example)
