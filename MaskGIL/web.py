"""Addresses of the internet: opened over https alone, and a token shown to one host only.

The hub redirects to another host for large files, and says their hash and size while it does.
"""

from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from Network.config import UserError

TIMEOUT = 30.0  # seconds without a byte
REDIRECTS = (301, 302, 303, 307, 308)
ELSEWHERE = "fetch it on another machine and name the file"


class Broken(Exception):
    """The connection failed, not the file: it may hold the next time."""


def open_url(
    url: str, headers: Mapping[str, str], token: str | None
) -> tuple[HTTPResponse, dict[str, str]]:
    """Ask for what lies at `url`: the answer, and what the hub said of the file before it.

    `token` goes to the host of `url` alone, wherever that sends us. Raises UserError for a refusal,
    Broken and URLError for what may go well the next time.
    """
    origin, place, said = _origin(url), url, {}
    for _ in range(10):
        _check_scheme(place, origin)
        request = Request(place, headers=dict(headers))
        if token and _origin(place) == origin:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            response = build_opener(_Stay).open(request, timeout=TIMEOUT)
            return cast(HTTPResponse, response), {**said, **_linked(response.headers)}
        except HTTPError as error:
            with error:
                if error.code not in REDIRECTS or not (target := error.headers["Location"]):
                    raise _refusal(url, error) from None
                said |= _linked(error.headers)
                place = urljoin(place, target)
        except URLError:
            raise
        except (OSError, HTTPException) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
    raise UserError(f"{url} redirects in a circle; {ELSEWHERE}.")


def _refusal(url: str, error: HTTPError) -> Exception:
    if error.code in (401, 403):
        return UserError(
            f"{url} asks for an account ({error.code} {error.reason}): accept the licence of its "
            "repository there, then set HF_TOKEN to a token of yours."
        )
    if error.code in (404, 410):
        return UserError(f"There is no file at {url} ({error.code}); name one that you have.")
    return error  # a URLError: the server may answer otherwise the next time


def _check_scheme(place: str, origin: tuple[str, str]) -> None:
    parts = urlsplit(place)
    if parts.scheme == "https" or (parts.scheme == origin[0] == "http" and _is_local(parts)):
        return
    raise UserError(f"{place} is not fetched: only https is, so that nobody changes it on the way.")


def _is_local(parts: SplitResult) -> bool:
    with suppress(ValueError):  # a name, not an address
        return ip_address(parts.hostname or "").is_loopback
    return parts.hostname == "localhost"


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url).scheme, urlsplit(url).netloc


def _linked(headers: Message) -> dict[str, str]:
    """What the hub says of a file that lies on another host."""
    return {name: headers[name] for name in ("X-Linked-Etag", "X-Linked-Size") if headers[name]}


class _Stay(HTTPRedirectHandler):
    """Redirects are followed in `open_url`, which looks at each."""

    def redirect_request(self, req, fp, code, msg, headers, newurl) -> None:
        """Follow none."""
