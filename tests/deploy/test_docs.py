"""Every block of the pages as it stands: SQL on rows of every table, the rest by the real command.

docs/tools.md and docs/extending.md need more than that and have tests of their own beside this one.
"""

import re
import shutil
import tomllib
from pathlib import Path

import certifi
import pytest
from documented import ROOT, Block, blocks
from whole import whole

from deploy import plan, sql
from deploy.broker import EmbeddedBroker
from processors.dataset import Datasets
from processors.status import Status
from producers.prompts import choose
from producers.sources.held_out import Reserved
from schemas.load import load

ELSEWHERE = {"tools.md", "extending.md"}
PAGES = sorted(
    str(path.relative_to(ROOT / "docs"))
    for folder in ("", "concepts", "reference")
    for path in (ROOT / "docs" / folder).glob("*.md")
    if "```" in path.read_text("utf-8") and path.name not in ELSEWHERE
)
LANGUAGES = {"sql", "sh", "toml", "python", "text"}


def runs(page: str) -> bool:
    """Whether a page has commands."""
    return bool({"sh", "python"} & {block.language for block in blocks(page)})


@pytest.fixture(scope="session")
def filled(tmp_path_factory) -> Path:
    """A data directory with rows in every table; no test writes to it."""
    data = tmp_path_factory.mktemp("filled") / "data"
    whole(data)
    return data


@pytest.fixture
def place(filled, tmp_path, monkeypatch) -> Path:
    """Where a page's reader stands: the repository's examples, and a data directory of one's own."""
    shutil.copytree(filled, tmp_path / "data")
    for name in ("data-mine", "data-quiz", "DIR", "OTHER"):
        (tmp_path / name).symlink_to("data")
    shutil.copy(certifi.where(), tmp_path / "kafka-ca.pem")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    policies = tmp_path / "data" / "policies"
    policies.mkdir()
    (policies / "smollm2").symlink_to(ROOT / "trainers" / "tiny" / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(block: Block, place: Path) -> None:
    """Ask SQL, load settings; a drawing is what it is."""
    if block.language == "sql":
        ask(block.text)
    elif block.language == "toml":
        read(block.text, place)


def ask(text: str) -> None:
    """The query is answered, and by some row: one that no row answers shows nothing."""
    assert sql.query(load(None, {}), text).num_rows > 0, text


def read(text: str, place: Path) -> None:
    """The real loader takes the settings, and a start with them; a query for prompts chooses problems."""
    settings = load(Path(file(text, place)), {"KAFKA_PASSWORD": "a word"})
    if settings.broker.security_protocol == "PLAINTEXT":  # the other is looked at where its password is known
        plan.check(settings)
    if settings.prompts.sql:
        chosen = choose(Datasets(place / "data" / "datasets"), settings.prompts, Reserved(settings))
        assert chosen.choices, text
    if settings.sft != type(settings.sft)() and "sql" in tomllib.loads(text).get("sft", {}):
        ask(settings.sft.sql)


def file(text: str, place: Path) -> str:
    """Write settings where their first line says."""
    named = re.match(r"# (\S+\.toml)\n", text)
    name = named[1] if named else "of-a-page.toml"
    (place / name).write_text(text, "utf-8")
    return name


def test_there_are_pages_and_every_block_is_of_a_known_kind():
    assert {"quickstart.md", "how-to.md", "concepts.md", "reproduction.md", "concepts/rl.md"} <= set(PAGES)
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text("utf-8")
        assert {block.language for block in blocks(page)} <= LANGUAGES, page
        assert 2 * len(blocks(page)) == len(re.findall(r"^```", text, re.MULTILINE)), f"{page}: a block without a kind"
        drawings = [block for block in blocks(page) if block.language == "text"]
        assert not any("factory " in block.text for block in drawings), f"{page}: a command that is not run"


@pytest.mark.parametrize("page", [page for page in PAGES if not runs(page)])
def test_every_block_of_a_page_without_commands_is_answered(page, place):
    for block in blocks(page):
        check(block, place)


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
@pytest.mark.slow
def test_every_block_of_the_page_runs(page, place, warm, request):
    every = blocks(page)
    shell = "".join(block.text for block in every if block.language == "sh")
    (place / ".venv").mkdir()
    (place / ".venv" / "bin").symlink_to(warm.bin)
    with Status(load(None, {}), "sink"):  # something runs, so `factory top` has something to show
        if re.search(r"^factory (lag|topics)", shell, re.MULTILINE):
            broker = EmbeddedBroker(load(None, {}))
            request.addfinalizer(broker.stop)
            broker.open()
        for block in every:
            if block.language == "sh":
                warm.run(block.text, place, KAFKA_PASSWORD="a word")
            elif block.language == "python":
                warm.python(block.text, place)
            else:
                check(block, place)
