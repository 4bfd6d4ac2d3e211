"""What a trainer cannot use is said in one sentence that names what to do, before anything is published."""

import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from rewarded import group
from running import until
from test_rl import FLAGS as RL_FLAGS
from test_rl import handover, steps_of
from test_sft import FLAGS, curve, example, handed_over, plain  # noqa: F401 - a fixture
from transformers import AutoTokenizer

from processors.chat import BadPolicy
from schemas.errors import Told
from schemas.messages import Filtered, TrainingStep, Weights
from trainers import checkpoint, rl, sft, weights
from trainers import model as policy
from trainers.journal import Journal
from trainers.session import Diverged, WeightsGone


def refused(factory, start, main=sft.run, stage="sft") -> Told:
    """What the trainer says when it ends; it has published nothing but, perhaps, the base."""
    trainer = start(main, factory.settings, stage)
    until(lambda: trainer.error is not None)
    assert isinstance(trainer.error, Told)
    assert not [row for row in factory.topic(Weights) if row.trainer == stage and not row.handover]
    return trainer.error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["sft.sql="], "sft.sql is empty.*id, problem and text"),
        (["sft.sql=select id, text, problem.question as problem from examples"], "id, problem and text.*in row"),
        (["sft.sql=select id, problem, null as text from examples"], "id, problem and text.*in row"),
        (
            ["sft.max_len=300", "sft.batch_tokens=600"],
            "sft.max_len = 300, and the model reads 256 tokens: set it to 256",
        ),
    ],
    ids=["no query", "another problem", "no text", "beyond the context"],
)
def test_settings_that_cannot_work(make_factory, start, flags, words) -> None:
    factory = make_factory(*FLAGS, *flags)
    factory.table(example(1))
    with pytest.raises(Told, match=words):
        raise refused(factory, start)


def other_tokenizer(llama, place: Path, **changes: object) -> Path:
    """A copy of the random Llama whose tokenizer lacks something (None)."""
    shutil.copytree(llama(), place)
    for file in [*place.glob("tokenizer_config.json"), *place.glob("special_tokens_map.json")]:
        content = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in content.items() if k not in changes}))
    if "chat_template" in changes:
        (place / "chat_template.jinja").unlink(missing_ok=True)
    return place


@pytest.mark.parametrize(
    ("lacks", "words"), [("chat_template", "no chat template; add"), ("eos_token", "no eos_token: name")]
)
def test_a_tokenizer_that_cannot_be_used(make_factory, start, llama, tmp_path, lacks, words) -> None:
    place = other_tokenizer(llama, tmp_path / "policy", **{lacks: None})
    factory = make_factory(*FLAGS, f"policy.path={place}")
    factory.table(example(1))
    error = refused(factory, start)
    assert isinstance(error, BadPolicy)
    assert str(place) in str(error)
    assert words in str(error)


def test_a_tokenizer_without_a_padding_token_is_none_the_worse(make_factory, start, llama, tmp_path, plain) -> None:  # noqa: F811
    place = other_tokenizer(llama, tmp_path / "policy", pad_token=None)
    assert AutoTokenizer.from_pretrained(place).pad_token is None
    factory = make_factory(*FLAGS, f"policy.path={place}")
    factory.table(*[example(i) for i in range(40)])
    trainer = start(sft.run, factory.settings, "sft")
    trainer.until(lambda: curve(factory))
    trainer.end()
    assert curve(factory)[1] == plain[0][1]


def test_a_query_without_rows_waits_and_says_so(make_factory, start, capsys) -> None:
    factory = make_factory(*FLAGS, "sft.patience_s=0.5", "sft.sql=select * from examples where arm = 'serach'")
    factory.table(example(1))
    trainer = start(sft.run, factory.settings, "sft")
    said: list[str] = []
    trainer.until(lambda: said.append(capsys.readouterr().err) or "sft waits" in "".join(said))
    trainer.end()
    assert "0 rows to train on" in "".join(said)
    assert "arm = 'serach'" in "".join(said)
    assert "0 rows to train on, 0 filtered; sft.min_examples = 24" in trainer.status.read()["waiting"]
    assert factory.topic(TrainingStep) == []


def test_what_the_evaluation_asks_is_not_trained_on(make_factory, start, tmp_path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "What is  7 + 8 ?", "answer": "15"}\n')
    factory = make_factory(*FLAGS, f"evaluate.file={asked}")
    factory.table(*[example(i) for i in range(40)])
    trainer = start(sft.run, factory.settings, "sft")
    trainer.until(lambda: len(curve(factory)) >= 4 and factory.topic(Filtered))
    trainer.end()
    (row,) = factory.topic(Filtered)
    assert (row.stage, row.input_id) == ("sft", example(7).id)
    assert "held_out: the same text as asked 0 of the evaluation" in row.why
    assert example(7).id not in {key for _, _, keys in curve(factory).values() for key in keys}


def broken_at(monkeypatch, step: int) -> None:
    """Logits that are no numbers from the n-th micro-batch on."""
    real, calls = policy.forward, []

    def forward(model, batch, *, dtype):
        calls.append(1)
        return real(model, batch, dtype=dtype) * (float("nan") if len(calls) >= step else 1.0)

    monkeypatch.setattr(policy, "forward", forward)


