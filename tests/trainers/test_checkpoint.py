"""A checkpoint is whole or not there, and training on from it is training on, bit for bit."""

import errno
import subprocess

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers import checkpoint, model, supervised
from trainers.checkpoint import Outgoing, State
from trainers.journal import Journal
from trainers.packing import Row


def fresh(directory):
    model.prepare(1, 0)
    policy = model.load(directory)
    return policy, model.optimizer(policy, lr=1e-3, weight_decay=0.1)


def rows(step):
    generator = torch.Generator().manual_seed(step)
    return [Row(torch.randint(4, 40, (n,), generator=generator).tolist()) for n in (5, 17, 9)]


def train(policy, opt, step) -> tuple[float, float]:
    loss = supervised.train(policy, rows(step), budget=40, total=28, dtype="float32")
    return loss, model.apply_gradients(policy, opt, lr=1e-3, clip=1.0)


def state(**fields) -> State:
    return State(run="sft", trainer="sft", base="b", version=0, **fields)


def saved(root, kept, policy, opt):
    return checkpoint.save(root, kept, lambda directory: checkpoint.write(directory, policy, opt))


def test_a_resumed_curve_is_the_uninterrupted_one(llama, tmp_path) -> None:
    policy, opt = fresh(llama())
    whole = [train(policy, opt, step) for step in range(8)]

    first, opt = fresh(llama())
    curve = [train(first, opt, step) for step in range(3)]
    saved(tmp_path, state(step=3), first, opt)
    second, opt = fresh(llama())
    torch.rand(7)  # a resume restores the random state whatever happened before
    checkpoint.restore(checkpoint.found(tmp_path)[-1], second, opt)
    curve += [train(second, opt, step) for step in range(3, 8)]
    assert curve == whole
    for (name, mine), (_, theirs) in zip(second.named_parameters(), policy.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_random_state_comes_back(llama, tmp_path) -> None:
    policy, opt = fresh(llama())
    path = saved(tmp_path, state(), policy, opt)
    wanted = torch.rand(3)
    checkpoint.restore(path, policy, opt)
    assert torch.equal(torch.rand(3), wanted)


def test_the_state_comes_back_and_only_two_are_kept(llama, tmp_path) -> None:
    policy, opt = fresh(llama())
    kept = state(
        seen={"a": 2, "ü": 1}, query="select 1", table_version=7, outgoing=[Outgoing("x", msgspec.Raw(b'{"a":1}'))]
    )
    for step in (2, 10, 9, 11, 11):
        kept.step = step
        path = saved(tmp_path, kept, policy, opt)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-0000011.4", "step-0000011.5"]
    back = checkpoint.peek(path)
    assert bytes(back.outgoing[0].body).replace(b" ", b"").replace(b"\n", b"") == b'{"a":1}'
    back.outgoing = kept.outgoing
    assert back == kept


@pytest.mark.parametrize("point", ["save_file", "commit", "sync"])
def test_a_crash_while_saving_leaves_the_one_before(llama, tmp_path, monkeypatch, point) -> None:
    policy, opt = fresh(llama())
    train(policy, opt, 0)
    good = saved(tmp_path, state(step=1), policy, opt)

    def crash(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, point, crash)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, state(step=2), policy, opt)
    assert checkpoint.found(tmp_path) == [good]
    (tmp_path / "lock").touch()
    saved(tmp_path, state(step=3), policy, opt)  # what the crash left is not in the way, and goes
    assert len(checkpoint.found(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "step-0000001.1", "step-0000003.1"]


def test_a_checkpoint_of_another_model_is_refused(llama, tmp_path) -> None:
    policy, opt = fresh(llama())
    path = saved(tmp_path, state(), policy, opt)
    with pytest.raises(ValueError, match=r"policy\.path"):
        checkpoint.restore(path, torch.nn.Linear(2, 2), opt)


def test_a_gradient_that_is_not_finite_leaves_the_weights(llama) -> None:
    policy, opt = fresh(llama())
    before = [p.clone() for p in policy.parameters()]
    train_on = policy.model.norm.weight
    (train_on.sum() * float("nan")).backward()
    with pytest.raises(FloatingPointError):
        model.apply_gradients(policy, opt, lr=1.0, clip=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text(max_size=5), max_size=4), min_size=1, max_size=5), st.data())
def test_a_torn_plan_keeps_its_whole_lines(tmp_path_factory, plans, data) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    with Journal(path) as journal:
        for step, keys in enumerate(plans, 1):
            journal.append(step, keys)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    with Journal(path) as journal:
        assert [line.rows for line in journal.after(0)] == plans[:whole]
        for step, keys in enumerate(plans[whole:], whole + 1):
            journal.append(step, keys)
    assert path.read_bytes() == content


def test_a_planned_step_keeps_its_rows(tmp_path) -> None:
    with Journal(tmp_path / "plan.jsonl") as journal:
        journal.append(1, ["a", "b"])
        journal.append(1, ["a", "b"])
        with pytest.raises(ValueError, match="step 1"):
            journal.append(1, ["b", "a"])
        journal.append(3, ["c"])
        assert [line.step for line in journal.after(0)] == [1]
        assert journal.after(1) == []
        assert [line.step for line in journal.after(2)] == [3]


@pytest.mark.parametrize("file", ["model-0.safetensors", "optimizer-0.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, None])
def test_a_checkpoint_that_is_cut_off_is_set_aside_and_the_one_before_is_taken(llama, tmp_path, file, share) -> None:
    policy, opt = fresh(llama())
    good = saved(tmp_path, state(step=1), policy, opt)
    bad = saved(tmp_path, state(step=2), policy, opt)
    content = (bad / file).read_bytes()
    (bad / file).unlink()
    if share is not None:
        (bad / file).write_bytes(content[: int(len(content) * share)])
    path, (sentence,) = checkpoint.newest(tmp_path)
    assert path == good
    assert f"the checkpoint {bad} is damaged ({file}" in sentence
    assert "was set aside as step-0000002.1.damaged; going on from step-0000001.1" in sentence
    assert checkpoint.newest(tmp_path) == (good, [])
    assert saved(tmp_path, state(step=2), policy, opt) == bad, "the name is free again"
    assert checkpoint.newest(tmp_path) == (bad, [])


def test_when_no_checkpoint_is_whole_the_run_begins_again(llama, tmp_path) -> None:
    policy, opt = fresh(llama())
    (saved(tmp_path, state(step=1), policy, opt) / "state.json").write_text("{")
    path, (sentence,) = checkpoint.newest(tmp_path)
    assert path is None
    assert "no other is left, so the run takes its steps again from its first" in sentence


def test_a_full_disk_is_told_and_leaves_the_checkpoints_as_they_were(llama, tmp_path) -> None:
    policy, opt = fresh(llama())
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.numel() for p in policy.parameters()) * 4 * 2
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        good = saved(disk, state(step=1), policy, opt)
        train(policy, opt, 0)
        with pytest.raises(OSError, match="No space left on device") as caught:
            saved(disk, state(step=2), policy, opt)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(disk)
        assert checkpoint.newest(disk) == (good, [])
        assert list(disk.iterdir()) == [good]
    finally:
        subprocess.run(["umount", disk], check=True)
