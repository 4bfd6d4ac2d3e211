"""The command as a person types it: mistakes get one sentence and exit code 2, plans print and start nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

FACTORY = [sys.executable, "-m", "deploy.cli"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FACTORY, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--set", "search.itertions=3"], "did you mean search.iterations?"),
        (["up", "--set", "search.k=many"], "search.k"),
        (["up", "--settings", "absent.toml"], "no such settings file"),
        (["up", "--problems", "absent.jsonl"], "absent.jsonl: no such file"),
        (["up", "--policy", "./empty"], "no config.json"),
        (["up", "--for", "soon"], "write a duration"),
        (["up", "--set", "engine.url=localhost:8000", "--dry-run"], "http://HOST:PORT"),
        (["host", "search", "sampel"], "did you mean 'sample'"),
        (["search", "--data", "nothing-here"], "factory up"),
        (["lag", "--broker", "127.0.0.1:9", "--set", "broker.connect_timeout_s=2"], "127.0.0.1:9"),
        (["sql", "select 1"], "factory up"),
        (["show", "tree", "feed"], "factory up"),
        (["show", "problem", "feed"], "factory up"),
        (["top", "--data", "nothing-here"], "no process of a factory runs in nothing-here/: start one"),
        (["up", "--set", "metrics.port=65535", "--dry-run"], "metrics.port = 65535"),
        (["policy", "fetch", "gpt9"], "smollm2"),
        (["up", "--set", 'factory.stages=["serch"]'], "did you mean 'search'"),
        (["reproduce", "--scale", "huge"], "smoke, laptop, gpu, lab"),
        (["reproduce", "--arms", "base,astra"], "base, direct, best_of_n, astro"),
        (["reproduce", "--ablation", "k=9"], "k=4"),
        (["reproduce", "--ablation", "no-votes"], "search.votes"),
        (["reproduce", "--scale", "gpu"], "--policy"),
        (["reproduce", "--seeds", "one"], "0,1,2"),
        (["reproduce", "--set", "rl.max_step=3"], "did you mean rl.max_steps?"),
        (["reproduce", "--out", "a-file/x"], "choose another directory"),
        (["reproduce", "--report-only", "--out", "empty"], "no plan.json"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").touch()
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    done = run("up", "--dry-run", "--set", "factory.workers=shared", "--set", "search.k=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("engine", "search, sample, evaluate", "dead.letters", "search.k = 8", "embedded"):
        assert word in done.stdout
    assert not (tmp_path / "data").exists()
    done = run("verify", "--dry-run", cwd=tmp_path)
    assert "traces, rollouts" in done.stdout


def test_settings_are_printed_as_toml_that_loads_again(tmp_path: Path) -> None:
    printed = run("settings", "--set", "search.k=7", cwd=tmp_path).stdout
    (tmp_path / "factory.toml").write_text(printed, "utf-8")
    assert run("settings", cwd=tmp_path).stdout == printed


def test_every_command_explains_itself(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    for command in (
        "up", "produce", "search", "linearize", "verify", "sink", "prompts", "sample", "sft", "rl", "evaluate",
        "broker", "sql", "ledger", "lag", "topics", "show", "top", "doctor", "bootstrap", "policy",
    ):  # fmt: skip
        assert command in done.stdout
