"""docs/extending.md as it stands: its blocks make a package whose parts the factory finds, uses and refuses by name."""

import asyncio
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from documented import ROOT, blocks, install, metadata
from forest import example
from scripted import Cycle, Words

from deploy import plan
from deploy.extending import tried
from processors import linearizer
from processors.grading import Grader
from processors.grading_pool import GraderFailed
from processors.policy import Completion
from processors.rewriter import installed
from processors.search_driver import Driver
from processors.strategy import Ask
from producers.sources.held_out import Reserved, held_out
from producers.sources.opening import open_all
from schemas import plugins
from schemas.codec import content_sha, encode
from schemas.load import BadSettings, load
from schemas.messages import Problem, Trace, Weights
from trainers import objectives

PAGE = "extending.md"
NAMES = {"squares", "daytime", "until_two", "so", "reinforce"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory of installed packages, for this process and those that it starts."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", str(place))
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", "") or "").startswith(str(place)):
            del sys.modules[name]


@pytest.fixture
def parts(place) -> Path:
    install(PAGE, place)
    return place


def package(place: Path, code: str, *entries: str, name: str = "other") -> None:
    """Install another package with one module and entry points 'group name attribute'."""
    (place / f"{name}.py").write_text(code, "utf-8")
    lines = [f"[astro_factory.{group}]\n{key} = {name}:{what}\n" for group, key, what in map(str.split, entries)]
    metadata(place, name, "1.0", "".join(lines))


def test_what_the_page_installs_is_found_and_listed(parts):
    assert {one.name for one in tried()} >= NAMES
    assert all(one.package == "my-parts 0.1" and not one.problem for one in tried() if one.name in NAMES)


@pytest.mark.slow
def test_the_pages_commands_run(parts, tmp_path):
    scripts = [block.text for block in blocks(PAGE) if block.language == "sh"]
    assert len(scripts) >= 5
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", "\n".join(scripts)],
        cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("my-parts 0.1", '"outcome": "correct"', "search.strategy = until_two", "rl.objective = reinforce"):
        assert said in done.stdout, done.stdout


def test_the_source_gives_problems_and_others_for_the_evaluation(parts, make_settings, tmp_path):
    (text,) = (block.text for block in blocks(PAGE) if block.file == "factory.toml")
    (tmp_path / "factory.toml").write_text(text, "utf-8")
    settings = load(tmp_path / "factory.toml", {}, ["evaluate.problems=5"])
    plan.check(settings)
    ((source, weight),) = open_all(settings)
    first = list(itertools.islice(source.items(), 30))
    assert [item.index for item in first] == list(range(30))
    assert first[7:20] == list(itertools.islice(source.items(7), 13)), "a restart goes on with the same ones"
    problem = first[0].problem
    assert (problem.source, problem.difficulty, weight) == ("squares", 3.0, 1.0)
    assert int(problem.question.split()[-1].rstrip("?")) ** 2 == int(problem.answer)
    kept = held_out(settings)
    assert len({problem.question for problem in kept}) == 5
    assert kept != [item.problem for item in first[:5]]
    assert Reserved(settings).why(kept[0]).startswith("held_out")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def make(name, params, seed, purpose): raise ValueError('give it params.size')", "give it params.size"),
        ("def make(name): pass", "cannot be opened"),
        ("def make(*_): return 3", "needs `name` and a method"),
        ("make = 3", "no function or class but int"),
        ("import nothing_of_this_name", "cannot be imported"),
        ("import sys; sys.exit('no GPU')", "'bad' of other 1.0 cannot be imported .SystemExit: no GPU"),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(place, code, says):
    package(place, code, "problem_sources bad make")
    settings = load(None, {}, ['problems.sources=[{kind="bad", name="n"}]'])
    with pytest.raises((BadSettings, plugins.BadPlugin), match=says):
        open_all(settings)


MISDEEDS = """
import time
print("a line on stdout at import")
def slow(answer, problem):
    time.sleep(60)
def broken(answer, problem):
    return {}["key"]
def unsure(answer, problem):
    return 1
def hungry(answer, problem):
    return len(bytearray(1 << 40)) > 0
def chatty(answer, problem):
    print("correct")
    return problem["metadata"] == "m" and problem["question"] == "When?"
"""


