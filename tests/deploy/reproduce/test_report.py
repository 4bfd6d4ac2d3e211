"""The report of a small experiment with known numbers: JSON against SQL, and what the two texts say and hold."""

import json
import re

import experiment as e
import pytest

from deploy.reproduce import report, report_sentences, report_text
from deploy.reproduce.fork import fork
from deploy.reproduce.report_arms import NothingToReport
from deploy.reproduce.report_html import page
from deploy.reproduce.report_text import fence
from processors.dataset import Datasets

PASS = """
select 100 * avg(share) from (select list_avg([(v = 'correct')::int for v in verdicts]) as share
from answers where problem.source = 'test' and version = {})
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    made = e.make(tmp_path_factory.mktemp("experiment") / "out")
    # an earlier evaluation of the same version, which asked less: the last one counts
    e.write(made, "seed-0/astro", e.answers(4, 0, [e.DIRECT[1]], name="before", time=0.5))
    report.write(made)
    return made


@pytest.fixture(scope="module")
def numbers(out):
    return json.loads((out / "report.json").read_text("utf-8"))


def asked(data, sql):
    with Datasets(data / "datasets").connect() as connection:
        return connection.execute(sql).fetchone()[0]


def test_accuracies_are_those_of_the_tables(out, numbers):
    arms = numbers["arms"]
    assert list(arms) == ["base", "direct_sft", "best_of_n_sft", "astro_sft", "direct_rl", "astro_rl"]
    assert arms["base"]["pass_at_1"]["mean"] == pytest.approx(asked(out / "search", PASS.format(0)))
    for name, where in {"direct_sft": ("direct", 1), "direct_rl": ("direct", 4), "astro_sft": ("astro", 1)}.items():
        for seed in (0, 1):
            points = asked(out / f"seed-{seed}" / where[0], PASS.format(where[1]))
            assert arms[name]["seeds"][str(seed)]["pass_at_1"] == pytest.approx(points), name
    assert arms["astro_rl"]["pass_at_1"]["mean"] == pytest.approx(100 * 5 * 0.75 / 6)
    for arm in arms.values():
        assert arm["pass_at_1"]["low"] <= arm["pass_at_1"]["mean"] <= arm["pass_at_1"]["high"]
        assert arm["problems"] == 6


def test_first_attempts_and_what_backtracks_leave(numbers):
    astro, base = numbers["arms"]["astro_rl"], numbers["arms"]["base"]
    right = 100 * 5 * 0.75 / 6
    assert astro["first_attempt"] == pytest.approx(100 - right), "every right one was wrong at first, and conversely"
    assert astro["self_corrected"] == pytest.approx(right)
    assert astro["spoiled"] == astro["backtracks_leaving_right"] == pytest.approx(100 - right)
    assert (astro["backtracks"], astro["with_backtrack"]) == (1, 100)
    assert base["first_attempt"] == base["pass_at_1"]["mean"]
    assert base["backtracks_leaving_right"] is None
    assert numbers["differences_first_attempt"]["astro_rl_minus_base"]["mean"] == pytest.approx(100 - right - 125 / 6)


def test_more_samples_solve_more_and_votes_may_lose(numbers):
    direct = numbers["arms"]["direct_rl"]
    assert list(direct["pass_at_k"]) == list(direct["maj_at_k"]) == ["2", "4"]
    assert direct["pass_at_k"]["2"]["mean"] == pytest.approx(100 * 5 / 6 * (1 - 1 / 6))
    assert numbers["arms"]["base"]["maj_at_k"]["4"]["mean"] == 0


def test_differences_are_paired(numbers):
    differences = numbers["differences"]
    one = differences["astro_rl_minus_direct_rl"]
    assert one["mean"] == pytest.approx(100 * 5 * 0.25 / 6)
    # the seeds of Direct-SFT differ and those of the base do not exist: it stands beside both
    assert differences["direct_sft_minus_base"]["mean"] == pytest.approx((0 + 100 * 5 * 0.25 / 6) / 2)
    wanted = "astro_rl_minus_base astro_sft_minus_direct_sft direct_rl_minus_base astro_rl_minus_astro_sft"
    assert set(wanted.split()) <= set(differences)


def test_matched_quantities_costs_and_curves(numbers):
    direct = numbers["arms"]["direct_rl"]
    assert (direct["sft_steps"], direct["sft_tokens"], direct["sft_examples"]) == (3, 300, 3)
    assert (direct["rl_steps"], direct["rl_tokens"], direct["rl_rollouts"]) == (8, 800, 64)
    assert "rl_steps" not in numbers["arms"]["direct_sft"]
    assert [(row["strategy"], row["tokens"]) for row in numbers["search"]["search"]] == [("mcts", 150)]
    steps = numbers["curves"]["training"]["seed-0/astro"]
    assert [row["step"] for row in steps] == list(range(1, 9))
    dev = numbers["curves"]["dev"]["seed-1/direct"]
    assert [(row["step"], round(row["pass_at_1"], 9)) for row in dev] == [(0, 10), (4, 20), (6, 30), (8, 40)]
    assert numbers["correlation"]["n"] == 8
    assert 0 < numbers["correlation"]["pearson_r"] < 1
    assert numbers["wall"]["total"] == 90
    assert numbers["trained_on_test_problems"] == 0


def test_the_text_says_what_the_numbers_say(out, numbers):
    text = (out / "report.md").read_text("utf-8")
    assert "ASTRO-RL beats Direct-RL by 20.8 points" in text
    assert (
        f"| ASTRO-RL | {report_sentences.spread(numbers['arms']['astro_rl']['pass_at_1'])} | 81.8 | 64.4 | 30.0 |"
        in text
    )
    assert "factory reproduce --scale smoke --seeds 0,1" in text
    assert e.CORRECTED in text, "the sample of a win"
    assert "void" not in text
    for name in re.findall(r"\(plots/(\w+\.svg)\)", text):
        assert (out / "plots" / name).read_text("utf-8").startswith("<svg")
    assert len(list((out / "plots").iterdir())) == 4


@pytest.mark.parametrize(
    ("interval", "verb"),
    [
        ((2, 1, 3), "beats"),
        ((-2, -3, -1), "loses to"),
        ((1, -1, 3), "cannot be told apart"),
        ((0, 0, 0), "equals"),
        ((0, -9, 9), "cannot be told apart"),
    ],
)
def test_a_loss_is_called_a_loss(interval, verb):
    said = report_sentences.contest(dict(zip(("mean", "low", "high"), interval, strict=True)), "A", "B")
    assert said.startswith(f"A {verb}")


def test_the_page_needs_nothing_else_and_obeys_no_model(out):
    html = (out / "report.html").read_text("utf-8")
    assert html.count("<svg") == 4
    assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!#)""", html)
    assert not re.search(r"(?i)<script|<link|<iframe|@import|<!DOCTYPE svg|url\((?!#)", html)
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)
    assert "prefers-color-scheme: dark" in html.replace("scheme:dark", "scheme: dark")
    hostile = "<script>alert(1)</script>\n```\n<img src=x>\n[a](javascript:b)"
    shown = page(f"{fence(hostile)}\n\n<script>x</script>", {})
    assert "<script" not in shown
    assert "<img" not in shown
    assert "href" not in shown


