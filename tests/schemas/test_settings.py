"""Settings: the three places in order of strength, and the sentence that a mistake gets."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.load import BadSettings, load
from schemas.settings import Settings


def test_the_last_place_wins(tmp_path: Path) -> None:
    file = tmp_path / "factory.toml"
    file.write_text("[search]\nk = 5\ndepth = 6\niterations = 7\n", "utf-8")
    settings = load(file, {"FACTORY_SEARCH_DEPTH": "16", "FACTORY_SEARCH_C_PUCT": "2.5"}, ["search.iterations=27"])
    assert (settings.search.k, settings.search.depth, settings.search.iterations) == (5, 16, 27)
    assert settings.search.c_puct == 2.5


def test_nothing_given_means_the_defaults() -> None:
    assert load(None, {}, []) == Settings()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["search.itertions=3"], "did you mean search.iterations?"),
        (["serach.k=3"], "did you mean 'search'"),
        (["search.k=many"], "Expected `int`, got `str` - at `search.k`"),
        (["search.k=0"], "at `search.k`"),
        (["search.k"], "section.key=value"),
        (["search.policy=best"], "search.policy"),
        (["engine.args=3"], "engine.args"),
    ],
)
def test_a_wrong_flag_gets_a_sentence_that_names_it(flags: list[str], said: str) -> None:
    with pytest.raises(BadSettings) as error:
        load(None, {}, flags)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[search\n", "not readable"),
        ("search = 3\n", "must be a [section]"),
        ("[serch]\n", "did you mean 'search'"),
        ("[search]\nkk = 1\n", "search.kk"),
        ("[[problems.sources]]\nname = 'x'\nwieght = 2\n", "wieght"),
    ],
)
def test_a_wrong_file_gets_a_sentence_that_names_it(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "factory.toml"
    file.write_text(content, "utf-8")
    with pytest.raises(BadSettings) as error:
        load(file, {}, [])
    assert said in str(error.value)
    with pytest.raises(BadSettings, match="no such settings file"):
        load(tmp_path / "absent.toml", {}, [])


def test_a_text_setting_may_look_like_a_number() -> None:
    assert load(None, {"FACTORY_FACTORY_DATA": "2026"}, ["policy.path=3"]).factory.data == "2026"


def test_engine_arguments_pass_through() -> None:
    settings = load(None, {"FACTORY_ENGINE_ARGS.ENFORCE_EAGER": "true"}, ["engine.args.tensor_parallel_size=2"])
    assert settings.engine.args == {"enforce_eager": True, "tensor_parallel_size": 2}
    assert load(None, {}, ["engine.args.enforce_eager=False"]).engine.args == {"enforce_eager": False}


@given(st.text(max_size=30))
def test_any_flag_text_is_taken_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(BadSettings):
        assert isinstance(load(None, {}, [f"factory.data={text}"]).factory.data, str)
