"""SFT on a real broker and real tables, from rows to announced versions, with crashes between any two of its acts."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import torch
from running import until
from safetensors.torch import load_file, save_file

from processors import chat
from schemas.messages import Example, Filtered, Problem, TrainingStep, Weights, content_id
from schemas.replay import Replay
from schemas.settings import PolicySection
from trainers import model, sft, supervised
from trainers import weights as published
from trainers.journal import Journal
from trainers.objectives import learning_rate
from trainers.packing import Row
from trainers.pool import Pool
from trainers.session import Session, TrainerBusy

FLAGS = (
    "sft.min_examples=24",
    "sft.loss_on=all",
    "sft.batch_tokens=400",
    "sft.lr=0.003",
    "sft.publish_steps=3",
    "sft.hand_over_steps=8",
    "sft.max_len=100",
    "evaluate.problems=2",
)


def example(index: int, text: str = "") -> Example:
    question = f"What is {index} + {index + 1}?"
    problem = Problem(id=content_id("t", question), question=question, answer=str(2 * index + 1), source="test")
    return Example(
        id=content_id("example", index),
        tree_id="t",
        trace_sha="s",
        problem=problem,
        arm="direct",
        text=text or f"{index} + {index + 1} is\n\nAnswer: {2 * index + 1}",
        backtracks=0,
        verdict="correct",
        checks=[],
    )


def curve(factory) -> dict[int, tuple[float, float, list[str]]]:
    """loss, grad norm and rows by step; a step that was told of twice was the same both times, bit for bit."""
    steps: dict[int, tuple[float, float, list[str]]] = {}
    for row in factory.topic(TrainingStep):
        told = (row.loss, row.grad_norm, row.rows)
        assert steps.setdefault(row.step, told) == told
    return steps


def handed_over(factory) -> bool:
    return any(row.handover for row in factory.topic(Weights))


def test_from_rows_to_versions_and_the_hand_over(make_factory, start) -> None:
    factory = make_factory(*FLAGS)
    trainer = start(sft.run, factory.settings, "sft")
    factory.table(*[example(i) for i in range(20)])
    factory.table(example(98, "x" * 200), *[example(i) for i in range(20, 60)])
    trainer.until(lambda: handed_over(factory))
    trainer.end()
    rows = {row.version: row for row in factory.topic(Weights)}
    assert [(v, r.parent, r.trainer, r.step, r.handover) for v, r in sorted(rows.items())] == [
        (0, -1, "base", 0, False),
        (1, 0, "sft", 3, False),
        (2, 1, "sft", 6, False),
        (3, 2, "sft", 8, True),
    ]
    assert "from replaced) @ examples version" in rows[3].data
    steps = factory.topic(TrainingStep)
    assert [row.version for row in steps] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert steps[-1].loss < steps[0].loss - 0.3
    assert all(0 < row.tokens <= 400 and row.rows for row in steps)
    (refused,) = factory.topic(Filtered)
    assert (refused.stage, refused.input_id, refused.why) == ("sft", example(98).id, "too_long")
    again = start(sft.run, factory.settings, "sft")  # a restart after the hand-over trains and publishes no more
    until(lambda: again.status.read().get("step") == 8)
    again.end()
    assert len(factory.topic(Weights)) in {4, 5}  # the base may be announced again, the same
    assert len(factory.topic(TrainingStep)) == 8


CRASHES = {
    "before a step": (supervised, "train", 5),
    "after a step": (Session, "finish", 5),
    "before the checkpoint": (Session, "save", 2),
    "between checkpoint and announcement": (Session, "_announce", 2),
    "after the directory was written": (published, "commit", 2),
    "at the last version": (Session, "_announce", 3),
    "while planning": (Journal, "append", 4),
}


class Crash(BaseException):
    pass


def crash_at(monkeypatch, place, name: str, call: int) -> None:
    real, calls = getattr(place, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            if name == "commit":
                real(*args, **kwargs)
            raise Crash
        return real(*args, **kwargs)

    monkeypatch.setattr(place, name, wrapped)


def bare(path: str) -> tuple[dict[int, tuple[float, float, list[str]]], dict[str, torch.Tensor]]:
    """The curve and the last weights of the same training as a bare loop, without any process around it."""
    words = chat.Chat(path, PolicySection(path=path))
    pool = Pool(0, 4.0, {})
    for row in map(example, range(40)):
        prompt = words.prompt_ids(row.problem.question)
        pool.add(row.id, Row([*prompt, *words.encode(row.text), words.eos_id]))
    model.prepare(1, 0)
    policy = model.load(path)
    opt = model.optimizer(policy, lr=0.003, weight_decay=0.01)
    steps = {}
    for step in range(1, 9):
        keys = pool.draw(400)
        rows = [pool.rows[key] for key in keys]
        loss = supervised.train(policy, rows, budget=400, total=sum(r.trained for r in rows), dtype="float32")
        rate = learning_rate(step, peak=0.003, warmup=4, total=8)
        steps[step] = (loss, model.apply_gradients(policy, opt, lr=rate, clip=1.0), keys)
        pool.trained(keys)
    return steps, dict(policy.named_parameters())


@pytest.fixture(scope="module")
def plain(llama, tmp_path_factory):
    """`bare` by a process of its own: a vLLM that was in this one has made torch.set_num_threads do nothing."""
    out = tmp_path_factory.mktemp("plain")
    path = os.pathsep.join(sys.path)
    command = [sys.executable, __file__, str(llama()), str(out)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    steps = msgspec.json.decode((out / "steps.json").read_bytes(), type=dict[int, tuple[float, float, list[str]]])
    return steps, load_file(out / "last.safetensors")


@pytest.mark.parametrize("what", CRASHES)
def test_a_crash_anywhere_changes_no_bit_of_the_curve(make_factory, start, plain, monkeypatch, what) -> None:
    factory = make_factory(*FLAGS)
    factory.table(*[example(i) for i in range(40)])
    with monkeypatch.context() as patched:
        crash_at(patched, *CRASHES[what])
        trainer = start(sft.run, factory.settings, "sft")
        until(lambda: trainer.error is not None)
        assert isinstance(trainer.error, Crash)
    trainer = start(sft.run, factory.settings, "sft")
    trainer.until(lambda: handed_over(factory))
    trainer.end()
    steps, parameters = plain
    assert curve(factory) == steps
    found = {}
    for row in factory.topic(Weights):
        assert found.setdefault(row.version, row).sha256 == row.sha256, "a version number was used twice"
    assert sorted(found) == [0, 1, 2, 3]
    last = load_file(Path(found[3].path) / "model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in parameters.items())


def test_stopped_and_started_again_it_goes_on(make_factory, start, plain) -> None:
    factory = make_factory(*FLAGS, "sft.hand_over_steps=0", "sft.schedule=constant", "sft.epochs=2")
    factory.table(*[example(i) for i in range(40)])
    for wanted in (1, 3):
        trainer = start(sft.run, factory.settings, "sft")
        trainer.until(lambda wanted=wanted: len(curve(factory)) >= wanted)
        trainer.end()
    steps = curve(factory)
    assert list(steps) == list(range(1, len(steps) + 1))
    seen = Counter(key for _, _, keys in steps.values() for key in keys)
    assert max(seen.values()) <= 2
    assert {step: keys for step, (_, _, keys) in steps.items()} == {
        step: keys for step, (_, _, keys) in plain[0].items() if step in steps
    }


def test_rows_that_a_replay_replaced_are_not_trained_on_any_more(make_factory, start, monkeypatch) -> None:
    monkeypatch.setattr(sft, "BUSY_REFRESH_S", 0.1)
    factory = make_factory(*FLAGS, "sft.hand_over_steps=0", "sft.schedule=constant", "sft.epochs=1000")
    factory.table(*[example(i) for i in range(40)])
    old = {example(i).id for i in range(20)}
    trainer = start(sft.run, factory.settings, "sft")
    trainer.until(lambda: old & {key for row in factory.topic(TrainingStep) for key in row.rows})
    marks = [
        Replay(id=key, what="replaced", topic="traces", row_id=key, stage="linearize", time=1.0) for key in sorted(old)
    ]
    factory.table(*marks)
    trainer.until(lambda: trainer.status.read().get("left_out") == len(old))
    done = max(curve(factory))

    def later() -> set[str]:
        return {key for step, (_, _, keys) in curve(factory).items() if step > done + 1 for key in keys}

    new = {example(i).id for i in range(20, 40)}
    trainer.until(lambda: later() >= new)
    trainer.end()
    assert later() == new


def test_rows_run_out_and_what_was_trained_is_published(make_factory, start) -> None:
    flags = (
        "sft.epochs=1",
        "sft.patience_s=1",
        "sft.hand_over_idle_s=3",
        "sft.hand_over_steps=50",
        "sft.publish_steps=50",
    )
    factory = make_factory("sft.min_examples=4", "sft.batch_tokens=400", "sft.max_len=100", *flags)
    factory.table(*[example(i) for i in range(4)])
    trainer = start(sft.run, factory.settings, "sft")
    trainer.until(lambda: handed_over(factory))
    trainer.end()
    assert [(row.version, row.handover) for row in factory.topic(Weights)] == [(0, False), (1, False), (2, True)]
    assert [sorted(row.rows) for row in factory.topic(TrainingStep)] == [sorted(example(i).id for i in range(4))]


def test_two_trainers_of_one_run_are_refused(make_factory, start) -> None:
    factory = make_factory(*FLAGS)
    first = start(sft.run, factory.settings, "sft")
    until(lambda: first.status.read().get("step") == 0)
    second = start(sft.run, factory.settings, "sft")
    until(lambda: second.error is not None)
    assert isinstance(second.error, TrainerBusy)


@pytest.mark.parametrize("sql", ["select * from nothing", "select id from examples", "delete from examples"])
def test_a_query_that_gives_no_training_set_says_so(make_factory, start, sql) -> None:
    factory = make_factory(*FLAGS, f"sft.sql={sql}")
    trainer = start(sft.run, factory.settings, "sft")
    until(lambda: trainer.error is not None)
    assert isinstance(trainer.error, sft.BadQuery)
    assert "id, problem and text" in str(trainer.error)


if __name__ == "__main__":
    losses, last = bare(sys.argv[1])
    (Path(sys.argv[2]) / "steps.json").write_bytes(msgspec.json.encode(losses))
    save_file({name: value.detach() for name, value in last.items()}, Path(sys.argv[2]) / "last.safetensors")
