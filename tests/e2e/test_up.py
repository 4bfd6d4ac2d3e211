"""The user's way: `factory up` on the real broker, engine and tables, then every question a user would ask.

One run is shared by the tests below it, since it costs minutes; a second run shows that a factory goes on.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from commands import FACTORY, TABLES, ask, counts, flags, twice
from dashboards import BY_PROMETHEUS, used
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def goes_round(data: Path) -> bool:
    """Whether two SFT and two RL versions were published and every version has its evaluation."""
    query = (
        "select count(*) filter (trainer = 'sft') as sft, count(*) filter (trainer = 'rl') as rl, "
        "(select max(version) from evaluations) as evaluated from weights"
    )
    try:
        row = ask(data, "sql", query)[0]
    except (AssertionError, IndexError):
        return False
    return bool(row["sft"] >= 2 and row["rl"] >= 2 and (row["evaluated"] or 0) >= 4)


def look_at(data: Path) -> None:
    """Scrape every process as Prometheus does, twice (the second time the lag is known), and ask `factory top`."""
    found: dict[str, float] = {}
    for wait in (15, 0):
        for file in (data / "metrics").glob("*.json"):
            for group in json.loads(file.read_text("utf-8")):
                with urlopen(f"http://{group['targets'][0]}/metrics", timeout=30) as answer:
                    families = text_string_to_metric_families(answer.read().decode())
                    found |= {sample.name: sample.value for family in families for sample in family.samples}
        time.sleep(wait)
    (data.parent / "scraped.json").write_text(json.dumps(found), "utf-8")
    (data.parent / "top.json").write_text(json.dumps(ask(data, "top")), "utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, wipe_cluster: Callable[[], None]) -> Path:
    """A data directory after `factory up` went all the way round and was stopped by Ctrl-C."""
    data = tmp_path_factory.mktemp("factory") / "data"
    wipe_cluster()
    log = data.parent / "up.log"
    with log.open("wb") as out:
        child = subprocess.Popen([*FACTORY, "up", *flags(data), "--for", "12m"], stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 700
            while time.monotonic() < deadline and child.poll() is None and not goes_round(data):
                time.sleep(5)
            look_at(data)
            child.send_signal(signal.SIGINT)
            code = child.wait(180)
        finally:
            child.kill()
    text = log.read_text("utf-8")
    assert code == 0, text[-4000:]
    assert "factory sql" in text, "the summary offers queries to try"
    return data


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
    before = counts(data)
    log = data.parent / "again.log"
    with log.open("wb") as out:
        child = subprocess.Popen([*FACTORY, "up", *flags(data), "--for", "10m"], stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 400
            while time.monotonic() < deadline and child.poll() is None and counts(data)["trees"] == before["trees"]:
                time.sleep(3)
            child.send_signal(signal.SIGINT)
            assert child.wait(180) == 0, log.read_text("utf-8")[-4000:]
        finally:
            child.kill()
    after = counts(data)
    assert all(after[table] >= before[table] for table in TABLES)
    assert after["trees"] > before["trees"], log.read_text("utf-8")[-4000:]
    assert ask(data, "ledger")["closes"] is True
