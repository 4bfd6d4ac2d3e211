"""Every page, over tables whose every text is hostile: what is asked for is there, and nothing of it became markup."""

import re
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import pytest
from hostile_rows import EVIL

PAGES = ("/flow", "/trees", "/traces", "/rollouts", "/training", "/ask", "/ledger", "/letters")


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def links(self):
        return [attrs["href"] for tag, attrs in self.tags if tag == "a" and "href" in attrs]


def inert(html):
    """The page, once it is sure that no model's text is markup in it and that it fetches nothing from outside."""
    page = Reader(html)
    assert "img" not in {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], (tag, attrs)
        assert tag != "script" or attrs.get("src", "").startswith("/static/") or attrs["type"] == "application/json"
        for name in ("href", "src", "action"):
            assert attrs.get(name, "/").startswith(("/", "#")), (tag, attrs)
            assert not attrs.get(name, "/").startswith("//")
    seen = [page.text, *(str(attrs) for tag, attrs in page.tags if tag not in {"option", "input"})]
    assert not [text for text in seen if "\x1b" in text or "\u202e" in text or "\\x1b" in text]
    return page


def kind(link):
    """The page that a link leads to, whichever row it is of, and what it asks of it."""
    path, _, query = link.partition("?")
    parts = path.split("/")
    return "/".join(parts[:3] if parts[1] == "rows" else parts[:2]), len(parts), re.findall(r"(?:^|&)(\w+)=", query)


def test_every_page_and_every_kind_of_link_on_it_answers_and_is_inert(client):
    todo, seen = list(PAGES), set()
    while todo:
        path = todo.pop()
        seen.add(path)
        answer = client.get(path, follow_redirects=True)
        assert answer.status_code == 200, (path, answer.text[-600:])
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        for link in filter(lambda link: link.startswith("/"), inert(answer.text).links()):
            alike = [one for one in (*seen, *todo) if kind(one) == kind(link)]
            if link not in alike and len(alike) < 2:
                todo.append(link)
    kinds = {urlsplit(path).path.rsplit("/", 1)[0] for path in seen}
    assert {"/trees", "/traces", "/rollouts", "/problems", "/letters", "/rows/weights", "/rows/training"} <= kinds


@pytest.mark.parametrize(
    ("path", "there", "not_there"),
    [
        ("/trees?outcome=solved", "/trees/tree1", "/trees/tree2"),
        ("/trees?outcome=budget", "/trees/tree2", "/trees/tree1"),
        ("/trees?source=sums", "/trees/tree2", "/trees/tree1"),
        ("/trees?q=problem1", "/trees/tree1", "/trees/tree2"),
        ("/trees?q=MAKE+7", "/trees/tree2", "/trees/tree1"),
        ("/traces?arm=direct", "/traces/trace-direct", "/traces/trace-search"),
        ("/traces?backtracks=1", "/traces/trace-search", "/traces/trace-direct"),
        ("/rollouts?fate=trained", "/rollouts/group1", "/rollouts/group2"),
        ("/rollouts?fate=filtered", "/rollouts/group2", "/rollouts/group1"),
        ("/rollouts?fate=waiting", "/rollouts/group3", "/rollouts/group2"),
        ("/rollouts?mix=mixed", "/rollouts/group1", "/rollouts/group2"),
        ("/rollouts?mix=none+correct", "/rollouts/group2", "/rollouts/group1"),
        ("/letters?stage=produce", "/letters/letter2", "/letters/letter1"),
        ("/rows/filtered?stage=rl", "/rows/filtered/f1", "/rows/filtered/f2"),
    ],
)
def test_a_list_holds_what_was_asked_for(client, path, there, not_there):
    links = {urlsplit(link).path for link in Reader(client.get(path).text).links()}
    assert there in links
    assert not_there not in links


def test_a_list_turns_its_pages(client):
    assert "nothing found" in client.get("/trees?page=3").text
    assert client.get("/trees?page=-5").status_code == client.get("/trees?page=x").status_code == 200
    assert 'rel="prev" href="/trees?source=sums"' in client.get("/trees?source=sums&page=1").text


def test_a_tree_has_its_nodes_and_the_walks_of_its_own_traces(client):
    page = client.get("/trees/tree1?trace=trace-search").text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert '"walk":[0,1,2,0,3,4]' in data
    assert '"best":[0,3,4]' in data
    assert "<" not in data
    assert "Traces made of it" not in Reader(client.get("/trees/tree2").text).text  # a tree of which no trace was made


