"""What the pages name is there: links and anchors, commands, settings, columns, files; the reference is today's."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from documented import ROOT
from markdown_it import MarkdownIt

from deploy.reference.__main__ import files
from deploy.reference.commands import commands
from schemas.settings import Settings
from schemas.tables import TABLES

PAGES = sorted(
    path
    for folder in (
        "",
        "docs",
        "docs/concepts",
        "docs/reference",
        "docs/reproduce",
        "deploy/docker",
        "deploy/kubernetes",
    )
    for path in (ROOT / folder).glob("*.md")
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def tokens(path: Path) -> list:
    return MarkdownIt().enable("table").parse(path.read_text("utf-8"))


def inline(path: Path) -> list:
    return [child for token in tokens(path) for child in token.children or []]


def anchors(path: Path) -> set[str]:
    """The names of its headings, as GitHub makes them."""
    found: Counter[str] = Counter()
    names = set()
    every = tokens(path)
    for at, token in enumerate(every):
        if token.type == "heading_open":
            text = "".join(child.content for child in every[at + 1].children)
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            names.add(name if not found[name] else f"{name}-{found[name]}")
            found[name] += 1
    return names


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(path):
    targets = [child.attrs[key] for child in inline(path) for key in ("href", "src") if key in child.attrs]
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{path.name}: {target} is none of {sorted(anchors(there))}"


def test_every_page_is_reached_from_the_index():
    seen, todo = set(), [ROOT / "docs" / "index.md"]
    while todo:
        path = todo.pop()
        if path in seen or path.suffix != ".md":
            continue
        seen.add(path)
        links = [child.attrs["href"].split("#")[0] for child in inline(path) if "href" in child.attrs]
        todo += [(path.parent / link).resolve() for link in links if link and ":" not in link]
    assert {path for path in PAGES if path.parent.name in {"docs", "concepts", "reference"}} <= seen


def spans(path: Path) -> list[str]:
    """What stands as code within a sentence."""
    return [child.content for child in inline(path) if child.type == "code_inline"]


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_command_in_a_sentence_is_one(path):
    known = commands()
    for text in spans(path):
        if not re.match(r"factory [a-z]", text) or "|" in text:
            continue
        words = shlex.split(text)[1:]
        name = next((one for one in (" ".join(words[:2]), words[0]) if one in known), "")
        groups = {one.split()[0] for one in known if " " in one}
        assert name or words[0] in groups, f"{path.name}: {text}"
        options = {opt for one in (known[name].params if name else []) for opt in (*one.opts, *one.secondary_opts)}
        asked = {word for word in words if word.startswith("--")} - {"--help"}
        assert asked <= options or not name, f"{path.name}: {text}"


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_setting_and_column_in_a_sentence_is_one(path):
    sections = Settings()
    for text in spans(path):
        found = re.fullmatch(r"(\w+)\.(\w+)(?: = .*|\.[\w.]+)?", text)
        if not found or found[2] in {"py", "md", "json", "toml", "yaml", "ipynb", "jsonl", "html", "sh", "txt"}:
            continue
        section, name = found[1], found[2]
        setting = section in Settings.__struct_fields__ and name in getattr(sections, section).__struct_fields__
        column = section in TABLES and name in TABLES[section].names
        if section in Settings.__struct_fields__ or section in TABLES:
            assert setting or column, f"{path.name}: {text}"


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_file_in_a_sentence_is_there(path):
    for text in spans(path):
        if re.fullmatch(
            r"(?:schemas|processors|producers|trainers|deploy|tests|examples|benchmarks|docs)/[\w/.-]+", text
        ):
            assert (ROOT / text).exists() or "NAME" in text, f"{path.name}: {text}"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_reference_is_what_the_source_says(path):
    assert path.read_text("utf-8") == files()[path], "run: python -m deploy.reference"


def part(page, section):
    """What stands between a section's heading and the next."""
    return page.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]


def test_every_setting_column_and_command_is_in_the_reference():
    pages = {path.name: text for path, text in files().items()}
    for section in Settings.__struct_fields__:
        assert f"\n## {section}\n" in pages["settings.md"]
        for name in getattr(Settings(), section).__struct_fields__:
            (row,) = set(re.findall(rf"^\| `{name}` \|.*", part(pages["settings.md"], section), re.MULTILINE))
            assert not row.endswith("|  |"), f"{section}.{name} has no meaning: write it under it in the source"
    for name in TABLES:
        assert f"\n## {name}\n" in pages["tables.md"]
    bare = re.findall(r"^\| `\w+` \|.*\|  \|$", pages["tables.md"], re.MULTILINE)
    assert not bare, "columns without a meaning: write it under them in the source"
    assert len(commands()) > 30
    assert all(f"\n## factory {name}\n" in pages["commands.md"] for name in commands())
