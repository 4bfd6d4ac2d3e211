"""A tab of a real browser on a studio, and what its reader may expect of every page.

Whatever goes wrong in the tab at any time is noted: a console error, a dialog, a request to another place. `sound`
asks for all of it at a page, and for what a page must be: no wider than the window, without serious accessibility
faults in light and dark (axe), every control within the keyboard's reach and seen when it has the focus.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect, sync_playwright

WIDTH, HEIGHT = 1280, 800
WAIT_MS = 60_000
"""How long a machine that has much else to do may take for what a reader waits for."""
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SERIOUS = """async (rules) => {
  const only = rules ? { runOnly: { type: "rule", values: rules } } : {};
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...only });
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  const said = (rule, at) => `${rule}: ${at.html.slice(0, 200)} ${at.failureSummary}`;
  return serious.flatMap((one) => one.nodes.map((at) => said(one.id, at)));
}"""
CONTROLS = "a, button, input:not([type=hidden]), select, textarea, summary, [tabindex]"
UNREACHABLE = """(controls) => {
  const faults = [], before = document.activeElement;
  const said = (at, fault) => faults.push(`${fault}: ${at.outerHTML.slice(0, 200)}`);
  for (const at of (document.querySelector("dialog[open]") || document).querySelectorAll(controls)) {
    if (!at.checkVisibility({ visibilityProperty: true }) || at.disabled || at.id === "main") continue;
    if (at.tabIndex < 0) { said(at, "not reached by Tab"); continue; }
    at.focus({ preventScroll: true });
    const ring = getComputedStyle(at);
    if (document.activeElement !== at || ring.outlineStyle === "none" || parseFloat(ring.outlineWidth) < 1.5)
      said(at, "its focus is not to be seen");
  }
  document.activeElement.blur();
  before.focus({ preventScroll: true });
  return faults;
}"""
WIDE = "() => document.scrollingElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's chromium, or a skipped test. It holds an event loop: no asynchronous test may run before it ends."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine: tests/browser/chromium.sh installs Debian's")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """Someone with one tab at the studio `url`.

    Args:
        browser: where the tab is opened.
        url: the studio's address.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self.context = browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, base_url=url, reduced_motion="reduce", color_scheme="light"
        )
        self.tab: Page = self.context.new_page()
        self.tab.set_default_timeout(WAIT_MS)
        self.faults: list[str] = []
        self.context.on("page", lambda page: self.faults.append(f"a window was opened: {page.url}"))
        self.tab.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        self.tab.on(
            "console", lambda said: self.faults.append(f"console: {said.text}") if said.type == "error" else None
        )
        self.tab.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.tab.on("request", lambda asked: self._from_here(url, asked.url))

    def _from_here(self, url: str, asked: str) -> None:
        if not asked.startswith((f"{url}/", "data:")):
            self.faults.append(f"a request to another place: {asked}")

    def open(self, place: str) -> Page:
        """Go to an address of the studio."""
        self.tab.goto(place)
        return self.tab

    def calm(self, name: str) -> None:
        """That nothing went wrong in the tab so far, and that this page is no wider than the window."""
        assert self.tab.evaluate(WIDE) <= 0, f"{name}: the page is wider than the window"
        faults, self.faults = self.faults, []
        assert not faults, f"{name} ({self.tab.url}):\n" + "\n".join(faults)

    def sound(self, name: str) -> None:
        """That this page is as every page must be; STUDIO_PICTURES names a folder where pictures of it are kept."""
        tab = self.tab
        tab.evaluate(AXE_SCRIPT)
        self.faults += [f"light: {fault}" for fault in tab.evaluate(SERIOUS, None)]
        self._keep(name, "light")
        tab.emulate_media(color_scheme="dark")
        self.faults += [f"dark: {fault}" for fault in tab.evaluate(SERIOUS, ["color-contrast", "link-in-text-block"])]
        self._keep(name, "dark")
        tab.emulate_media(color_scheme="light")
        tab.keyboard.press("Shift")  # the keyboard was used last: the focus is shown
        self.faults += tab.evaluate(UNREACHABLE, CONTROLS)
        self.calm(name)

    def _keep(self, name: str, scheme: str) -> None:
        if folder := os.environ.get("STUDIO_PICTURES", ""):
            self.tab.screenshot(path=Path(folder) / f"{name}-{scheme}.png")