def test_a_tree_is_found_by_its_beginning_and_by_its_problem(client):
    assert "tree1" in Reader(client.get("/trees/problem1").text).text
    several = client.get("/trees/tree")
    assert several.status_code == 404
    assert "several trees: tree1, tree2" in Reader(several.text).text


def test_two_traces_of_a_problem_stand_side_by_side(client):
    page = Reader(client.get("/traces/trace-search").text)
    assert [attrs["aria-label"] for tag, attrs in page.tags if tag == "article"] == ["search trace", "direct trace"]
    assert "/trees/tree1?trace=trace-search&node=3" in page.links()
    kinds = [attrs["class"].split()[1:] for tag, attrs in page.tags if tag == "li" and "seg" in attrs.get("class", "")]
    assert kinds[:5] == [["step"], ["step", "failed"], ["reflection"], ["verdict"], ["jump"]]
    alone = Reader(client.get("/traces/trace-search?with=none").text)
    assert len([tag for tag, _ in alone.tags if tag == "article"]) == 1


def test_a_group_has_rewards_fate_and_tokens_coloured_by_their_probability(client):
    page = Reader(client.get("/rollouts/group1").text)
    assert "trained in rl step 1" in " ".join(page.text.split())
    assert "2 versions after it was sampled" in page.text
    levels = [attrs["class"] for tag, attrs in page.tags if tag == "span" and "log-prob" in attrs.get("title", "")]
    assert levels == ["t t1", "t t2", "t t4"] * 2
    assert "+1.00" in page.text
    other = Reader(client.get("/rollouts/group2").text)
    assert not [tag for tag, attrs in other.tags if "log-prob" in attrs.get("title", "") and tag == "span"][2:]
    assert "No tokenizer on this machine makes these texts from their tokens" in other.text
    assert "Use 5, 14, 3" in other.text  # and not what its tokens would say here
    assert "to make 4" not in other.text
    weights = Reader(client.get("/rollouts/group1?colour=weights").text)
    assert [attrs["class"] for tag, attrs in weights.tags if attrs.get("class", "").startswith("t w")]
    waits = Reader(client.get("/rollouts/group3").text)
    assert "nothing yet: it waits for the verifier" in waits.text
    assert "all_equal (2 rollouts)" in " ".join(Reader(client.get("/rollouts/group2").text).text.split())


def test_training_shows_the_runs_that_were_chosen(client):
    page = client.get("/training").text
    assert "Reinforcement learning" in page
    assert "Supervised fine-tuning" not in page
    both = client.get("/training?run=sft&run=rl&x=minutes").text
    assert "Supervised fine-tuning" in both
    assert "sft: 2 values from 1 to 0.5" in both
    assert "0.200" in page  # the evaluations, whichever run


def test_the_ledger_says_what_is_in_flight_lost_or_answered(client):
    for _ in range(100):
        page = Reader(client.get("/ledger").text)
        if "being computed" not in page.text:
            break
    assert "It does not close" in page.text  # rollouts of prompts that are nowhere, and so with weights
    assert "2 lost: prompts (named in rollouts)" in page.text
    assert "lost: group2 group3" in " ".join(page.text.split())
    assert "By source and difficulty" in page.text
    assert "no broker runs" in page.text


def test_what_a_row_came_from_is_a_link(client):
    links = Reader(client.get("/rows/filtered/f2").text).links()
    assert "/rows/weights/3" in links  # its id there is 'version:sha'
    assert client.get("/rows/weights/3").status_code == 200
    assert "/rollouts/group2" in Reader(client.get("/rows/filtered/f1").text).links()


@pytest.mark.parametrize(
    "path",
    ["/trees/none", "/traces/none", "/rollouts/none", "/problems/none", "/letters/none", "/rows/none", "/none",
     "/rows/trees/none", "/trees/tree1?trace=none", "/traces/trace-search?with=none-such", "/static/none.js",
     "/static/..%2Frender.py", f"/trees/{quote(EVIL, safe='')}"],
)  # fmt: skip
def test_what_is_not_there_is_said_in_a_sentence(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    page = inert(answer.text)
    assert "Not Found" in page.text
    assert "Traceback" not in page.text
