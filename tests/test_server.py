"""The server gives the page, drawings and nothing else, to nobody but its visitors."""

import base64
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from html.parser import HTMLParser
from http.client import HTTPConnection

import pytest
import torch

from MaskGIL.page.server import (
    ASSETS,
    LARGEST_BODY,
    MOST_CONNECTIONS_EACH,
    MOST_WAITING_EACH,
    SILENT_SECONDS,
    PageServer,
)
from Network.config import UserError

JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(draw=lambda asked, tell: tell({"event": "done", "asked": asked}), **more):
    with PageServer(("127.0.0.1", 0), {"weights": "w"}, draw, **more) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture
def server():
    with serving() as server:
        yield server


def ask(server, method, path, body=None, headers=None):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def draw(server, asked, **headers):
    status, _, body = ask(server, "POST", "/draw", json.dumps(asked), {**JSON, **headers})
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.inline = set(), []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                self.found.add(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(name)


def test_the_page_and_its_parts_and_nothing_from_elsewhere(server):
    status, headers, page = ask(server, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    links = Links()
    links.feed(page.decode())
    assert links.found == {"/page.css", "/page.js", "data:,"}
    assert links.inline == []  # which the policy would not let through
    for path in ASSETS:
        status, headers, data = ask(server, "GET", path)
        assert status == 200
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert not re.search(rb"https?://", data)
    imported = re.findall(
        r'from "\./(.*?)"', "".join(ask(server, "GET", p)[2].decode() for p in ASSETS)
    )
    assert {f"/{name}" for name in imported} <= set(ASSETS)
    assert json.loads(ask(server, "GET", "/about")[2]) == {"weights": "w"}


PATHS = [
    "/etc/passwd",
    "//etc/passwd",
    "/../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/page.js/../../play.py",
    "/..%2fserver.py",
    "/file=/etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/page.html",
    "/server.py",
    "/draw",
    "/<script>alert(1)</script>",
    "//[",
    "http://[x/",
    "/\x00",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_file_can_be_read(server, path):
    with socket.create_connection(("127.0.0.1", server.server_port), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith((b"HTTP/1.0 404", b"HTTP/1.0 400"))
    assert b"root:" not in answer
    assert b"<script>" not in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_other_methods_are_unknown(server, method):
    assert ask(server, method, "/draw")[0] == 501


def test_a_drawing_comes_line_by_line():
    goes_on = threading.Event()

    def draw(asked, tell):
        tell({"event": "step", "asked": asked})
        assert goes_on.wait(10)
        tell({"event": "done"})

    with serving(draw) as server:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("POST", "/draw", '{"a": 1}', JSON)
        answer = connection.getresponse()
        assert json.loads(answer.readline()) == {"event": "step", "asked": {"a": 1}}  # it came
        goes_on.set()
        assert json.loads(answer.readline()) == {"event": "done"}
        assert answer.readline() == b""
        connection.close()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("{}", {"Origin": "http://evil.example"}, 403),
        ("{}", {"Origin": "null"}, 403),
        ("{}", {"Content-Type": "text/plain"}, 403),
        ("{}", {"Host": "evil.example:80"}, 403),
        ("{}", {"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ("{}", {"Host": "localhost@evil.example"}, 403),
        ("{}", {"Host": "evil.example@localhost"}, 403),
        ("{}", {"Host": "localhost.evil.example"}, 403),
        ("{}", {"Host": "[::1"}, 403),
        ("{}", {"Host": ""}, 403),
        ("{}", {"Origin": "http://["}, 403),
        ("", {"Content-Length": str(LARGEST_BODY + 1)}, 413),
        ("", {"Content-Length": "9" * 500}, 413),
        ("", {"Content-Length": "0" * 20 + "9" * 11}, 413),
        ("", {"Content-Length": "0" * 20 + "9" * 5000}, 413),
        ("", {"Content-Length": "-1"}, 411),
        ("", {"Content-Length": "²"}, 411),
        ("", {"Transfer-Encoding": "chunked", "Content-Length": ""}, 411),
    ],
)
def test_what_the_page_would_not_send_is_refused(server, body, headers, status):
    assert ask(server, "POST", "/draw", body.encode(), {**JSON, **headers})[0] == status


def test_the_page_itself_may_ask(server):
    place = f"127.0.0.1:{server.server_port}"
    (done,) = draw(server, {"a": 1}, Origin=f"http://{place}", Host=place)
    assert done == {"event": "done", "asked": {"a": 1}}


WRONG = "That went wrong here; the terminal of the page says why."
NO_WISH = "That is no wish that the page could have sent."


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000, "9" * 10_000, b"\xff\xfe\x00"])
def test_what_is_no_json_is_told(server, body):
    status, _, answer = ask(server, "POST", "/draw", body, JSON)
    assert (status, json.loads(answer)) == (200, {"event": "error", "sentence": NO_WISH})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("Choose a class."), "Choose a class."),
        (
            torch.OutOfMemoryError("12 GiB"),
            "The device has no memory for that; ask for fewer pictures.",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "The device has no memory for that; ask for fewer pictures.",
        ),
        (RuntimeError("/secret/path"), WRONG),
        (OSError("/secret/path"), WRONG),
        (ValueError("/secret/path"), WRONG),
        (RecursionError("/secret/path"), WRONG),
    ],
)
def test_what_goes_wrong_is_a_sentence(error, sentence, capfd):
    def fails(asked, tell):
        raise error

    with serving(fails) as server:
        assert draw(server, {}) == [{"event": "error", "sentence": sentence}]
        assert draw(server, {}) == [{"event": "error", "sentence": sentence}]  # it goes on
    told = not isinstance(error, UserError)
    assert (f"{type(error).__name__}: {error}" in capfd.readouterr().err) == told


