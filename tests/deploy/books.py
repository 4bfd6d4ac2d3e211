"""Small messages that name each other as a factory's do, and ways to bring them into topics and tables."""

import threading
import time
from pathlib import Path

from kafka.structs import OffsetAndMetadata, TopicPartition

from processors import kafka, sink
from processors.dataset import Datasets
from processors.status import Status
from schemas import messages as m
from schemas.topics import TOPICS


def problem(number):
    return m.Problem(id=f"p{number}", question="q", answer="a", source="s")


def tree(number):
    return m.Tree(
        id=f"t{number}",
        problem=problem(number),
        nodes=[m.Node(id=0, parent=-1, depth=0, text="", token_ids=[])],
        policy_version=0,
        policy_sha="",
        seed=0,
        iterations=0,
        generated_tokens=0,
        prompt_tokens=0,
        requests=0,
        seconds=0.0,
        solved=True,
    )


def trace(number):
    return m.Trace(
        id=f"c{number}",
        tree_id=f"t{number}",
        tree_sha="",
        problem=problem(number),
        arm="direct",
        walk=[],
        segments=[],
        text="",
        backtracks=0,
        wrong_answers=[],
    )


def example(number):
    return m.Example(
        id=f"c{number}",
        tree_id="",
        trace_sha="",
        problem=problem(number),
        arm="direct",
        text="",
        backtracks=0,
        verdict="correct",
        checks=[],
    )


def prompt(number):
    return m.Prompt(id=f"g{number}", problem=problem(number), round=0, why="")


def rollouts(number, count=2, tokens=3):
    one = m.Rollout(token_ids=[1] * tokens, logprobs=[0.0] * tokens, spans=[], finish="stop", text="")
    return m.RolloutGroup(
        id=f"g{number}", problem=problem(number), round=0, prompt_ids=[], rollouts=[one] * count, temperature=1.0
    )


def rewards(number, count=2):
    group = rollouts(number, count)
    return m.RewardGroup(
        id=group.id,
        problem=group.problem,
        round=0,
        rollouts_sha="",
        prompt_ids=[],
        rollouts=group.rollouts,
        rewards=[1.0] * count,
        verdicts=["correct"] * count,
        backtracks=[0] * count,
    )


def trained(*numbers, trainer="rl", step=1):
    rows = [number if isinstance(number, str) else f"g{number}" for number in numbers]
    return m.TrainingStep(
        id=f"{trainer}:{step}",
        run=trainer,
        trainer=trainer,
        step=step,
        version=0,
        loss=0.0,
        lr=0.0,
        grad_norm=0.0,
        tokens=6,
        rows=rows,
    )


def filtered(stage, input_id, why, **more):
    return m.Filtered(
        id=m.content_id(stage, input_id, why), stage=stage, input_topic="", input_id=input_id, why=why, **more
    )


def dead(stage, input_id):
    return m.DeadLetter(id=f"d{stage}{input_id}", stage=stage, topic="", input_id=input_id, error="it broke")


def commit(settings, group, topic):
    """The group has answered everything that is in the topic now."""
    consumer = kafka.consumer(settings, group=group)
    ends = kafka.highwater(settings, [topic])
    offsets = {TopicPartition(*at): OffsetAndMetadata(end, "", -1) for at, end in ends.items()}
    consumer.assign(list(offsets))
    consumer.commit(offsets)
    consumer.close()


def stage(books, name, source=None):
    (line,) = (one for one in books.stages if one.stage == name and source in {None, one.input})
    return line


def sunk(settings, query):
    """Run a sink until the query over the tables says yes."""
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    sinking = sink.Sink(settings, datasets, [topic.name for topic in TOPICS], Status(settings, "sink"))
    stopping = threading.Event()
    thread = threading.Thread(target=sinking.session, args=(stopping,))
    thread.start()
    deadline = time.monotonic() + 60
    while not yes(datasets, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.1)
    stopping.set()
    thread.join(20)


def yes(datasets, query):
    with datasets.connect() as connection:
        return connection.execute(f"select {query}").fetchone()[0]
