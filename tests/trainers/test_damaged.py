"""A trainer whose last checkpoint was cut off goes on from the one before, on the very same steps; old weights go."""

from pathlib import Path

import pytest
from running import until
from test_sft import FLAGS, curve, example

from processors.expired import MARK
from schemas.messages import Filtered, TrainingStep, Weights
from trainers import checkpoint, sft

pytestmark = pytest.mark.slow

ON = ("sft.hand_over_steps=0", "sft.schedule=constant", "sft.epochs=50")
TIDY = ("weights.keep=1", "search.timeout_s=0.001", 'factory.stages=["sink","sft"]')


def test_a_cut_checkpoint_costs_its_steps_and_nothing_else(make_factory, start, capfd) -> None:
    factory = make_factory(*FLAGS, *ON, *TIDY)
    root = Path(factory.settings.factory.data) / "checkpoints" / "sft"
    factory.table(*[example(i) for i in range(60)])
    trainer = start(sft.run, factory.settings, "sft")
    trainer.until(lambda: len(factory.topic(Weights)) > 3)
    trainer.end()
    last = checkpoint.found(root)[-1]
    model = last / "model-0.safetensors"
    model.write_bytes(model.read_bytes()[:1000])
    reached = max(row.step for row in factory.topic(TrainingStep))

    again = start(sft.run, factory.settings, "sft")
    again.until(lambda: max(curve(factory)) > reached + 3)  # `curve` sees that a step taken twice is the same twice
    again.end()
    said = capfd.readouterr().err
    assert f"{last} is damaged (model-0.safetensors is cut off or gone) and was set aside" in said
    assert "; going on from step-" in said
    rows = factory.topic(Weights)
    assert len({(row.version, row.sha256) for row in rows}) == len({row.version for row in rows})
    assert sorted(curve(factory)) == list(range(1, max(curve(factory)) + 1))

    # Of the versions that were replaced only marks are left, and a row for each.
    told = {row.input_id for row in factory.topic(Filtered) if row.stage == "weights"}
    gone = [row for row in rows if (Path(row.path) / MARK).exists()]
    assert {f"{row.version}:{row.sha256}" for row in gone} == told
    assert {row.version for row in gone} >= {1, 2}
    until(lambda: told <= {row.input_id for row in factory.rows(Filtered, "stage = 'weights'")})
