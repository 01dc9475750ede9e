"""The server of the page: a few fixed answers, and drawings as lines of JSON while they come.

It reads no file when it is asked for one: the page is in memory before the first visitor comes, and
any other path is answered by 404. Stands on the standard library.
"""

import base64
import hashlib
import hmac
import json
import re
import select
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from MaskGIL.device import is_out_of_memory
from MaskGIL.page.connections import Connections
from MaskGIL.page.painting import Event, Tell
from MaskGIL.page.turns import Busy, Turns
from Network.config import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SCRIPTS = ("page", "controls", "drawing", "brush", "gallery")
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
MOST_CONNECTIONS, MOST_WAITING = 32, 6
MOST_CONNECTIONS_EACH, MOST_WAITING_EACH = 24, 4  # of one address
LARGEST_BODY = 4 << 20
ASKING_SECONDS, SILENT_SECONDS, TOLD_SECONDS = 20, 10, 0.25
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FULL = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\n\r\nMany are here; try again soon.\n"

Draw = Callable[[object, Tell], None]
_OWN_NAME = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE | re.ASCII)


class Left(Exception):
    """The visitor is not there any more."""


class PageServer(ThreadingHTTPServer):
    """Answers at (host, port), of port 0 a free one.

    `about` is what the page is told of the weights; `draw(asked, tell)` draws what JSON asks for.
    With a password every request needs it; without, the server is one of this machine alone.
    Closing it sends all visitors away and waits for the step that is being drawn.
    """

    daemon_threads = False  # none computes any more when the interpreter ends, which would abort

    def __init__(
        self, place: tuple[str, int], about: Mapping[str, Any], draw: Draw, password: str = ""
    ):
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.connections = Connections(MOST_CONNECTIONS, MOST_CONNECTIONS_EACH, ASKING_SECONDS)
        super().__init__(place, _Visit)
        page = files("MaskGIL.page")
        self.pages = {
            path: (page.joinpath(name).read_bytes(), kind) for path, (name, kind) in ASSETS.items()
        }
        self.pages["/about"] = (json.dumps(about).encode(), "application/json")
        self.draw, self.turns = draw, Turns(MOST_WAITING, MOST_WAITING_EACH)
        self.secret = _digest(password) if password else b""

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, as long as there are not too many."""
        if not self.connections.add(request, client_address[0]):
            with suppress(OSError):
                request.send(FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be had
            self.connections.remove(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The visit, and room for another one behind it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.remove(request)

    def service_actions(self) -> None:
        """Every now and then: whoever asks too slowly is left."""
        self.connections.end_late()

    def server_close(self) -> None:
        """Send everybody away; a drawing ends at its step as if its visitor had left."""
        self.connections.end_all()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who leaves is no error; anything else is shown in the terminal."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Visit(BaseHTTPRequestHandler):
    """One request; the connection is closed behind it."""

    timeout = SILENT_SECONDS
    server_version, sys_version = "MaskGIL", ""

    @property
    def page(self) -> PageServer:
        """The server, by its own type."""
        assert isinstance(self.server, PageServer)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what visitors ask for is theirs."""

    def do_GET(self) -> None:
        """The page and its parts."""
        if self._is_refused():
            return
        found = self.page.pages.get(self.path.partition("?")[0])
        if found is None:
            self._answer(404, b"There is no such page.\n", "text/plain")
        else:
            self._answer(200, *found)

    def do_POST(self) -> None:
        """A drawing, told in lines."""
        if self._is_refused():
            return
        if self.path != "/draw":
            self._answer(404, b"There is no such page.\n", "text/plain")
        elif not self._is_from_the_page():
            self._answer(403, b"Only the page itself may ask for a drawing.\n", "text/plain")
        else:
            body = self._body()
            if body is not None:
                self._draw(body)

    def _draw(self, body: bytes) -> None:
        self._head(200, "application/x-ndjson")
        self.page.connections.let_stay(self.connection)
        with suppress(Left):
            if sentence := self._problem(body):
                self._tell(_error(sentence))

    def _problem(self, body: bytes) -> str:
        """Draw and tell of it; what went wrong, empty if nothing did. Raises Left."""
        visitor = self.client_address[0]
        try:
            with self.page.turns.turn(visitor, self._tell_of_waiting, TOLD_SECONDS):
                self.page.draw(_parsed(body), self._tell)
        except Left:
            raise
        except Busy:
            return "Many are drawing just now; try again in a moment."
        except UserError as error:
            return str(error)
        except Exception as error:
            traceback.print_exc()
            return _sentence(error)
        return ""

    def _tell_of_waiting(self, before: int) -> None:
        self._tell({"event": "wait", "before": before})

    def _tell(self, event: Event) -> None:
        """A line; a step is left out for whoever has not fetched the ones before. Raises Left."""
        try:
            self._check_is_there()
            if event["event"] == "step" and not select.select([], [self.connection], [], 0)[1]:
                return
            self.wfile.write(json.dumps(event).encode() + b"\n")
            self.wfile.flush()
        except OSError as error:
            raise Left from error

    def _check_is_there(self) -> None:
        """Raise OSError if the visitor has left, which a write tells too late."""
        self.connection.setblocking(False)
        try:
            left = not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            left = False
        finally:
            self.connection.settimeout(SILENT_SECONDS)
        if left:
            raise ConnectionAbortedError

    def _is_refused(self) -> bool:
        """Whether the visitor has no business here, and has been told so."""
        secret, hosts = self.page.secret, self.headers.get_all("Host", [])
        if secret and not hmac.compare_digest(secret, _digest(self._password())):
            time.sleep(1)  # for whoever tries many
            login = {"WWW-Authenticate": 'Basic realm="MaskGIL"'}
            self._answer(401, b"This page needs its password.\n", "text/plain", login)
            return True
        is_own = len(hosts) == 1 and _OWN_NAME.fullmatch(hosts[0])
        if not secret and not is_own:  # a name of somebody else's that leads here
            self._answer(403, b"This page is for this machine alone.\n", "text/plain")
            return True
        return False

    def _password(self) -> str:
        kind, _, code = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            return ""
        try:
            return base64.b64decode(code, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""

    def _is_from_the_page(self) -> bool:
        """Whether no other site made the browser ask."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host")
        kind = self.headers.get_content_type()
        own = (None, f"http://{host}", f"https://{host}")  # the latter of a proxy before us
        return kind == "application/json" and origin in own

    def _body(self) -> bytes | None:
        """What is sent, None for too much or too slow, of which the visitor has been told."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d+", length, re.ASCII):
            self._answer(411, b"How long it is must be told.\n", "text/plain")
            return None
        if len(length) > len(str(LARGEST_BODY)) or int(length) > LARGEST_BODY:
            text = f"More than {LARGEST_BODY >> 20} MB; send smaller pictures.\n"
            self._answer(413, text.encode(), "text/plain")
            return None
        body = self.rfile.read(int(length))
        if len(body) == int(length):
            return body
        self._answer(408, b"The rest of it did not come.\n", "text/plain")
        return None

    def _answer(
        self, status: int, data: bytes, kind: str, more: Mapping[str, str] | None = None
    ) -> None:
        self._head(status, kind, {"Content-Length": str(len(data)), **(more or {})})
        self.wfile.write(data)

    def _head(self, status: int, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        text = "; charset=utf-8" if kind.startswith("text/") else ""
        for name, value in {"Content-Type": kind + text, **HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("That is no wish that the page could have sent.") from None


def _error(sentence: str) -> Event:
    return {"event": "error", "sentence": sentence}


def _sentence(error: Exception) -> str:
    if is_out_of_memory(error):
        return "The device has no memory for that; ask for fewer pictures."
    return "That went wrong here; the terminal of the page says why."


def _digest(password: str) -> bytes:
    """All of one length, so that no time tells how far two agree."""
    return hashlib.sha256(password.encode()).digest()