def test_a_grader_judges_behind_the_guards_and_its_defects_are_told(parts, make_settings):
    names = ("slow", "broken", "unsure", "hungry", "chatty")
    package(parts, MISDEEDS, *(f"graders {name} {name}" for name in names), "graders gone gone")

    def problem(kind: str) -> Problem:
        return Problem(id="p", question="When?", answer="14:30", grader=kind, source="s", metadata="m")

    grader = Grader(make_settings("verify.timeout_s=0.5"))

    def outcome(kind: str, said: str) -> str:
        return grader.grade_sync(problem(kind), said).outcome

    try:
        assert outcome("daytime", "Answer: 2:30 pm") == "correct"
        assert outcome("daytime", "Answer: 3") == "wrong"
        assert outcome("daytime", "Answer: x") == outcome("daytime", "no answer") == "unparsable"
        assert outcome("slow", "Answer: 1") == "timeout"
        assert outcome("hungry", "Answer: 1") == "rejected"
        assert outcome("chatty", "Answer: 1") == "correct"
        for name, says in (("broken", "KeyError: 'key'"), ("unsure", "returned int"), ("gone", "cannot be imported")):
            with pytest.raises(GraderFailed, match=says):
                grader.grade_sync(problem(name), "Answer: 1")
        with pytest.raises(plugins.BadPlugin, match=r"no grader 'nowhere'.*built in: countdown.*installed: .*daytime"):
            grader.grade_sync(problem("nowhere"), "Answer: 1")
        assert grader.grade_sync(problem("daytime"), "Answer: 14:30").outcome == "correct"
    finally:
        grader.close()


class Engine:
    """The scripted policy behind the engine's interface: wrong, right, right, ... ."""

    def __init__(self):
        self.policy = Cycle([7, 9, 0], [1, 5, 7, 8, 0], [2, 5, 7, 8, 0], [3, 5, 7, 8, 0])

    async def generate_many(self, requests):
        said = [self.policy.answer(Ask(prompt_ids=r.prompt_ids, max_tokens=64, seed=0)) for r in requests]
        return [
            Completion(token_ids=s.token_ids, logprobs=s.logprobs, text="", finish="stop", version=0, sha="w")
            for s in said
        ]


async def test_the_strategy_searches(parts, make_settings):
    settings = make_settings("search.strategy=until_two", "search.adaptive=false", "search.stop_early=false")
    plan.check(settings)
    problem = Problem(id="p", question="q", answer="1", grader="numeric", source="s")
    weights = Weights(policy="policy", version=0, parent=-1, path="", sha256="w", trainer="base")
    driver = Driver(settings, Engine(), Grader(settings), Words(), context=400)
    tree, search = await driver.grow(problem, weights)
    assert (tree.strategy, tree.stopped, tree.solved) == ("until_two", "complete", True)
    assert 2 <= search.graded_correct < search.graded < settings.search.samples
    with pytest.raises(plugins.BadPlugin, match="problem p: there is no grader 'lost'"):
        driver.begin(Problem(id="p", question="q", answer="1", grader="lost", source="s"))


def test_a_strategy_must_be_one(place, make_settings):
    package(place, "class Fake: pass", "search_strategies fake Fake")
    assert "no subclass" in next(one.problem for one in tried() if one.name == "fake")
    with pytest.raises(plugins.BadPlugin, match="no subclass"):
        Driver(make_settings("search.strategy=fake"), Engine(), None, Words(), context=400)


def pairs(one: Trace, other: Trace):
    return zip(one.segments, other.segments, strict=True)


def test_the_rewriter_words_the_steps_and_is_checked(parts, make_settings):
    settings = make_settings("linearize.rewriter=so", "linearize.phrases=false")
    plan.check(settings)
    tree = example()
    plain = linearizer.traces(tree, content_sha(encode(tree)), settings)
    told = asyncio.run(linearizer.worded(plain, installed(settings)))
    changed = [(a, b) for one, other in zip(plain, told, strict=True) for a, b in pairs(one, other)]
    assert all(isinstance(trace, Trace) and trace.rewriter == "so" for trace in told)
    assert sum(trace.rewrites for trace in told) > sum(trace.fallbacks for trace in told)
    assert any(b.text == f"So {a.text}" for a, b in changed)
    assert all(a.node == b.node for a, b in changed)


