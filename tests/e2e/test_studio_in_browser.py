"""The studio as a reader uses it: a real browser on what a real run left, every page, by mouse and by keyboard.

A copy of the run is shown, so that the tests may change it. Beside it are a broker and two stages that need no engine:
bytes that are no trace become a dead letter there, the studio sends them again, and at last the broker is killed.
STUDIO_DATA names the directory of a run to look at instead of making one, STUDIO_PICTURES a folder for pictures.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import FACTORY, ask
from playwright.sync_api import Page, expect
from watched import Reader, chromium

from deploy.broker import EmbeddedBroker, free_port
from processors import kafka
from schemas.load import load
from schemas.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POISON = b'{"id": "poison<b>\\u202e", "text": "<script>alert(1)</script>"}'
VERIFIED = "select count(*) as n from dead_letters where stage = 'verify'"
ANSWERS = "studio: http"


class Process:
    """A command of the factory beside the tests, started anew by `start` after an `end`."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.command = [*FACTORY, *arguments, "--data", str(data)]
        self.log = data.parent / f"{arguments[0]}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("wb") as out:
            self.child = subprocess.Popen(self.command, stdout=out, stderr=out)

    def says(self, text: str) -> None:
        deadline = time.monotonic() + 300
        while text not in (said := self.log.read_text("utf-8")):
            assert self.child.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def end(self) -> None:
        self.child.send_signal(signal.SIGINT)
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


@pytest.fixture(scope="module")
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Those of a copy of the run's tables."""
    run = Path(os.environ["STUDIO_DATA"]) if "STUDIO_DATA" in os.environ else request.getfixturevalue("data")
    copied = tmp_path_factory.mktemp("studio") / "data"
    for part in ("datasets", "state"):
        shutil.copytree(run / part, copied / part, ignore=shutil.ignore_patterns("studio*", "*.lock", "faust"))
    return load(environment={}, flags=[f"factory.data={json.dumps(str(copied))}"])


@pytest.fixture(scope="module")
def broker(settings: Settings) -> Iterator[EmbeddedBroker]:
    """The copy's broker, and on it bytes that are no trace."""
    broker = EmbeddedBroker(settings, free_port())
    broker.open()
    producer = kafka.producer(settings)
    producer.send("traces", key=b"poison", value=POISON).get(30)
    producer.close()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def stages(settings: Settings, broker: EmbeddedBroker) -> Iterator[None]:
    """The stages that need no engine, at work on the copy."""
    data = Path(settings.factory.data)
    processes = [Process(data, "verify"), Process(data, "sink", "--set", "sink.flush_s=0.5")]
    yield
    for process in processes:
        process.end()


@pytest.fixture(scope="module")
def studio(settings: Settings, stages: None) -> Iterator[Process]:
    """`factory studio` on the copy."""
    process = Process(Path(settings.factory.data), "studio", "--port", str(free_port()))
    try:
        process.says(ANSWERS)
        yield process
    finally:
        process.end()


@pytest.fixture(scope="module")
def reader(studio: Process) -> Iterator[Reader]:
    url = studio.log.read_text("utf-8").partition(ANSWERS)[2].split()[0]
    with chromium() as browser:
        yield Reader(browser, f"http{url}")


def first(tab: Page) -> None:
    """Open the first row of a list."""
    tab.locator("table.list tbody a.id").first.click()


def again(tab: Page, seen: Callable[[], object]) -> None:
    """What is seen is in the address: whoever opens it anew sees the same."""
    before = seen()
    tab.goto(tab.url)
    assert seen() == before


def test_flow_shows_the_stages_and_leads_to_their_rows(reader: Reader) -> None:
    tab = reader.open("/")
    expect(tab.locator("#card-verify-examples .facts")).to_contain_text(re.compile(r"lag\s+\d"))
    expect(tab.locator("#card-search-trees")).to_contain_text("not running")
    reader.sound("flow")
    tab.keyboard.press("?")
    expect(tab.get_by_role("dialog")).to_be_visible()
    reader.sound("keys")
    tab.keyboard.press("Escape")
    tab.locator("#card-search-trees").click()
    expect(tab).to_have_url(re.compile("/rows/trees$"))
    reader.sound("rows")
    tab.get_by_role("link", name="training", exact=True).click()
    tab.get_by_role("link", name="open").first.click()
    expect(tab).to_have_url(re.compile("/rows/training/"))
    reader.sound("row")


