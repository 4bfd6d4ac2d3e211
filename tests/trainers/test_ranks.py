"""Two ranks (FSDP2 over gloo) learn what one learns: SFT and RL, through a checkpoint of either, from the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import learning
import msgspec
import pytest
import torch
from running import until
from test_sft import FLAGS, curve, example, handed_over, plain  # noqa: F401 - a fixture

from schemas.messages import Weights
from trainers import checkpoint, model
from trainers.ranks import Ranks, WorldDoesNotFit
from trainers.rl import RlLearner
from trainers.supervised import SftLearner

HERE = Path(__file__).parent
ROOT = str(HERE.parent.parent)
CLOSE = {"rel": 1e-4, "abs": 1e-6}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}


def weights_of(directory: Path, base: str) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint gives to one rank, and Adam's moments under names of their own."""
    policy = model.load(base)
    opt = model.optimizer(policy, lr=1.0, weight_decay=0.0)
    checkpoint.restore(checkpoint.found(directory)[-1], policy, opt)
    found = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    for name, parameter in policy.named_parameters():
        found |= {f"{name}|{slot}": value for slot, value in opt.state[parameter].items()}
    return found


@pytest.fixture(scope="module")
def both(llama, tmp_path_factory):
    """(what one rank told, what two told, the directory of their checkpoints)."""
    directory, base = tmp_path_factory.mktemp("ranks"), str(llama())
    one = {"sft": learning.sft(SftLearner(learning.settings(), Ranks()), base, directory / "one", range(3))}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(HERE / "learning.py")]
    process = subprocess.Popen([sys.executable, *command, base, str(directory)], env=environment())
    left = checkpoint.found(directory / "one")[-1]
    one["resumed"] = learning.sft(
        SftLearner(learning.settings(), Ranks()), base, directory / "one-resumed", range(3, 6), left
    )
    one["rl"] = learning.rl(RlLearner(learning.settings(), Ranks()), base, directory / "one-rl")
    assert process.wait(180) == 0
    return one, json.loads((directory / "told.json").read_text()), directory, base


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sft", "resumed", "rl"])
def test_two_ranks_tell_the_losses_norms_and_sums_of_one(both, what) -> None:
    one, two, _, _ = both
    assert len(two[what]) == 3
    for mine, theirs in zip(one[what], two[what], strict=True):
        assert theirs[:2] == pytest.approx(mine[:2], **CLOSE)
        if what == "rl":
            assert theirs[2] == pytest.approx(mine[2], **CLOSE)
    assert len({loss for loss, *_ in one[what]}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("mine", "theirs"), [("one", "two"), ("one-resumed", "two-resumed"), ("one-rl", "two-rl")])
def test_two_ranks_come_to_the_weights_and_moments_of_one(both, mine, theirs) -> None:
    _, _, directory, base = both
    assert len(list((directory / theirs).glob("step-*/*-[01].safetensors"))) == 4, "each rank writes its own lines"
    expected, found = weights_of(directory / mine, base), weights_of(directory / theirs, base)
    untouched = {name: value.detach() for name, value in model.load(base).named_parameters()}
    for name, value in expected.items():
        # Adam divides by the size of a gradient: where that is nearly nothing, rounding decides a step of up to lr.
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3, msg=lambda told, n=name: f"{n}: {told}")
        assert float((found[name] - value).abs().mean()) < 1e-6
    moved = [float((found[name] - value).abs().mean()) for name, value in untouched.items()]
    assert min(moved) > 1e-3


@pytest.mark.slow
def test_two_ranks_that_resume_go_on_bit_for_bit(both) -> None:
    _, two, directory, base = both
    assert two["sft"] + two["again"] == two["whole"]
    expected, found = (weights_of(directory / name, base) for name in ("two-whole", "two-again"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_the_command_on_two_ranks_trains_publishes_and_stops(make_factory, plain, tmp_path) -> None:  # noqa: F811
    factory = make_factory(*FLAGS, "sft.ranks=2")
    factory.table(*[example(i) for i in range(40)])
    (tmp_path / "settings.json").write_bytes(msgspec.json.encode(factory.settings))
    command = [sys.executable, "-m", "deploy.cli", "sft", "--settings", str(tmp_path / "settings.json")]
    process = subprocess.Popen(command, env=environment(), cwd=ROOT)
    until(lambda: handed_over(factory) or process.poll() is not None, 120)
    process.terminate()
    assert process.wait(60) == 0
    steps, parameters = plain
    told = curve(factory)
    assert list(told) == list(steps)
    for step, (loss, norm, keys) in steps.items():
        assert told[step][2] == keys
        assert told[step][:2] == pytest.approx((loss, norm), rel=1e-3)
    last = model.load(max(factory.topic(Weights), key=lambda row: row.version).path)
    for name, value in last.named_parameters():
        torch.testing.assert_close(value, parameters[name], atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize(("kind", "flag"), [(SftLearner, "sft.batch_tokens = 200"), (RlLearner, "rl.groups = 4")])
def test_more_ranks_than_rows_of_a_step_are_refused(kind, flag) -> None:
    with pytest.raises(WorldDoesNotFit, match=f"{flag}.*start [34] ranks or fewer"):
        kind(learning.settings(), Ranks(0, 5))
    kind(learning.settings(), Ranks(0, 3))


def test_more_ranks_than_gpus_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    from trainers.ranks import joined

    with pytest.raises(WorldDoesNotFit, match="start 2"), joined():
        pass
