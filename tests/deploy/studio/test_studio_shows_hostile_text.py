"""In a real browser: markup and control characters of a model are text on every page, and nothing of them ever runs."""

from urllib.parse import urlencode

import pytest
from watched import Reader, chromium

MARKUP = "<img src=x onerror=alert(2)>"
QUERY = f'select problem.question as "{MARKUP}", iterations as "<b>" from trees'


@pytest.fixture(scope="module")
def reader(client):
    with chromium() as browser:
        yield Reader(browser, str(client.base_url).rstrip("/"))


PAGES = {
    "problem": "/problems/problem1",
    "trees": "/trees",
    "tree": "/trees/tree1?node=1",
    "trace": "/traces/trace-search?with=trace-direct",
    "rollout": "/rollouts/group2",
    "letter": "/letters/letter1",
    "row": "/rows/answers/answers1",
    "ask": f"/ask?{urlencode({'sql': QUERY, 'plot': 'bar'})}",
}


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_text(reader, name):
    tab = reader.open(PAGES[name])
    assert MARKUP in tab.locator("main").inner_text(), "it is shown"
    assert tab.locator("img").count() == 0
    assert not any((ord(char) < 32 and char not in "\n\t") or char == "\u202e" for char in tab.inner_text("body"))
    reader.calm(name)