def test_a_tree_is_walked_by_mouse_and_by_keyboard_and_the_address_remembers(reader: Reader) -> None:
    tab = reader.open("/trees")
    tab.get_by_label("Outcome").select_option("solved")
    expect(tab).to_have_url(re.compile(r"/trees\?outcome=solved"))
    reader.sound("trees")
    first(tab)
    tab.locator("#walk").select_option(index=1)
    tab.locator("#tree .node .dot").nth(1).click()
    panel = tab.locator("#node h2").first
    expect(panel).to_contain_text("depth 1")
    expect(tab).to_have_url(re.compile(r"[?&]node=\d+"))
    reader.sound("tree")
    again(tab, lambda: (panel.inner_text(), tab.locator("#walk").input_value(), tab.locator("#tree .walk").count()))
    tab.locator("#tree").focus()
    for key, shown in (("ArrowRight", "depth 2"), ("ArrowLeft", "depth 1"), ("Home", "Root"), ("w", "Root")):
        tab.keyboard.press(key)
        expect(panel).to_contain_text(shown)
    nodes = tab.locator("#tree .node").count()
    tab.keyboard.press("Space")
    expect(tab.locator("#tree .node")).to_have_count(1)
    expect(tab).to_have_url(re.compile(r"[?&]fold=0"))
    tab.keyboard.press("Space")
    expect(tab.locator("#tree .node")).to_have_count(nodes)
    tab.get_by_role("link", name=re.compile("^problem ")).click()
    expect(tab).to_have_url(re.compile("/problems/"))
    reader.sound("problem")


def test_a_trace_stands_beside_another_and_its_sentences_lead_to_their_nodes(reader: Reader) -> None:
    tab = reader.open("/traces")
    tab.get_by_label("Backtracks at least").select_option("1")
    expect(tab).to_have_url(re.compile(r"[?&]backtracks=1"))
    reader.sound("traces")
    first(tab)
    expect(tab.locator(".segments .jump").first).to_contain_text("↩")
    reader.sound("trace")
    side = tab.locator(".segments .jump .side").first
    number = side.locator("b").inner_text().removeprefix("#")
    side.click()
    expect(tab.locator("#node h2").first).to_contain_text("Root" if number == "0" else f"Node {number},")


def test_a_group_shows_its_rollouts_and_the_colours_are_in_the_address(reader: Reader) -> None:
    tab = reader.open("/rollouts")
    reader.sound("rollouts")
    first(tab)
    expect(tab.locator("article.rollout .t").first).to_be_visible()
    reader.sound("rollout")
    tab.get_by_label("Colour").select_option("weights")
    expect(tab).to_have_url(re.compile(r"\?colour=weights"))
    reader.sound("weights")


def test_training_lays_runs_over_one_another(reader: Reader) -> None:
    tab = reader.open("/training")
    expect(tab.get_by_role("heading", name="Reinforcement learning")).to_be_visible()
    tab.get_by_role("checkbox", name="sft").check()
    expect(tab.get_by_role("heading", name="Supervised fine-tuning")).to_be_visible()
    tab.locator("svg.chart").first.hover()
    expect(tab.locator(".reading").first).to_be_visible()
    reader.sound("training")
    again(tab, lambda: tab.locator("figure").count())
    tab.locator("figure .sql").first.click()
    expect(tab.locator("table.answer")).to_be_visible()


