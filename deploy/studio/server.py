"""The studio's server: pages on loopback, for reading; one form that changes something, behind a confirmation.

What a web page elsewhere could try is refused here: a Host that is not this machine's name (DNS rebinding), reading
or embedding from another site, a form that this server did not give out. The content policy lets a browser run and
fetch nothing but this package's own files, so that even markup that slipped through would be inert.
"""

import asyncio
import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from deploy.studio import ask, flow, letters, problems, render, rollouts, rows, traces, training, trees
from deploy.studio.site import Asked, NotThere, Page, Site
from deploy.studio.tables import TooLong
from processors.dataset import NoDatasets
from schemas.errors import Told

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only named
"""Hosts that are every address of this machine, and how it is reached from itself."""
REFUSED = frozenset({403, 421})
"""Answered in plain text: whoever asks from elsewhere learns nothing of this directory."""
ASKING = 2
"""Queries of the readers' own that run at once; the others wait, and leave the threads to the pages."""
LINE = 65_536
"""The longest address: a query in SQL stands in it."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser calls the origin of our own form null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

View = Callable[[Site, Asked], Page]
PAGES: tuple[tuple[str, View], ...] = (
    ("/flow", flow.page),
    ("/problems/{id}", problems.page),
    ("/trees", trees.listed),
    ("/trees/{id}", trees.page),
    ("/traces", traces.listed),
    ("/traces/{id}", traces.page),
    ("/rollouts", rollouts.listed),
    ("/rollouts/{id}", rollouts.page),
    ("/training", training.page),
    ("/ask", ask.page),
    ("/ledger", flow.ledger),
    ("/letters", letters.listed),
    ("/letters/{id}", letters.page),
    ("/rows/{table}", rows.listed),
    ("/rows/{table}/{id}", rows.page),
)


class Once(web.FileResponse):
    """A file that is removed when it was sent."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it."""
        try:
            return await super().prepare(request)
        finally:
            self._path.unlink(missing_ok=True)


