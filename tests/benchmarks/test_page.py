"""docs/benchmarks.md is what the result files say, and the results have the form that is asked for."""

import json
import re

from benchmarks import page, report


def test_a_result_has_mean_lowest_and_highest(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    path = report.write("sample", 3, {"speed": [1.0, 2.0, 6.0]}, {"ours_over_theirs": 1.5}, ["how"])
    result = json.loads(path.read_text())
    assert set(result) == {"name", "commit", "machine", "runs", "values", "ratios", "notes"}
    assert result["values"] == {"speed": {"mean": 3.0, "min": 1.0, "max": 6.0}}
    assert result["ratios"] == {"ours_over_theirs": 1.5}
    assert re.fullmatch(r"[0-9a-f]+\+?", result["commit"])
    text = page.section(result)
    assert "| ours_over_theirs | 1.50 |  |" in text
    assert "| speed | 3 | 1 | 6 |" in text


def test_the_page_is_made_from_the_committed_results():
    results = [json.loads(path.read_text()) for path in sorted(page.RESULTS.glob("*.json"))]
    assert {result["name"] for result in results} == {
        "budget",
        "cloning",
        "grading",
        "memory",
        "search",
        "stream",
        "studio",
        "train",
    }
    assert page.PAGE.read_text() == "\n".join([page.HEAD, *map(page.section, results)])