def test_a_query_is_typed_run_drawn_and_shared(reader: Reader) -> None:
    tab = reader.open("/ask")
    reader.sound("ask")
    tab.keyboard.press("/")
    tab.keyboard.type("select depht, count(*) from nodes group by depth")
    tab.keyboard.press("Control+Enter")
    expect(tab.get_by_role("alert")).to_contain_text("depht")
    reader.sound("ask-wrong")
    tab.keyboard.press("/")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("select depth, count(*) as nodes, avg(q) as q from nodes group by depth order by depth")
    tab.keyboard.press("Control+Enter")
    expect(tab.locator("table.answer tbody tr").first).to_be_visible()
    tab.get_by_label("Plot").select_option("line")
    tab.locator("select[name=x]").select_option("depth")
    tab.locator("select[name=y]").select_option("q")
    expect(tab.locator("svg.chart")).to_be_visible()
    reader.sound("ask-plot")
    again(tab, lambda: (tab.locator("table.answer").inner_text(), tab.locator("svg.chart path.s").get_attribute("d")))
    with tab.expect_download() as downloaded:
        tab.get_by_role("link", name="CSV").click()
    assert Path(downloaded.value.path()).read_text("utf-8").startswith('"depth","nodes","q"')


def test_the_ledger_closes(reader: Reader) -> None:
    tab = reader.open("/ledger")
    expect(tab.get_by_text("It closes")).to_be_visible()
    reader.sound("ledger")


def test_a_dead_letter_is_replayed_and_the_stage_takes_it(reader: Reader, settings: Settings) -> None:
    tab = reader.open("/letters?stage=verify")
    deadline = time.monotonic() + 300
    while not tab.locator("table.list").count():
        assert time.monotonic() < deadline, "no dead letter"
        time.sleep(0.5)
        tab.reload()
    reader.sound("letters")
    first(tab)
    assert "<script>alert(1)</script>" in tab.inner_text("main")
    reader.sound("letter")
    tab.get_by_role("link", name="Replay…").click()
    reader.sound("letter-confirm")
    tab.keyboard.press("Enter")  # the button has the focus
    expect(tab.get_by_role("status")).to_contain_text("sent again: the stage takes them from there")
    reader.sound("letter-sent")
    while ask(Path(settings.factory.data), "sql", VERIFIED)[0]["n"] < 2:
        assert time.monotonic() < deadline, "the stage did not take it up"
        time.sleep(0.5)
    while "1 time (replays)" not in tab.inner_text("main"):
        assert time.monotonic() < deadline, "its replay is in no table"
        time.sleep(0.5)
        tab.reload()


def test_what_is_not_there_is_said(reader: Reader) -> None:
    tab = reader.open("/trees/none")
    expect(tab.get_by_role("alert")).to_be_visible()
    reader.faults = [fault for fault in reader.faults if "404" not in fault]  # the browser's own word for it
    reader.sound("sorry")


def test_a_broker_that_goes_away_is_said_and_one_that_comes_back_is_found(
    reader: Reader, broker: EmbeddedBroker
) -> None:
    tab = reader.open("/flow")
    lag = tab.locator("#card-verify-examples .facts")
    expect(lag).to_contain_text(re.compile(r"lag\s+\d"))
    assert broker.process is not None
    broker.process.kill()
    broker.process.wait()
    said = tab.locator(".note[role=status]")
    expect(said).to_contain_text(re.compile("[Nn]o lag"))
    expect(lag).not_to_contain_text(re.compile(r"lag\s+\d"))
    reader.sound("flow-no-broker")
    tab.keyboard.press("2")
    first(tab)
    expect(tab.locator("#tree .node").first).to_be_visible()
    broker.stop()
    broker.open()
    tab.keyboard.press("1")
    expect(said.filter(has_text=re.compile("[Nn]o lag"))).to_have_count(0)
    assert not reader.faults


def test_a_studio_that_has_ended_is_said_by_the_page_that_is_still_open(reader: Reader, studio: Process) -> None:
    tab = reader.open("/flow")
    studio.end()
    note = tab.get_by_text("The studio does not answer")
    expect(note).to_be_visible()
    studio.start()
    expect(note).to_have_count(0)