def test_a_few_wait_in_order_and_more_are_turned_away():
    goes_on, answers = threading.Event(), {}

    def waits(asked, tell):
        tell({"event": "step"})
        assert goes_on.wait(20)
        tell({"event": "done"})

    with serving(waits) as server:

        def visit(number):
            answers[number] = draw(server, number)

        threads = [threading.Thread(target=visit, args=(n,)) for n in range(MOST_WAITING_EACH)]
        for count, thread in enumerate(threads):
            thread.start()
            until(lambda count=count: len(server.turns._line) == count + 1)
        (busy,) = draw(server, "one too many")
        assert busy["sentence"].startswith("Many are drawing just now")
        goes_on.set()
        for thread in threads:
            thread.join(20)
    for number, events in answers.items():
        before = [event["before"] for event in events if event["event"] == "wait"]
        assert before == sorted(before, reverse=True)
        assert (max(before, default=0), events[-1]["event"]) == (number, "done")


def test_who_leaves_is_drawn_for_no_more():
    reached = []

    def draw(asked, tell):
        for step in range(200):
            tell({"event": "step"})
            reached.append(step)
            time.sleep(0.02)

    with serving(draw) as server:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("POST", "/draw", "{}", JSON)
        answer = connection.getresponse()
        answer.readline()
        answer.close()
        connection.close()
        until(lambda: not server.turns._line)
    assert len(reached) < 20


def test_whoever_fetches_slowly_misses_steps_and_holds_nobody_up():
    picture, ended = "x" * 100_000, threading.Event()

    def draw(asked, tell):
        for step in range(400):
            tell({"event": "step", "step": step, "picture": picture})
        ended.set()
        tell({"event": "done"})

    with serving(draw) as server, socket.create_connection(("127.0.0.1", server.server_port)) as me:
        head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 2"
        me.sendall(f"POST /draw HTTP/1.1\r\n{head}\r\n\r\n{{}}".encode())
        assert ended.wait(SILENT_SECONDS - 1)  # before anything is fetched
        lines = me.makefile("rb").read().partition(b"\r\n\r\n")[2].splitlines()
    events = [json.loads(line) for line in lines]
    assert 1 < len(events) < 400
    assert events[-1] == {"event": "done"}


def test_no_more_connections_than_there_is_room_for(server):
    address = ("127.0.0.1", server.server_port)
    idle = [socket.create_connection(address, 10) for _ in range(MOST_CONNECTIONS_EACH)]
    try:
        until(lambda: len(server.connections) == MOST_CONNECTIONS_EACH)
        with socket.create_connection(address, 10) as another:
            assert another.makefile("rb").read().startswith(b"HTTP/1.0 503 ")
    finally:
        for each in idle:
            each.close()
    until(lambda: len(server.connections) == 0)
    assert ask(server, "GET", "/")[0] == 200


def test_who_sends_too_slowly_is_left(monkeypatch):
    monkeypatch.setattr("MaskGIL.page.server.ASKING_SECONDS", 2)  # less than may be silent
    head = "POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: 100\r\n\r\n{{"
    with serving() as server:
        for text, answer in ((whole, b" 408 "), (head, b"")):  # the latter has no end of its head
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.server_port), 10) as connection:
                connection.sendall(text.encode())
                time.sleep(0.1)
                connection.sendall(b" ")
                assert answer in connection.makefile("rb").read()
            assert time.monotonic() - began < SILENT_SECONDS


def test_a_drawing_has_all_the_time_it_takes(monkeypatch):
    monkeypatch.setattr("MaskGIL.page.server.ASKING_SECONDS", 0.1)

    def slow(asked, tell):
        time.sleep(0.5)
        tell({"event": "done"})

    with serving(slow) as server:
        assert draw(server, {}) == [{"event": "done"}]


def test_closing_ends_what_is_drawn_and_what_is_idle():
    reached = []

    def draw(asked, tell):
        for step in range(1000):
            tell({"event": "step"})
            reached.append(step)
            time.sleep(0.02)

    with serving(draw) as server:
        address = ("127.0.0.1", server.server_port)
        idle = socket.create_connection(address, 10)
        drawing = HTTPConnection(*address, timeout=20)
        drawing.request("POST", "/draw", "{}", JSON)
        answer = drawing.getresponse()
        answer.readline()
        threads = list(server._threads)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)
    assert len(reached) < 50
    idle.close()
    drawing.close()


def login(words):
    return {"Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}


def test_a_password_opens_everything_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr("MaskGIL.page.server.time.sleep", lambda seconds: None)
    with serving(password="open sesame") as server:
        right = login("me:open sesame")
        for wrong in (
            {},
            login("me:open"),
            login(":"),
            {"Authorization": "Basic ?"},
            {"Authorization": "x"},
        ):
            for method, path in (("GET", "/"), ("GET", "/about"), ("POST", "/draw")):
                status, headers, body = ask(server, method, path, "{}", {**JSON, **wrong})
                assert (status, body) == (401, b"This page needs its password.\n")
                assert headers["WWW-Authenticate"] == 'Basic realm="MaskGIL"'
        assert ask(server, "GET", "/", headers={**right, "Host": "gpu.lab:7860"})[0] == 200
        assert draw(server, 1, **right) == [{"event": "done", "asked": 1}]
        other = {**JSON, **right, "Origin": "http://evil.example"}
        assert ask(server, "POST", "/draw", "{}", other)[0] == 403


def until(what):
    ends = time.monotonic() + 10
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.005)
