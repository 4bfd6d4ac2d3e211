"""The user's way: `factory up` on the real broker, engine and tables, then every question a user would ask.

One run is shared by the tests below it, since it costs minutes; a second run shows that a factory goes on.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import FACTORY, TABLES, ask, counts, flags, goes_round, look, twice
from dashboards import BY_PROMETHEUS, used

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_problems_became_trees_traces_examples_and_a_better_known_policy(data: Path) -> None:
    assert goes_round(data)
    assert all(count > 0 for count in counts(data).values()), counts(data)
    versions = ask(data, "sql", "select version, trainer, handover from weights order by version")
    assert [row["version"] for row in versions] == list(range(len(versions)))
    assert sum(row["handover"] for row in versions) == 1


def test_prometheus_found_every_metric_of_the_dashboards_and_alerts(data: Path) -> None:
    scraped = json.loads((data.parent / "scraped.json").read_text("utf-8"))
    assert used() - set(scraped) - BY_PROMETHEUS == set()
    assert scraped["vllm:generation_tokens_total"] > 0
    assert not list((data / "metrics").iterdir()), "a factory that has ended is no target"


def test_top_had_the_numbers_that_prometheus_had(data: Path) -> None:
    scraped = json.loads((data.parent / "scraped.json").read_text("utf-8"))
    top = json.loads((data.parent / "top.json").read_text("utf-8"))
    assert top["broker"] == ""
    for stage, now in top["stages"].items():
        assert now["processes"] == 1
        assert now["records"] >= scraped[f"factory_{stage}_records_total"] > 0, "it was asked a moment later"
        assert (now["lag"] is not None) == (f"factory_{stage}_lag" in scraped)


def test_a_problem_can_be_followed_from_its_source_into_the_weights(data: Path) -> None:
    query = (
        "select r.problem.id as id from training t, unnest(t.rows) g(id) join rewards r on r.id = g.id "
        "where t.trainer = 'rl' order by t.step limit 1"
    )
    found = ask(data, "show", "problem", ask(data, "sql", query)[0]["id"])
    assert {"produce", "search", "prompts", "sample", "verify", "rl"} <= {one["stage"] for one in found["passages"]}
    assert {"problems", "trees", "rollouts", "rewards", "training", "weights"} <= {
        one["table"] for one in found["passages"]
    }
    assert all(one["after"] >= 0 for one in found["passages"] if one["after"] is not None)


def test_the_ledger_closes(data: Path) -> None:
    assert ask(data, "ledger")["closes"] is True


def test_every_example_can_be_traced_to_its_tree_and_ends_in_the_right_answer(data: Path) -> None:
    orphans = ask(
        data, "sql",
        "select count(*) as n from examples e left join traces t on t.id = e.id left join trees r on r.id = t.tree_id "
        "where r.id is null or e.verdict <> 'correct' or t.tree_sha <> r._sha",
    )  # fmt: skip
    assert orphans[0]["n"] == 0
    backtracks = ask(data, "sql", "select count(*) as n from examples where backtracks > 0")
    assert backtracks[0]["n"] > 0


def test_the_samplers_used_the_new_weights_within_the_lag(data: Path) -> None:
    query = "select distinct s.version as v from rollouts, unnest(rollouts) as r(r), unnest(r.spans) as u(s)"
    used = ask(data, "sql", query)
    assert len(used) >= 2, "the rollouts come from more than one version"
    lag = ask(data, "sql", "select max(lag_max) as lag from training where trainer = 'rl'")
    assert lag[0]["lag"] <= 4


def test_no_row_is_there_twice(data: Path) -> None:
    assert twice(data) == {}


def test_a_tree_and_a_trace_can_be_looked_at(data: Path) -> None:
    trace = ask(data, "sql", "select id, tree_id from traces where backtracks > 0 limit 1")[0]
    assert ask(data, "show", "trace", trace["id"])["backtracks"] > 0
    assert ask(data, "show", "tree", trace["tree_id"])["id"] == trace["tree_id"]


def test_it_goes_on_from_the_same_data_and_the_counts_only_grow(data: Path) -> None:
    before, trees = counts(data), "select count(*) from trees"
    log = data.parent / "again.log"
    with log.open("wb") as out:
        child = subprocess.Popen([*FACTORY, "up", *flags(data), "--for", "10m"], stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 400
            while time.monotonic() < deadline and child.poll() is None and look(data, trees) == (before["trees"],):
                time.sleep(3)
            child.send_signal(signal.SIGINT)
            assert child.wait(180) == 0, log.read_text("utf-8")[-4000:]
        finally:
            child.kill()
    after = counts(data)
    assert all(after[table] >= before[table] for table in TABLES)
    assert after["trees"] > before["trees"], log.read_text("utf-8")[-4000:]
    assert ask(data, "ledger")["closes"] is True
