"""`factory evaluate --problems FILE`: what it reads, what it refuses in a sentence, and a run of the tiny policy."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy import sql
from deploy.score import One, keep, read_problems, score
from processors.announced import weights_sha
from processors.chat import BadPolicy, resolve
from processors.dataset import Datasets
from schemas.load import BadSettings
from schemas.messages import Evaluation, Weights

REAL = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def sums(count: int, start: int = 1) -> list[dict[str, str]]:
    return [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(start, start + count)]


def test_the_first_problems_of_each_file_are_asked_and_none_twice(tmp_path, make_settings):
    rows = sums(5)
    one, two = write(tmp_path / "one.jsonl", rows[0], *rows), write(tmp_path / "two.jsonl", *sums(2, 50))
    found = read_problems(make_settings("evaluate.problems=3"), [one, two, one])
    assert [(p.source, p.answer) for p in found] == [
        ("one", "2"), ("one", "4"), ("one", "6"), ("two", "100"), ("two", "102"),
    ]  # fmt: skip
    assert len(read_problems(make_settings(), [write(tmp_path / "many.jsonl", *sums(100))])) == 64


def test_two_files_of_one_name_are_two_sources(tmp_path, make_settings):
    files = [write(tmp_path / name / "test.jsonl", *sums(1)) for name in "ab"]
    found = read_problems(make_settings(), files)
    assert [problem.source for problem in found] == [str(path) for path in files]
    assert len({problem.id for problem in found}) == 2


def test_lines_that_are_no_problems_are_told_and_the_rest_is_read(tmp_path, make_settings, capsys):
    path = write(tmp_path / "p.jsonl", "{broken", *sums(2), {"question": "And?"})
    assert len(read_problems(make_settings(), [path])) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{path}: 2 skipped, the first: line 1: ")


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([], [], "no problem in it"),
        ([{"text": "x", "target": 3}], [], r"its fields are `text`, `target`: say .* --set 'problems\.sources="),
        (["[1]", "{"], [], "a line is JSON with `question` and `answer`"),
        (None, [], "no such file"),
        ([sums(1)[0]], ["evaluate.problems=0"], "at least 1"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(tmp_path, make_settings, rows, flags, said):
    path = tmp_path / "p.jsonl"
    if rows is not None:
        write(path, *rows)
    with pytest.raises(BadSettings, match=said) as raised:
        score(make_settings(*flags), [path])
    assert type(raised.value) is BadSettings
    assert "\n" not in str(raised.value)


def test_fields_are_named_in_the_settings(tmp_path, make_settings):
    path = write(tmp_path / "own.jsonl", {"text": "Two?", "target": 2})
    source = f'{{kind="file", name="{path}", params={{question="text", answer="target"}}}}'
    [problem] = read_problems(make_settings(f"problems.sources=[{source}]"), [path])
    assert (problem.question, problem.answer, problem.source) == ("Two?", "2", "own")


@pytest.mark.skipif(not REAL.is_dir(), reason="the problem sets do not lie here")
@pytest.mark.parametrize(("name", "count"), [("gsm8k_test", 1319), ("math500", 500), ("amc23", 40), ("aime24", 30)])
def test_the_public_sets_are_known_by_their_fields(make_settings, name, count, capsys):
    found = read_problems(make_settings("evaluate.problems=2000"), [REAL / f"{name}.jsonl"])
    assert (len(found), {one.source for one in found}, capsys.readouterr().err) == (count, {name}, "")
    assert {one.grader for one in found} == {"numeric" if name == "gsm8k_test" else "math"}


def test_a_policy_without_safetensors_is_one_sentence(tmp_path, make_settings):
    write(tmp_path / "policy" / "config.json", {})
    with pytest.raises(BadPolicy, match="safetensors"):
        score(make_settings(f"policy.path={tmp_path / 'policy'}"), [write(tmp_path / "p.jsonl", *sums(1))])


def test_a_name_that_neither_disk_nor_hub_knows_is_one_sentence(tmp_path, make_settings, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BadPolicy, match=r"^nobody/nothing: no such directory, and no such policy on the hub: "
    ) as raised:
        score(make_settings("policy.path=nobody/nothing"), [write(tmp_path / "p.jsonl", *sums(1))])
    assert "\n" not in str(raised.value)


def test_the_catalog_knows_its_own_weights_only():
    weights = Weights(policy="policy", version=0, parent=-1, path="/p", sha256="a", trainer="base")
    assert One(weights).by_sha("a") is weights
    assert One(weights).by_sha("b") is None


def test_an_evaluation_that_is_asked_for_twice_at_once_is_kept_once(make_settings, monkeypatch):
    settings = make_settings()
    ids = Datasets.ids

    def slowly(self: Datasets, name: str) -> set[str]:
        found = ids(self, name)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(Datasets, "ids", slowly)
    Datasets.of(settings).create()
    rows = [
        Evaluation(
            id=f"e{number}", policy="tiny", version=-1, sha="s", trainer="", source="all", problems=1, samples=1,
            greedy=True, pass_at_1=0.5, low=0.0, high=1.0, tokens=1.0, backtracks=0.0, unparsable=0.0, time=1.0,
        )
        for number in range(3)
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: keep(settings, rows), range(4)))
    assert sql.query(settings, "select id from evaluations").num_rows == 3


@pytest.mark.slow
def test_the_tiny_policy_is_scored_without_a_broker_and_goes_on_where_it_was(tmp_path, make_settings, capfd):
    flags = ("evaluate.max_tokens=24", "engine.kv_cache_gb=0.1", "engine.max_num_seqs=16")
    settings = make_settings("evaluate.samples=2", *flags)
    files = [write(tmp_path / "small.jsonl", *sums(3)), write(tmp_path / "large.jsonl", *sums(2, 40))]
    score(settings, files, as_json=True)
    rows = json.loads(capfd.readouterr().out)
    assert [(row["source"], row["problems"], row["samples"]) for row in rows] == [
        ("large", 2, 2), ("small", 3, 2), ("all", 5, 2),
    ]  # fmt: skip
    large, small, total = rows
    assert total["sha"] == weights_sha(resolve("tiny"))
    assert (total["policy"], total["version"], total["trainer"]) == ("tiny", -1, "")
    for name in ("pass_at_1", "tokens", "unparsable", "truncated"):
        assert total[name] == pytest.approx((2 * large[name] + 3 * small[name]) / 5)
    assert 0 < total["tokens"] <= 24
    stored = sql.query(settings, "select * from evaluations").to_pylist()
    assert sorted((row["id"], row["source"], row["pass_at_1"]) for row in stored) == sorted(
        (row["id"], row["source"], row["pass_at_1"]) for row in rows
    )

    again = score(settings, files)
    said = capfd.readouterr()
    assert "10 of 10 answers" in said.err
    assert "engine" not in said.err, "nothing is missing, so nothing is started"
    assert [(row.id, row.pass_at_1, row.tokens) for row in again] == [
        (row["id"], row["pass_at_1"], row["tokens"]) for row in rows
    ]
    assert f"{total['pass_at_1']:.3f}" in said.out
    assert all(word in said.out for word in ("small", "pass@2", "maj@2"))
    assert sql.query(settings, "select * from evaluations").num_rows == 3, "a row is kept once"

    log = Path(settings.factory.data) / "answers" / f"{total['sha']}.jsonl"
    kept = log.read_bytes()
    log.write_bytes(b"".join(kept.splitlines(keepends=True)[:6]) + b'{"draw": "to')
    resumed = score(settings, files)
    assert "6 of 10 answers" in capfd.readouterr().err
    assert [(row.id, row.pass_at_1, row.tokens) for row in resumed] == [
        (row["id"], row["pass_at_1"], row["tokens"]) for row in rows
    ], "the draws are those of the uninterrupted run"
    greedy = score(make_settings("evaluate.greedy=true", *flags), files[:1])
    assert (greedy[-1].temperature, greedy[-1].samples, greedy[-1].ks) == (0.0, 1, [])
    assert greedy[-1].id not in {row["id"] for row in rows}
