"""Dashboards and alerts are what their source makes, PromQL parses them, and every metric in them is exported."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from dashboards import BY_PROMETHEUS, alerts, names, panels, parsed, used
from prometheus_client import REGISTRY

from deploy.grafana import queries
from deploy.grafana.__main__ import ROOT, files
from deploy.stages import STAGES
from processors.metrics import NUMBERS, numbers
from processors.status import Status


@pytest.fixture
def exported(make_settings):
    """Every sample's name that our processes export, by what a scrape of every stage with every number gives."""
    found = set()
    for stage in STAGES:
        status = Status(make_settings(), stage)
        status.set(**{number.field: 1 for number in NUMBERS if number.name != "lag" or stage in queries.QUEUED})
        found |= {sample.name for family in numbers(status) for sample in family.samples}
    return found | {sample.name for family in REGISTRY.collect() for sample in family.samples}


def of_vllm():
    """The metrics that the installed vLLM makes, from its source: importing it takes long."""
    spec = importlib.util.find_spec("vllm")
    text = (Path(spec.origin).parent / "v1" / "metrics" / "loggers.py").read_text("utf-8")
    made = set(re.findall(r'name="(vllm:\w+)"', text))
    return {name + end for name in made for end in ("", "_total", "_bucket", "_sum", "_count")}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_committed_files_are_what_the_source_makes(path):
    assert path.read_text("utf-8") == files()[path], "run: python -m deploy.grafana"


def test_every_metric_name_is_exported_by_the_code(exported):
    ours = {name for name in used() if not name.startswith("vllm:")}
    assert len(ours) > 60
    assert ours - exported - BY_PROMETHEUS == set()
    assert used() - ours - of_vllm() == set()


def test_every_stage_and_every_kind_of_number_is_looked_at():
    for stage in STAGES:
        for number in ("records_total", "errors_total", "in_flight", "duration_seconds_bucket"):
            assert f"factory_{stage}_{number}" in used()
    assert {name.split("_")[1] for name in used() if name.endswith("_lag")} == set(queries.QUEUED)


def test_a_name_that_is_not_exported_cannot_be_written():
    with pytest.raises(KeyError):
        queries.metric("search", "trees")


def test_the_names_are_found_in_promql():
    expr = 'sum by (le) (rate(factory_a_b_total{job="factory"}[$__rate_interval])) / max(up) > 3 and x unless y'
    assert names(expr) == {"factory_a_b_total", "up", "x", "y"}
    with pytest.raises(ValueError):
        parsed("sum(rate(x[5m])")


def test_panels_fill_the_grid_without_lying_on_each_other():
    taken = set()
    for name, panel in panels():
        at = panel["gridPos"]
        place = {(name, x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not place & taken, panel["title"]
        taken |= place
    ids = [(name, panel["id"]) for name, panel in panels()]
    assert len(set(ids)) == len(ids)
    for _, panel in panels():
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters) <= 26
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", []))


def test_every_alert_says_what_is_wrong_and_where_to_look():
    seen = set()
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        key = (rule["alert"], rule["labels"].get("stage"))
        assert key not in seen
        seen.add(key)
    assert {stage for alert, stage in seen if alert == "FactoryStalled"} == set(queries.QUEUED)
    assert {stage for alert, stage in seen if alert == "FactoryStageGone"} == set(STAGES)


def test_a_process_that_was_just_started_has_not_stalled():
    """It needs a past: the rule has to hold for as long as it looks back."""
    for rule in (rule for rule in alerts() if rule["alert"] == "FactoryStalled"):
        assert set(re.findall(r"\[(\w+)", rule["expr"])) == {rule["for"]}


def test_only_a_loss_is_plotted_below_zero():
    """RL's objective is negative as often as not."""
    drawn = [panel for _, panel in panels() if "fieldConfig" in panel]
    axes = {panel["title"]: panel["fieldConfig"]["defaults"].get("min") for panel in drawn}
    assert [title for title, least in axes.items() if least is None] == ["Loss"]
    assert set(axes.values()) == {None, 0}


def test_prometheus_beside_a_factory_reads_its_targets_and_these_rules():
    """The paths in examples/prometheus.yaml are relative to it, as Prometheus reads them."""
    path = ROOT / "examples" / "prometheus.yaml"
    content = yaml.safe_load(path.read_text("utf-8"))
    (rules,) = content["rule_files"]
    assert (path.parent / rules).resolve() == ROOT / "deploy" / "grafana" / "alerts.yaml"
    (job,) = content["scrape_configs"]
    (pattern,) = job["file_sd_configs"][0]["files"]
    assert (path.parent / pattern).resolve() == ROOT / "data" / "metrics" / "*.json"
    assert job["job_name"] == "factory", "the job that the dashboards and alerts ask for"
