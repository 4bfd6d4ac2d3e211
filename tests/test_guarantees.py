"""The page of promises names only what is there: files, and tests in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")


def test_every_file_and_test_it_names_exists() -> None:
    named = re.findall(r"`((?:schemas|processors|producers|trainers|deploy|tests)/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 60
    for path, function in named:
        text = (ROOT / path).read_text("utf-8")
        assert not function or f"def {function}(" in text, f"{path} has no {function}"


def test_each_promise_says_how_by_which_tests_and_what_is_not_promised() -> None:
    promises = re.split(r"\n## \d\. ", PAGE)[1:]
    assert len(promises) == 8
    for promise in promises:
        title = promise.splitlines()[0]
        for part in ("*How.*", "*Tests.*", "*Not promised.*"):
            assert promise.count(part) == 1, f"{title}: {part}"
        assert "`tests/" in promise, title
