"""The [rl] section's objective: a preset, its parts set one by one, and the sentence for parts that contradict."""

import pytest
from msgspec.structs import replace

from schemas.load import BadSettings, load
from schemas.objective import PRESETS, Objective
from schemas.training_settings import RlSection


def test_nothing_set_is_the_preset() -> None:
    assert RlSection().parts() == Objective() == PRESETS["grpo"]
    for name, parts in PRESETS.items():
        assert RlSection(objective=name).parts() == parts


def test_a_preset_has_its_papers_parts() -> None:
    gspo, cispo, dr_grpo = PRESETS["gspo"], PRESETS["cispo"], PRESETS["dr_grpo"]
    assert (gspo.ratio, gspo.clip_low, gspo.clip_high, gspo.normaliser) == ("sequence", 3e-4, 4e-4, "sequence_mean")
    assert (cispo.surrogate, cispo.normaliser) == ("weight", "token_mean")
    assert (dr_grpo.advantage_std, dr_grpo.normaliser, dr_grpo.baseline) == (False, "constant", "mean")
    assert (PRESETS["dapo"].clip_low, PRESETS["dapo"].clip_high) == (0.2, 0.28)
    assert (PRESETS["decoupled"].proximal, PRESETS["decoupled"].tis_cap) == ("start", 5.0)
    assert all(parts.kl == 0 and not parts.mask_overlong for parts in PRESETS.values())
    assert all(parts.dynamic_sampling for parts in PRESETS.values())


def test_every_part_can_be_set_from_the_command_line() -> None:
    flags = {
        "surrogate": "weight",
        "ratio": "sequence",
        "proximal": "behaviour",
        "clip_low": 0.5,
        "clip_high": 0.25,
        "normaliser": "constant",
        "constant_length": 77,
        "baseline": "leave_one_out",
        "advantage_std": False,
        "kl": 0.125,
        "kl_to": "reference",
        "mask_overlong": True,
        "dynamic_sampling": False,
    }
    texts = [f"rl.{name}={str(value).lower()}" for name, value in flags.items()]
    rl = load(None, {}, texts).rl
    assert rl.parts() == replace(PRESETS["grpo"], **flags)
    assert set(flags) | {"tis_cap"} == set(Objective.__struct_fields__) - {"loss"}
    assert load(None, {}, ["rl.tis_cap=3"]).rl.parts().tis_cap == 3
    assert load(None, {}, ["rl.tis_cap=0", "rl.ratio=sequence"]).rl.parts().ratio == "sequence"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["rl.objective=ppo"], "rl.objective"),
        (["rl.objective=dapo", "rl.tis_cap=2"], "which is 1 where proximal = 'behaviour'"),
        (["rl.proximal=behaviour", "rl.tis_cap=2"], "leave one of them out"),
        (["rl.ratio=sequence"], "set tis_cap = 0 or proximal = 'behaviour'"),
        (["rl.objective=gspo", "rl.proximal=start", "rl.tis_cap=2"], "set tis_cap = 0"),
        (["rl.constant_length=100"], "normaliser = 'constant' only, and it is 'token_mean'"),
        (["rl.kl_to=reference"], "kl = 0 leaves out"),
        (["rl.kl=-1"], "rl.kl"),
        (["rl.clip_low=1.5"], "rl.clip_low"),
        (["rl.normaliser=mean"], "rl.normaliser"),
        (["rl.updates=33"], "updates = 33 needs at least as many groups, and groups = 32"),
    ],
)
def test_parts_that_contradict_each_other_get_one_sentence(flags, said) -> None:
    with pytest.raises(BadSettings) as error:
        load(None, {}, flags)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_parts_left_to_the_preset_do_not_contradict() -> None:
    assert load(None, {}, ["rl.proximal=behaviour"]).rl.parts().tis_cap == 2.0
    assert load(None, {}, ["rl.objective=gspo", "rl.proximal=start"]).rl.parts().tis_cap == 0
