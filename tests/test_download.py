"""Downloads from a server on this machine: resumed, verified, and told in one sentence."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import pytest
from fake_hub import hub as serve

from MaskGIL import download, web
from MaskGIL.download import fetch
from Network.config import UserError

DATA = random.Random(0).randbytes(300_000)
HASH = hashlib.sha256(DATA).hexdigest()
ELSEWHERE = "fetch it on another machine and name the file"
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No proxy and no waiting, but as many tries."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def hub():
    with serve() as served:
        yield served


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kept" / "a.pt"


def refused(sentence, *arguments, **more):
    with pytest.raises(UserError) as error:
        fetch(*arguments, **more)
    assert str(error.value) == sentence


def half_done(url, path, monkeypatch):
    """Leave behind what a broken download leaves."""
    monkeypatch.setattr(download, "WAITS", ())
    with pytest.raises(UserError, match="broke off 1 times"):
        fetch(url, path)
    return path.with_name("a.pt.part").stat().st_size


# Whole


def test_a_file_is_fetched_once_and_nothing_else_is_left(hub, path):
    url = hub.serve("/a.pt", DATA)
    for _ in range(2):
        assert fetch(url, path) == path
        assert path.read_bytes() == DATA
        assert os.listdir(path.parent) == ["a.pt"]
    assert len(hub.requests) == 1


@pytest.mark.parametrize("digits", [8, 64])
def test_the_hash_is_compared_as_far_as_it_is_known(hub, path, digits):
    assert fetch(hub.serve("/a.pt", DATA), path, sha256=HASH[:digits].upper()).exists()
    other = f"{int(HASH[0], 16) ^ 1:x}{HASH[1:digits]}"
    path.unlink()
    refused(
        f"{hub.url}/a.pt sent another file than expected (its sha256 begins with {HASH[:8]}, not "
        f"{other[:8]}), which was removed; try again, or {ELSEWHERE}.",
        f"{hub.url}/a.pt", path, sha256=other,
    )  # fmt: skip
    assert os.listdir(path.parent) == []


def test_the_hash_that_the_hub_tells_is_compared(hub, path):
    url = hub.serve_lfs("/a.pt", DATA)
    assert fetch(url, path).read_bytes() == DATA
    path.unlink()
    hub.files["/cdn/a.pt"].data = DATA[:-1] + bytes([DATA[-1] ^ 1])  # one bit
    with pytest.raises(UserError, match=rf"not {HASH[:8]}\), which was removed"):
        fetch(url, path)
    assert os.listdir(path.parent) == []


def test_an_empty_length_is_no_length(hub, path):
    assert fetch(hub.serve("/a.pt", DATA, length=False, chunked=True), path).read_bytes() == DATA
    path.unlink()
    url = hub.serve("/b.pt", DATA, length=False)
    refused(f"{url} does not say how long its file is; {ELSEWHERE}.", url, path)
    assert fetch(url, path, size=len(DATA)).read_bytes() == DATA


# Broken off


@pytest.mark.parametrize("how", [{}, {"etag": "", "date": DATE}, {"etag": 'W/"1"', "date": DATE}])
def test_a_broken_connection_goes_on_where_it_broke(hub, path, how):
    url = hub.serve("/a.pt", DATA, cuts=[100_000, 50_000, 0], **how)
    assert fetch(url, path).read_bytes() == DATA
    assert hub.headers("Range") == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert set(hub.headers("If-Range")[1:]) == {DATE if "date" in how else '"1"'}
    assert hub.sent == len(DATA)


def test_without_range_or_with_nothing_to_tell_the_file_by_it_begins_anew(hub, path):
    for number, how in enumerate(({"ranges": False}, {"etag": ""}, {"etag": 'W/"1"'})):
        hub.sent = 0
        url = hub.serve("/a.pt", DATA, cuts=[100_000], **how)
        place = path.with_name(f"{number}.pt")
        assert fetch(url, place).read_bytes() == DATA
        assert hub.sent == len(DATA) + 100_000


def test_chunks_that_end_too_early_are_seen(hub, path):
    url = hub.serve("/a.pt", DATA, chunked=True, cuts=[100_000])
    assert fetch(url, path).read_bytes() == DATA
    assert hub.headers("Range") == [None, "bytes=100000-"]


def test_a_server_that_falls_silent_is_asked_again(hub, path, monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    url = hub.serve("/a.pt", DATA, cuts=[100_000], pause=threading.Event())
    assert fetch(url, path).read_bytes() == DATA
    assert hub.headers("Range") == [None, "bytes=100000-"]
    hub.files["/a.pt"].pause.set()


def test_it_gives_up_and_keeps_what_has_come(hub, path):
    url = hub.serve("/a.pt", DATA, cuts=[10, 10, 10, 10])
    refused(
        f"{url} broke off 4 times (40 of 300,000 bytes have come); try again, which goes on from "
        f"there, or {ELSEWHERE}.", url, path,
    )  # fmt: skip
    assert sorted(os.listdir(path.parent)) == ["a.pt.part", "a.pt.part.json"]
    assert fetch(url, path).read_bytes() == DATA
    assert hub.sent == len(DATA)


def test_another_file_under_the_same_name_begins_anew(hub, path, monkeypatch):
    url = hub.serve("/a.pt", DATA, cuts=[100_000])
    assert half_done(url, path, monkeypatch) == 100_000
    hub.serve("/a.pt", DATA[::-1], etag='"2"')
    assert fetch(url, path).read_bytes() == DATA[::-1]
    assert hub.headers("If-Range")[1] == '"1"'


def test_another_file_under_the_same_etag_begins_anew(hub, path, monkeypatch):
    url = hub.serve("/a.pt", DATA, cuts=[100_000])
    half_done(url, path, monkeypatch)
    hub.serve("/a.pt", DATA[:200_000])
    monkeypatch.setattr(download, "WAITS", (0.0,))
    assert fetch(url, path).read_bytes() == DATA[:200_000]
    assert hub.headers("Range") == [None, "bytes=100000-", None]


def test_a_part_that_is_too_long_begins_anew(hub, path, monkeypatch):
    url = hub.serve("/a.pt", DATA, cuts=[100_000])
    half_done(url, path, monkeypatch)
    path.with_name("a.pt.part").write_bytes(DATA * 2)
    monkeypatch.setattr(download, "WAITS", (0.0,))
    assert fetch(url, path).read_bytes() == DATA
    assert hub.headers("Range") == [None, "bytes=600000-", None]


@pytest.mark.parametrize("facts", ["{", "[]", '{"size": 1}', None])
def test_a_part_without_its_facts_begins_anew(hub, path, monkeypatch, facts):
    url = hub.serve("/a.pt", DATA, cuts=[100_000])
    half_done(url, path, monkeypatch)
    place = path.with_name("a.pt.part.json")
    place.write_text(facts) if facts else place.unlink()
    assert fetch(url, path).read_bytes() == DATA
    assert hub.headers("Range") == [None, None]


def test_a_whole_part_needs_its_name_alone(hub, path, monkeypatch):
    url = hub.serve("/a.pt", DATA, cuts=[100_000])
    half_done(url, path, monkeypatch)
    path.with_name("a.pt.part").write_bytes(DATA)
    hub.files.clear()
    assert fetch(url, path, sha256=HASH).read_bytes() == DATA
    assert len(hub.requests) == 1


KILLED = """
import sys
from pathlib import Path
from MaskGIL.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_download_goes_on(hub, path):
    data = random.Random(1).randbytes(3_000_000)
    url = hub.serve_lfs("/a.pt", data, cuts=[2_000_000], pause=threading.Event())
    child = subprocess.Popen([sys.executable, "-c", KILLED, url, str(path)])
    part = path.with_name("a.pt.part")
    until = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 2_000_000:
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    hub.files["/cdn/a.pt"].pause.set()
    assert not path.exists()
    assert fetch(url, path).read_bytes() == data
    assert hub.headers("Range")[-1] == "bytes=2000000-"
    assert hub.sent == len(data)  # no byte twice
    assert os.listdir(path.parent) == ["a.pt"]


