"""A run whose checkpoints, plan and weights lie on a store goes on elsewhere, and only at one place at a time."""

from pathlib import Path

import obstore
import pytest
import torch
from rewarded import group
from running import until
from safetensors.torch import load_file
from test_sft import FLAGS, Crash, crash_at, curve, example, handed_over, plain  # noqa: F401 - a fixture

from processors.cached import at_hand
from processors.store import Store
from schemas.load import load
from schemas.messages import Weights
from trainers import checkpoint, rl, sft
from trainers.copies import Copies, TakenOver
from trainers.session import Session


def elsewhere(settings, place: Path, *flags: str):
    """The same settings on a machine with another data directory."""
    same = (
        f"factory.store={settings.factory.store}",
        f"broker.bootstrap={settings.broker.bootstrap}",
        "sink.flush_s=0.2",
    )
    return load(environment={}, flags=[f"factory.data={place}", f"policy.path={settings.policy.path}", *same, *flags])


@pytest.mark.slow
def test_a_run_goes_on_on_another_machine_bit_for_bit(make_factory, start, plain, store, monkeypatch, tmp_path) -> None:  # noqa: F811
    factory = make_factory(*FLAGS, f"factory.store={store}")
    factory.table(*[example(i) for i in range(40)])
    with monkeypatch.context() as patched:
        crash_at(patched, Session, "save", 2)  # steps 4 to 6 are planned and told of, and in no checkpoint
        trainer = start(sft.run, factory.settings, "sft")
        until(lambda: trainer.error is not None)
        assert isinstance(trainer.error, Crash)
    other = elsewhere(factory.settings, tmp_path / "other", *FLAGS)
    trainer = start(sft.run, other, "sft")
    trainer.until(lambda: handed_over(factory), 120)
    trainer.end()
    steps, parameters = plain
    assert curve(factory) == steps
    found = {row.version: row for row in factory.topic(Weights)}
    assert [found[version].path for version in (1, 2, 3)] == [f"{store}/weights/v{version}" for version in (1, 2, 3)]
    third = elsewhere(factory.settings, tmp_path / "third")
    last = load_file(Path(at_hand(third, found[3]).path) / "model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in parameters.items())

    # RL begins from what SFT handed over, which it has to fetch, and trains on rows of the store.
    third = elsewhere(factory.settings, tmp_path / "third", "rl.groups=3", "rl.max_steps=1")
    trainer = start(rl.run, third, "rl")
    factory.table(*[group(i, version=3) for i in range(3)])
    trainer.until(lambda: len(factory.topic(Weights)) == 5, 120)
    trainer.end()
    assert factory.topic(Weights)[-1].path == f"{store}/weights/v4"


class Machine:
    """Checkpoints of one machine and their copies."""

    def __init__(self, store: str, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.copies = Copies(Store(store), "sft", root)

    def save(self, step: int, **fields) -> Path:
        state = checkpoint.State(run="sft", trainer="sft", base="b", version=0, step=step, **fields)
        tensors = {"x": torch.full((4,), float(step))}
        path = checkpoint.save(
            self.root, state, lambda to: checkpoint.write_tensors(tensors, to / "model-0.safetensors", {})
        )
        self.copies.save(path)
        return path


@pytest.fixture
def machines(store, tmp_path):
    return [Machine(store, tmp_path / name) for name in "ab"]


def test_the_newest_checkpoint_comes_and_the_plan_after_it(machines) -> None:
    here, there = machines
    assert there.copies.newer(None) is None
    for step in range(1, 6):
        here.copies.plan(step, [f"row {step}"])
        here.copies.plan(step, [f"row {step}"])  # a retry
        if step in {1, 2, 4}:
            last = here.save(step)
    assert here.copies.newer(last) == last
    here.copies.store.delete(["checkpoints/sft/step-0000004.1/state.json"])  # as if a crash had come before its upload
    assert here.copies.newer(last) == last
    found = there.copies.newer(None)
    assert (found.name, checkpoint.damage(found)) == (last.name, "")
    assert (found / "model-0.safetensors").read_bytes() == (last / "model-0.safetensors").read_bytes()
    assert [step.step for step in there.copies.plans()] == [3, 4, 5]  # a resume may begin at step 2
    assert there.copies.plans()[-1].rows == ["row 5"]
    kept = {name.partition("/")[0] for name in here.copies.store.folder("checkpoints/sft").sizes()}
    assert kept == {"plan", "step-0000002.1", "step-0000004.1"}


def test_a_damaged_or_unfinished_copy_is_left_out(machines, capsys) -> None:
    here, there = machines
    good = here.save(1)
    here.save(2)
    files = here.copies.store.files
    obstore.put(files, "checkpoints/sft/step-0000002.1/model-0.safetensors", b"cut")
    obstore.put(files, "checkpoints/sft/step-0000009.1/model-0.safetensors", b"a crash came before its state.json")
    assert there.copies.newer(None).name == good.name
    assert "step-0000002.1" in capsys.readouterr().err


def test_of_two_trainers_one_ends(machines) -> None:
    here, there = machines
    here.copies.plan(1, ["a"])
    with pytest.raises(TakenOver, match="has planned step 1 of this run"):
        there.copies.plan(1, ["b"])
    here.copies.drop(1)
    there.copies.plan(1, ["b"])
    here.save(1)
    with pytest.raises(TakenOver, match=r"has saved step-0000001\.1"):
        there.save(1, parent=7)