def test_a_loss_that_is_no_number_stops_sft_before_its_step(make_factory, start, plain, monkeypatch) -> None:  # noqa: F811
    factory = make_factory(*FLAGS)
    factory.table(*[example(i) for i in range(40)])
    with monkeypatch.context() as patched:
        broken_at(patched, 5)
        trainer = start(sft.run, factory.settings, "sft")
        until(lambda: trainer.error is not None)
    assert isinstance(trainer.error, Diverged)
    told = str(trainer.error)
    assert "step 5 of sft cannot be taken: the loss is nan" in told
    assert all(key in told for key in plain[0][5][2]), "it names the rows"
    assert "step-0000003" in told
    assert sorted(curve(factory)) == [1, 2, 3, 4]
    assert [row.step for row in factory.topic(Weights)] == [0, 3]
    root = Path(factory.settings.factory.data) / "checkpoints" / "sft"
    assert checkpoint.peek(checkpoint.found(root)[-1]).step == 3
    with Journal(root / "plan.jsonl") as journal:
        assert max(journal.lines) == 4, "another choice may be made for the step that failed"
    again = start(sft.run, factory.settings, "sft")
    again.until(lambda: handed_over(factory))
    again.end()
    assert curve(factory) == plain[0]


def test_a_loss_that_is_no_number_stops_rl_and_names_the_groups(make_factory, start, monkeypatch) -> None:
    factory = make_factory(*RL_FLAGS)
    factory.send(handover(factory))
    factory.table(*[group(i, version=5) for i in range(3)])
    broken_at(monkeypatch, 1)
    error = refused(factory, start, rl.run, "rl")
    assert isinstance(error, Diverged)
    assert "step 1 of rl" in str(error)
    assert "nothing was trained before it" in str(error)
    assert all(group(i, version=5).id in str(error) for i in range(3))
    assert steps_of(factory) == []


def test_a_version_that_is_written_otherwise_than_it_was_trained_is_not_announced(
    make_factory, start, monkeypatch
) -> None:
    factory = make_factory(*RL_FLAGS, "rl.publish_steps=1", "rl.max_steps=1")
    factory.send(handover(factory))
    factory.table(*[group(i, version=5) for i in range(3)])
    real = weights.write_tensors

    def write(tensors, path, metadata) -> None:
        spoilt = {name: tensor * 1.01 if "layers.0" in name else tensor for name, tensor in tensors.items()}
        real(spoilt, path, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(weights, "write_tensors", write)
        error = refused(factory, start, rl.run, "rl")
    assert isinstance(error, weights.NotAsTrained)
    assert "weights v6: " in str(error)
    assert "is not on the disk as it was trained" in str(error)
    assert "Nothing was announced" in str(error)
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: len(factory.topic(Weights)) == 2)
    trainer.end()
    assert [row.version for row in factory.topic(Weights)] == [5, 6]


def test_weights_that_are_gone(make_factory, start, llama, tmp_path) -> None:
    place = tmp_path / "policy"
    shutil.copytree(llama(), place)
    factory = make_factory(*RL_FLAGS, f'policy.weights_dirs=["{place}"]')
    factory.send(replace(handover(factory), path=str(place)))
    factory.table(*[group(i, version=5) for i in range(3)])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: steps_of(factory))
    trainer.end()
    shutil.rmtree(place)
    trainer = start(rl.run, factory.settings, "rl")
    until(lambda: trainer.error is not None)
    assert isinstance(trainer.error, WeightsGone)
    assert str(place) in str(trainer.error)
    assert "put the directory back" in str(trainer.error)
    shutil.rmtree(Path(factory.settings.factory.data) / "checkpoints")
    assert "version 5 is to lie there" in str(refused(factory, start, rl.run, "rl"))


def test_a_version_to_begin_from_that_never_was(make_factory, start) -> None:
    factory = make_factory(*RL_FLAGS, "rl.start_version=3")
    factory.send(handover(factory))
    assert "there are [5]" in str(refused(factory, start, rl.run, "rl"))


def test_a_step_planned_without_the_overlong_filter_can_be_trained_with_it(make_factory, start) -> None:
    factory = make_factory(*RL_FLAGS, "rl.updates=3", "rl.mask_overlong=true", "rl.max_steps=2")
    factory.send(handover(factory))
    groups = [group(i, version=5, finish="length" if i < 5 else "stop") for i in range(6)]
    factory.table(*groups)
    root = Path(factory.settings.factory.data) / "checkpoints" / "rl"
    with Journal(root / "plan.jsonl") as journal:
        journal.append(1, [one.id for one in groups[:3]])
        journal.append(2, [one.id for one in groups[3:]])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: len(factory.topic(Weights)) == 2)
    trainer.end()
    assert [(row.step, row.tokens > 0) for row in steps_of(factory)] == [(1, False), (2, True)]


def test_rl_publishes_by_the_clock_too(make_factory, start) -> None:
    factory = make_factory(*RL_FLAGS, "rl.publish_steps=100", "rl.publish_s=0.01")
    factory.send(handover(factory))
    factory.table(*[group(i, version=5) for i in range(3)])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: len(factory.topic(Weights)) == 2)
    trainer.end()
    assert factory.topic(Weights)[-1].step == 1
