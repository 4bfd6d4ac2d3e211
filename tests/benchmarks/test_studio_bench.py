"""The studio's benchmark asks for every page, and measures what it says, at a size that says nothing of speed."""

import json
import re

import pytest

from benchmarks import report, studio, studio_rows
from deploy.studio.server import PAGES

ROWS = {"problems": 128, "trees": 128, "rollouts": 1_000}


def test_every_page_is_asked_for():
    probes = studio.probes(ROWS)
    paths = [probe.path.partition("?")[0] for probe in probes if probe.status == 200]
    for page, _ in PAGES:
        pattern = re.sub(r"\{\w+\}", "[^/]+", page)
        assert page == "/ledger" or any(re.fullmatch(pattern, path) for path in paths), page  # which has its own clock
    assert len({probe.name for probe in probes}) == len(probes)


def test_ratios_are_of_the_worst_page_and_of_pages_with_a_bare_query():
    asked = [studio.Probe("a", "/a", "SELECT 1"), studio.Probe("b", "/b"), studio.Probe("file", "/f", page=False)]
    told = {
        "a": studio.Told(cold=0.5, first=0.4, warm=0.1, warm_worst=0.2, first_cpu=0.3, warm_cpu=0.06, bare_cpu=0.03),
        "b": studio.Told(first=1.5, warm=0.3, warm_worst=0.4, first_cpu=0.2, warm_cpu=0.1),
        "file": studio.Told(first=9.0, warm=9.0, warm_worst=9.0, first_cpu=9.0, warm_cpu=9.0),
    }
    found = studio.ratios(asked, told, {"sql_s": 0.7, "ledger_s": 3.0})
    assert found == {
        "worst_cold_page_s": 0.5, "worst_first_page_s": 1.5, "worst_warm_page_s": 0.4, "median_warm_page_s": 0.2,
        "worst_first_page_cpu_s": 0.3, "worst_warm_page_cpu_s": 0.1, "pages_over_limit": 1.0, "page_over_bare_cpu": 2.0,
        "sql_command_s": 0.7, "ledger_command_s": 3.0,
    }  # fmt: skip


@pytest.mark.slow
def test_a_small_directory_is_filled_and_pages_timed(tmp_path, monkeypatch, capsys):
    some = [one for at, one in enumerate(studio.probes(ROWS)) if at % 5 == 0 or one.name == "group"]
    monkeypatch.setattr(studio, "probes", lambda _rows: some)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(studio, "WARM", 1)
    studio.result(tmp_path / "data", studio_rows.Sizes(nodes=1, groups=1_000, versions=10, letters=200))
    result = json.loads((tmp_path / "results" / "studio.json").read_text())
    assert "nodes 19," in result["notes"][1]
    assert "duckdb" in result["notes"][2]
    assert len(result["notes"]) == 3 + studio.SLOWEST
    assert all(value["mean"] > 0 for value in result["values"].values())
    assert re.search(r"^group +cold .* s, CPU .*; first .*; warm .*; bare ", capsys.readouterr().out, re.MULTILINE)