def test_of_a_test_problem_that_was_trained_on_the_report_says_that_it_is_void(out, tmp_path):
    example = e.m.Example(
        id="x", tree_id="t", trace_sha="", problem=e.problem(2), arm="direct", text="", backtracks=0, verdict="correct",
        checks=[],
    )  # fmt: skip
    part = e.part(tmp_path / "out", out, ["seed-0/direct"])
    fork(out / "search", part / "search")
    e.write(part, "search", example)
    plan = json.loads((part / "plan.json").read_text())
    plan["dirs"]["search"] = "search"
    (part / "plan.json").write_text(json.dumps(plan))
    told = report.compute(part)
    assert told["trained_on_test_problems"] == 1
    assert report_sentences.clean(told).startswith("WARNING: 1 test problems")


def test_an_unfinished_experiment_is_reported_as_far_as_it_is(out, tmp_path):
    part = e.part(tmp_path / "out", out, ["seed-0/direct"])
    report.write(part)
    told = json.loads((part / "report.json").read_text("utf-8"))
    assert list(told["arms"]) == ["base", "direct_sft", "direct_rl"]
    assert told["equal_tokens"] == told["examples"] == {}
    assert told["bootstrap"]["seeds"] == [0]
    text = (part / "report.md").read_text("utf-8")
    assert "ASTRO-RL" not in text.partition("## Accuracy")[0]
    assert "There is one seed" in text


def test_seeds_that_one_arm_lacks_are_left_out_of_its_differences(out, tmp_path):
    part = e.part(tmp_path / "out", out, ["seed-0/direct", "seed-1/direct", "seed-1/astro"])
    told = report.compute(part)
    assert told["differences"]["astro_sft_minus_direct_sft"]["mean"] == pytest.approx(-100 * 5 * 0.25 / 6), (
        "seed 1 alone"
    )
    assert list(told["arms"]["astro_rl"]["seeds"]) == ["1"]
    assert list(told["arms"]["direct_rl"]["seeds"]) == ["0", "1"]


def test_without_answers_one_sentence(out, tmp_path):
    part = e.part(tmp_path / "out", out, [])
    plan = json.loads((part / "plan.json").read_text())
    plan["dirs"]["search"] = "nowhere"
    (part / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(NothingToReport, match="no version has answered the test yet"):
        report.write(part)


def test_the_query_that_the_report_gives_works(out, numbers):
    points = [asked(out / f"seed-{seed}" / "direct", report_text.QUERY) for seed in (0, 1)]
    assert sum(points) / 2 == pytest.approx(numbers["arms"]["direct_rl"]["pass_at_1"]["mean"])