def test_two_at_once_fetch_it_once(hub, path):
    url = hub.serve("/a.pt", DATA, cuts=[100_000], pause=threading.Event())
    threads = [threading.Thread(target=fetch, args=(url, path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)  # all have opened the part, one has got its first bytes
    hub.files["/a.pt"].pause.set()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == DATA
    assert hub.sent == len(DATA)
    assert os.listdir(path.parent) == ["a.pt"]


# Sentences


def test_a_refusal_leaves_nothing_behind(hub, path):
    refused(f"There is no file at {hub.url}/a.pt (404); name one that you have.",
            f"{hub.url}/a.pt", path)  # fmt: skip
    url = hub.serve("/a.pt", b"no", status=503)
    refused(f"{url} cannot be reached (Service Unavailable); {ELSEWHERE}.", url, path)
    assert os.listdir(path.parent) == []
    assert len(hub.requests) == 2


def test_a_server_that_is_not_there(path):
    with serve() as hub:
        url = f"{hub.url}/a.pt"
    with pytest.raises(UserError) as error:
        fetch(url, path)
    assert re.fullmatch(
        rf"{url} cannot be reached \(\[Errno \d+\] Connection refused\); {ELSEWHERE}\.",
        str(error.value),
    )


def test_a_web_page_is_no_file(hub, path):
    url = hub.serve("/a.pt", b"<!doctype html>", kind="text/html; charset=utf-8")
    refused(f"{url} answers with a web page, not with a file; {ELSEWHERE}.", url, path)


def test_a_size_that_is_known_to_be_another(hub, path):
    url = hub.serve("/a.pt", DATA)
    refused(f"{url} has 300,000 bytes, the file that is known has 7; {ELSEWHERE}.",
            url, path, size=7)  # fmt: skip
    assert os.listdir(path.parent) == []


def test_a_disk_without_room(hub, path, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    refused(
        f"{path}.part needs 0.3 MB more, its disk has only 0.0 MB left; free some, or set "
        "TORCH_HOME to a folder on another disk.", hub.serve("/a.pt", DATA), path,
    )  # fmt: skip
    assert not path.exists()


def test_a_place_that_is_a_file(hub, path):
    path.parent.write_text("")
    refused(
        f"{path} cannot be written (File exists); set TORCH_HOME to a folder with room that you "
        "may write to.", hub.serve("/a.pt", DATA), path,
    )  # fmt: skip


def test_the_facts_are_for_people_too(hub, path, monkeypatch):
    half_done(hub.serve_lfs("/a.pt", DATA, cuts=[9]), path, monkeypatch)
    facts = json.loads(path.with_name("a.pt.part.json").read_text())
    assert facts == {"size": len(DATA), "sha256": HASH, "validator": '"1"'}
