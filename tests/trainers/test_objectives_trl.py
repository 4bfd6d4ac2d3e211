"""Our losses, gradients and clip shares against TRL's GRPOTrainer on fixed tensors (made by make_trl_losses.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
import stepped
from stepped import response

from schemas.objective import Objective
from trainers import objectives

TRL = json.loads(Path(__file__).with_name("trl_losses.json").read_text("utf-8"))
NORMALISERS = {
    "grpo": "sequence_mean",
    "bnpo": "token_mean",
    "dapo": "token_mean",
    "cispo": "token_mean",
    "dr_grpo": "constant",
}


def parts_of(case) -> Objective:
    """TRL's settings in our words. For CISPO its epsilon_high is the largest weight; nothing is cut below."""
    cispo = case["loss_type"] == "cispo"
    return Objective(
        surrogate="weight" if cispo else "clip",
        ratio=case["importance_sampling_level"],
        clip_low=1.0 if cispo else case["epsilon_low"],
        clip_high=case["epsilon_high"] - cispo,
        tis_cap=TRL["cap"] if case["use_vllm"] else 0.0,
        normaliser=NORMALISERS[case["loss_type"]],
        constant_length=TRL["largest"],
        kl=case["beta"],
        kl_to="reference",
    )


def responses():
    for index, (length, advantage) in enumerate(zip(TRL["lengths"], TRL["advantages"], strict=True)):
        columns = [TRL[name][index][:length] for name in ("logp", "old", "sampling", "reference")]
        yield response(*columns, advantage=advantage)


@pytest.mark.parametrize("name", TRL["cases"])
def test_the_loss_and_its_gradient_are_trls(name) -> None:
    case, step = TRL["cases"][name], list(responses())
    parts, made = parts_of(case), stepped.tokens(step)
    loss, sums = objectives.loss(made, parts, objectives.normaliser(TRL["lengths"], parts))
    loss.backward()
    value = float(loss.detach())
    assert value == pytest.approx(case["loss"], abs=1e-12)
    theirs = [slope for row, length in zip(case["gradient"], TRL["lengths"], strict=True) for slope in row[:length]]
    assert made.logp.grad.tolist() == pytest.approx(theirs, abs=1e-12)
    assert value == pytest.approx(stepped.loss(step, parts), abs=1e-12)
    if "clip_low" in case and parts.ratio == "token":
        got = objectives.metrics(sums)
        assert (got["clip_low"], got["clip_high"]) == pytest.approx((case["clip_low"], case["clip_high"]))


def test_the_cases_hold_tokens_at_both_ends() -> None:
    assert {"grpo", "dr_grpo", "dapo", "gspo", "cispo", "truncated_weight"} <= set(TRL["cases"])
    assert TRL["cases"]["dapo"]["clip_low"] > 0
    assert TRL["cases"]["dapo"]["clip_high"] > 0
    weights = np.exp(np.array(TRL["old"]) - np.array(TRL["sampling"]))
    assert weights.max() > TRL["cap"] > weights.min()
