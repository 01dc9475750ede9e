"""Addresses on this machine: redirects, who gets the token, and refusals in one sentence."""

import hashlib
from urllib.error import HTTPError

import pytest
from fake_hub import hub as serve

from MaskGIL.web import open_url
from Network.config import UserError

DATA = b"weights"
HASH = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serve() as served:
        yield served


def refused(sentence, url):
    with pytest.raises(UserError) as error:
        open_url(url, {}, "secret")
    assert str(error.value) == sentence


def test_the_token_stays_with_its_host(hub):
    with serve() as other:
        target = other.serve("/far", DATA)
        hub.serve("/moved", status=308, target=target, linked=HASH)
        url = hub.serve("/a.pt", status=307, target="/moved")
        response, said = open_url(url, {"Range": "bytes=2-", "If-Range": '"1"'}, "secret")
        with response:
            assert response.read() == DATA[2:]
        assert said == {"X-Linked-Etag": f'"{HASH}"'}
        assert hub.headers("Authorization") == ["Bearer secret"] * 2
        assert other.headers("Authorization") == [None]
        assert other.headers("Range") == ["bytes=2-"]


def test_without_a_token_none_is_shown(hub):
    open_url(hub.serve("/a.pt", DATA), {}, None)[0].close()
    assert hub.headers("Authorization") == [None]


@pytest.mark.parametrize("url", ["http://10.0.0.1/a.pt", "ftp://localhost/a.pt", "file:///a.pt"])
def test_only_https_leaves_the_machine(hub, url):
    sentence = f"{url} is not fetched: only https is, so that nobody changes it on the way."
    refused(sentence, url)
    refused(sentence, hub.serve("/a.pt", status=302, target=url))


def test_a_circle(hub):
    url = hub.serve("/round", status=302, target="/round")
    refused(f"{url} redirects in a circle; fetch it on another machine and name the file.", url)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "{} asks for an account (401 Unauthorized): accept the licence of its repository "
         "there, then set HF_TOKEN to a token of yours."),
        (403, "{} asks for an account (403 Forbidden): accept the licence of its repository there, "
         "then set HF_TOKEN to a token of yours."),
        (404, "There is no file at {} (404); name one that you have."),
    ],
)  # fmt: skip
def test_a_refusal(hub, status, sentence):
    url = hub.serve("/a.pt", b"no", status=status)
    refused(sentence.format(url), url)


def test_what_may_go_well_the_next_time_is_no_refusal(hub):
    with pytest.raises(HTTPError, match="503"):
        open_url(hub.serve("/a.pt", b"no", status=503), {}, None)