class Server:
    """One site over HTTP.

    Args:
        site: what the pages show.
        names: the names of this machine that it answers to.
    """

    def __init__(self, site: Site, names: frozenset[str] = NAMES) -> None:
        self.site = site
        self.names = names
        self.templates = render.environment()
        self._asking = asyncio.Semaphore(ASKING)
        self._replaying = asyncio.Semaphore(1)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._guard], client_max_size=65_536)
        app.router.add_get("/", self._home)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/ask/{name:answer\\.(?:csv|parquet)}", self._download)
        app.router.add_post("/letters/{id}/replay", self._replay)
        for path, view in PAGES:
            app.router.add_get(path, self._handler(view))
        return app

    def _handler(self, view: View) -> Callable[[web.Request], "asyncio.Future[web.Response]"]:
        async def handle(request: web.Request) -> web.Response:
            asked = _asked(request)
            async with self._asking if view is ask.page and asked.get("sql") else contextlib.nullcontext():
                return await asyncio.to_thread(self._page, view, asked)

        return handle  # type: ignore[return-value] # aiohttp takes a coroutine function

    def _page(self, view: View, asked: Asked, status: int = 200) -> web.Response:
        page = view(self.site, asked)
        return self._html(page, asked, status)

    def _html(self, page: Page, asked: Asked, status: int = 200) -> web.Response:
        common = {"asked": asked, "site": self.site, "lacking": self._lacking(), "token": self.site.token}
        text = self.templates.get_template(page.template).render(**common | page.values)
        return web.Response(text=text, status=status, content_type="text/html")

    def _lacking(self) -> dict[str, list[str]]:
        try:
            return self.site.tables.snapshot().lacking
        except Told:
            return {}

    async def _home(self, _request: web.Request) -> web.Response:
        raise web.HTTPFound("/flow")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = render.HERE / "static" / request.match_info["name"]
        if path.suffix not in STATIC or path.parent != render.HERE / "static" or not path.is_file():
            raise NotThere(f"no file {request.match_info['name']!r}")
        return web.Response(body=path.read_bytes(), content_type=STATIC[path.suffix], charset="utf-8")

    async def _download(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request)
        form = request.match_info["name"].rpartition(".")[2]
        async with self._asking:
            path = await asyncio.to_thread(ask.written, self.site, asked, form)
        kind = "text/csv" if form == "csv" else "application/vnd.apache.parquet"
        return Once(
            path, headers={"Content-Type": kind, "Content-Disposition": f'attachment; filename="answer.{form}"'}
        )

    async def _replay(self, request: web.Request) -> web.Response:
        form = await request.post()
        if str(form.get("token", "")) != self.site.token:
            raise web.HTTPForbidden(text="this form was not given out by this studio: open the dead letter again")
        asked = _asked(request)
        async with self._replaying:
            place = await asyncio.to_thread(letters.replay, self.site, asked)
        raise web.HTTPSeeOther(place)  # so that to load the page again sends nothing

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
        """Refuse what comes from elsewhere; turn an error into a page that says it in a sentence."""
        try:
            _check(request, self.names)
            response: web.StreamResponse = await handler(request)  # type: ignore[misc]
        except web.HTTPRedirection as found:
            response = found
        except web.HTTPException as error:
            response = error
            if error.status not in REFUSED:
                response = await self._sorry(request, error.status, error.text or error.reason)
        except Told as error:
            response = await self._sorry(request, _status(error), str(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours: the page says so, the terminal has the traceback
            traceback.print_exception(error, file=sys.stderr)
            response = await self._sorry(
                request, 500, f"a defect of the studio ({type(error).__name__}); its terminal says more"
            )
        response.headers.update(HEADERS)
        return response

    async def _sorry(self, request: web.Request, status: int, text: str) -> web.Response:
        asked = Asked(request.path, {}, [])
        values = {"status": status, "title": HTTPStatus(status).phrase, "text": text}
        return await asyncio.to_thread(self._html, Page("sorry.html", values), asked, status)


def _asked(request: web.Request) -> Asked:
    return Asked(request.path, dict(request.match_info), list(request.query.items()))


def _status(error: Told) -> int:
    if isinstance(error, NotThere | LookupError):
        return 404
    return 503 if isinstance(error, TooLong | NoDatasets) else 400


def _split(address: str) -> SplitResult:
    """The parts of an address; none of what is no address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _check(request: web.Request, names: frozenset[str]) -> None:
    """That the request is for this machine by its own name, and comes from this site or from the address bar."""
    if _split(f"//{request.headers.get('Host', '')}").hostname not in names:
        raise web.HTTPMisdirectedRequest(
            text="this studio does not answer to that name: open it as 127.0.0.1, or start it with --allow-host NAME"
        )
    origin = request.headers.get("Origin")
    foreign = origin is not None and _split(origin).netloc != request.headers.get("Host")
    fetched = request.headers.get("Sec-Fetch-Site", "none") in {"cross-site", "same-site"}
    followed = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    if foreign or (fetched and not followed):
        raise web.HTTPForbidden(text="asked for by another site's page: open it here instead")
    if request.method == "POST" and origin is None:
        raise web.HTTPForbidden(text="a form must be sent by a page of this studio")
    if request.method not in {"GET", "HEAD", "POST"}:
        raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"], text="this studio is for reading")


def answered(host: str, names: Sequence[str] = ()) -> frozenset[str]:
    """The names that a studio that listens on `host` answers to: this machine's own, the host's, and `names`."""
    return NAMES | {name.strip("[]").lower() for name in (host, *names)} - set(EVERYWHERE)


@contextlib.contextmanager
def running(site: Site, host: str = "127.0.0.1", port: int = 0, names: Sequence[str] = ()) -> Iterator[str]:
    """Serve the site from a thread of its own; gives its address.

    Args:
        site: what the pages show.
        host: where it listens.
        port: 0 = a free one.
        names: further names of this machine that it answers to (see answered).

    Raises:
        OSError: when the port is in use.
    """
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(
        Server(site, answered(host, names)).application(),
        access_log=None,
        max_line_size=LINE,
        max_field_size=LINE,
        shutdown_timeout=1.0,
    )
    try:
        loop.run_until_complete(runner.setup())
        listener = web.TCPSite(runner, host, port)
        loop.run_until_complete(listener.start())
        address = runner.addresses[0]
        thread = threading.Thread(target=loop.run_forever, name="studio", daemon=True)
        thread.start()
        try:
            shown = EVERYWHERE.get(host, host)
            yield f"http://{f'[{shown}]' if ':' in shown else shown}:{address[1]}"
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
    finally:
        site.pulse.close()
        loop.run_until_complete(runner.cleanup())
        loop.close()
