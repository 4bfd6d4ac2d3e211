"""What is compared with what: equal tokens, ablations, the pairs that there are."""

import numpy as np
import pytest

from deploy.reproduce.report_arms import Table
from deploy.reproduce.report_plots import colour, label
from deploy.reproduce.report_results import Boots, differences, equal_tokens, pairs


def table(name: str, *, tokens: float, seeds=(0, 1), **values: float) -> Table:
    """An arm with the same values on ten problems."""
    every = {"tokens": tokens, **{key.replace("_at_", "@"): value for key, value in values.items() if "_at_" in key}}
    every["pass_at_1"] = values["right"]
    return Table(name, seeds, {key: np.full((len(seeds), 10), value) for key, value in every.items()}, ())


BASE = {"right": 0.2, "maj_at_2": 0.2, "maj_at_4": 0.4, "pass_at_2": 0.5, "pass_at_4": 0.9}


def test_at_equal_tokens_the_base_takes_as_many_samples_as_one_response_costs():
    arms = {"base": table("base", tokens=10, seeds=(-1,), **BASE), "astro_rl": table("astro_rl", tokens=30, right=0.6)}
    equal = equal_tokens(arms, Boots())
    one = equal["base"]
    assert (equal["tokens"], one["samples"]) == (30, 3)
    assert one["maj"].mean == pytest.approx(30)  # between maj@2 = 20 and maj@4 = 40
    assert one["pass"].mean == pytest.approx(70)
    assert one["astro_rl_minus_maj"].mean == pytest.approx(30)
    assert one["astro_rl_minus_pass"].mean == pytest.approx(-10)


@pytest.mark.parametrize("tokens", [5, 50])
def test_with_less_than_one_sample_or_more_than_were_taken_nothing_is_compared(tokens):
    arms = {
        "base": table("base", tokens=10, seeds=(-1,), **BASE),
        "astro_rl": table("astro_rl", tokens=tokens, right=1.0),
    }
    one = equal_tokens(arms, Boots())["base"]
    assert one["maj"] is one["pass"] is one["astro_rl_minus_maj"] is None
    assert one["samples"] == tokens / 10


def test_an_ablation_is_compared_with_astro_and_with_its_control():
    names = ["base", "direct_rl", "astro_rl", "astro_k2_rl", "astro_no_phrases_rl"]
    found = pairs(names)
    assert {("astro_k2_rl", "astro_rl"), ("astro_k2_rl", "direct_rl"), ("astro_no_phrases_rl", "base")} <= set(found)
    assert len(found) == len(set(found))
    assert all(set(pair) <= set(names) for pair in found)
    assert label("astro_k2_rl") == "ASTRO-k2-RL"
    assert label("best_of_n_sft") == "best-of-N-SFT"
    assert colour("astro_rl") == colour("astro") != colour("astro_k2_rl")


def test_arms_without_a_seed_in_common_have_no_difference():
    arms = {
        "astro_rl": table("astro_rl", tokens=1, right=1.0, seeds=(0,)),
        "direct_rl": table("direct_rl", tokens=1, right=0.5, seeds=(1,)),
        "base": table("base", tokens=1, right=0.25, seeds=(-1,)),
    }
    found = differences(arms, Boots())
    assert "astro_rl_minus_direct_rl" not in found
    assert (found["astro_rl_minus_base"].mean, found["direct_rl_minus_base"].mean) == (75, 25)
