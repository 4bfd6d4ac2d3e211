"""Which process hosts a stage: linearize goes where an engine is when the model rewrites, and keeps its name."""

import pytest

from deploy.placement import plan
from deploy.plan import check
from deploy.stages import ENGINE_STAGES, STAGES, generates
from schemas.load import BadSettings


@pytest.mark.parametrize("workers", ["shared", "separate"])
@pytest.mark.parametrize("rewriter", ["template", "model"])
def test_linearize_shares_the_engine_of_the_search_where_the_model_rewrites(make_settings, workers, rewriter) -> None:
    settings = make_settings(f"factory.workers={workers}", f"linearize.rewriter={rewriter}")
    specs = plan(settings)
    assert sorted(stage for spec in specs for stage in spec.stages) == sorted(STAGES), "each stage once"
    (host,) = [spec for spec in specs if "linearize" in spec.stages]
    assert ("search" in host.stages) == (rewriter == "model")
    assert host.arguments == ("host", *host.stages)
    assert not [spec for spec in specs if not spec.stages]
    assert [stage for stage in STAGES if generates(stage, settings)] == [
        *ENGINE_STAGES, *(["linearize"] if rewriter == "model" else []),
    ]  # fmt: skip


def test_only_the_stages_asked_for_are_started(make_settings) -> None:
    settings = make_settings("factory.workers=shared", 'factory.stages=["sink", "verify", "sample", "rl"]')
    assert [(spec.name, spec.stages) for spec in plan(settings)] == [
        ("sink", ("sink",)), ("engine", ("sample",)), ("words", ("verify",)), ("rl", ("rl",)),
    ]  # fmt: skip
    words = make_settings("factory.workers=separate", 'factory.stages=["linearize"]')
    assert [spec.arguments for spec in plan(words)] == [("host", "linearize")]


def test_processes_of_one_machine_take_the_ports_after_the_first(make_settings) -> None:
    """Each process serves its metrics; on a free port there is nothing to hand out."""
    specs = plan(make_settings("metrics.port=9400"))
    assert [spec.arguments[-2:] for spec in specs] == [
        ("--set", f"metrics.port={9400 + at}") for at in range(len(specs))
    ]  # fmt: skip
    assert len(specs) > 5
    assert not [spec for spec in plan(make_settings()) if "--set" in spec.arguments]


def test_ports_that_are_not_there_are_refused_before_anything_starts(make_settings) -> None:
    check(make_settings(f"metrics.port={65_536 - len(plan(make_settings()))}"))
    with pytest.raises(BadSettings, match=r"metrics\.port = 65535: .* lower it"):
        check(make_settings("metrics.port=65535"))