@pytest.mark.parametrize(
    ("code", "says"),
    [("def words(q, s, step): return 3", "no text"), ("def words(q, s, step): raise KeyError(step)", "Use 3|Three")],
)
def test_a_rewriter_that_fails_makes_no_trace(place, make_settings, code, says):
    package(place, code, "rewriters bad words")
    settings = make_settings("linearize.rewriter=bad")
    with pytest.raises((plugins.BadPlugin, KeyError), match=says):
        asyncio.run(linearizer.worded(linearizer.traces(example(), "sha", settings), installed(settings)))


def test_a_rewriter_that_changes_a_number_is_not_believed(place, make_settings):
    package(place, "def words(q, s, step): return step + ' 12345'", "rewriters bad words")
    settings = make_settings("linearize.rewriter=bad")
    told = asyncio.run(linearizer.worded(linearizer.traces(example(), "sha", settings), installed(settings)))
    assert all(trace.fallbacks == trace.rewrites > 0 and "12345" not in trace.text for trace in told)


def test_the_objective_gives_the_loss_that_its_formula_says(parts):
    settings = load(None, {}, ["rl.objective=reinforce", "rl.tis_cap=1.5"])
    named = settings.rl.parts()
    assert (named.loss, named.tis_cap) == ("reinforce", 1.5)
    logp = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([-1.2, -1.9, -3.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    tokens = objectives.Tokens(
        logp, logp.detach(), behaviour, advantages, torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1])
    )
    value, sums = objectives.loss_of(named)(tokens, named, 3.0)
    value.backward()
    weight = torch.exp(logp.detach() - behaviour).clamp(max=1.5)
    torch.testing.assert_close(logp.grad, -weight * advantages / 3)
    found = objectives.metrics(sums)
    assert found["truncated"] == pytest.approx(1 / 3)
    assert found["clip_low"] == found["clip_high"] == 0
    assert objectives.loss_of(load(None, {}, []).rl.parts()) is objectives.loss


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        (
            "search.strategy=mtcs",
            "search.strategy: there is no search strategy 'mtcs'; built in: mcts, best_of_n",
        ),
        ("linearize.rewriter=none", "linearize.rewriter: there is no rewriter 'none'; built in: template, model;"),
        ("rl.objective=ppo", "rl.objective: there is no objective 'ppo'; built in: grpo, dr_grpo"),
        (
            'problems.sources=[{kind="web", name="x"}]',
            "there is no problem source 'web'; built in: reasoning_gym",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(parts, flag, says):
    with pytest.raises(BadSettings) as caught:
        load(None, {}, [flag])
    assert says in str(caught.value)
    assert any(f"; installed: {name}" in str(caught.value) for name in NAMES)


def test_a_name_of_ours_or_of_two_packages_is_refused(place, make_settings):
    package(place, "def mcts(): pass", "search_strategies mcts mcts", name="greedy")
    with pytest.raises(
        plugins.BadPlugin, match=r"'mcts' of greedy 1.0 has the name of one that is built in: rename it"
    ):
        plan.check(make_settings())
    assert plugins.names(plugins.STRATEGIES) == plugins.STRATEGIES.built_in, "ours stays ours"


def test_two_packages_of_one_name_are_refused(place, make_settings):
    package(place, "def so(q, s, step): return step", "rewriters so so", name="first")
    package(place, "def so(q, s, step): return step", "rewriters so so", name="second")
    with pytest.raises(plugins.BadPlugin, match=r"of first 1.0 and second 1.0 offer the same name"):
        installed(make_settings("linearize.rewriter=so"))


def test_doctor_and_the_list_tell_of_a_part_that_cannot_be_imported(place, tmp_path):
    package(place, "import nothing_of_this_name", "graders lost grade")
    command = [sys.executable, "-m", "deploy.cli", "plugins", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": f"{place}:{ROOT}"})  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "No module named 'nothing_of_this_name'" in done.stdout
