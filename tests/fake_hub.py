"""A server of files on this machine that answers as the hub does, or as badly as a test asks."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Served:
    """A file and how it is served."""

    data: bytes = b""
    etag: str = '"1"'
    date: str = ""
    ranges: bool = True
    status: int = 200
    target: str = ""  # redirect there
    linked: str = ""  # the hash that the hub tells
    commit: str = ""  # of its repository, as the hub tells it
    kind: str = "application/octet-stream"
    length: bool = True
    chunked: bool = False
    cuts: list[int] = field(default_factory=list)  # bytes after which connections break, in turn
    pause: threading.Event | None = None  # waited for where a cut would be


class Hub:
    """Its `files` by path, the `requests` it got (path, headers) and the bytes it `sent`."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.files, self.requests, self.sent = {}, [], 0

    def serve(self, path, data=b"", **how):
        self.files[path] = Served(data, **how)
        return self.url + path

    def serve_lfs(self, path, data, **how):
        """As the hub does a large file: a redirect that tells the hash, then the bytes."""
        target = self.serve(f"/cdn{path}", data, **how)
        return self.serve(path, status=302, target=target, linked=hashlib.sha256(data).hexdigest())

    def serve_repository(self, name, commit, files):
        """As the hub does a repository of small files, at its main revision."""
        hashes = {path: hashlib.sha1(data).hexdigest() for path, data in files.items()}
        listed = [
            {"type": "file", "path": path, "size": len(data), "oid": hashes[path]}
            for path, data in files.items()
        ]
        facts = {"id": name, "sha": commit, "siblings": []}
        for path, value in (("revision/main", facts), (f"tree/{commit}", listed)):
            data = json.dumps(value).encode()
            self.serve(f"/api/models/{name}/{path}", data, kind="application/json")
        for path, data in files.items():
            path_there = f"/{name}/resolve/{commit}/{path}"
            self.serve(path_there, data, etag=f'"{hashes[path]}"', commit=commit)

    def headers(self, name):
        return [headers.get(name) for _, headers in self.requests]


@contextmanager
def hub():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            answer(self, served)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Hub(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request, hub):
    hub.requests.append((request.path, dict(request.headers)))
    file = hub.files.get(urlsplit(request.path).path, Served(status=404))
    start, status = first_byte(request, file), file.status
    data = file.data[start:]
    if start is not None and status == 200:
        status = 206 if start < len(file.data) else 416
    request.send_response(status)
    headers = {"ETag": file.etag, "Last-Modified": file.date, "Location": file.target}
    headers |= {"X-Linked-Etag": f'"{file.linked}"' if file.linked else ""}
    headers |= {"Content-Type": file.kind, "Connection": "close", "X-Repo-Commit": file.commit}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{len(file.data) - 1}/{len(file.data)}"
        del headers["Last-Modified"]  # RFC 9110, 15.3.7: it need not be repeated
    if file.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif file.length:
        headers["Content-Length"] = str(len(data))
    for name, value in headers.items():
        if value:
            request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        send(request, hub, file, data)
    request.close_connection = True


def first_byte(request, file):
    """Of the range that is asked for, None without or where the file is another one now."""
    asked = request.headers.get("Range")
    if not asked or not file.ranges or request.headers["If-Range"] not in (file.etag, file.date):
        return None
    return int(asked.removeprefix("bytes=").removesuffix("-"))


def send(request, hub, file, data):
    cut = file.cuts.pop(0) if file.cuts else len(data)
    for part in (data[:cut], data[cut:]):
        for block in (part[i : i + 65536] for i in range(0, len(part), 65536)):
            hub.sent += len(block)  # before the client can have it
            request.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if file.chunked else block)
        if cut < len(data):
            if not file.pause:
                return
            request.wfile.flush()
            file.pause.wait(60)
            return
    if file.chunked:
        request.wfile.write(b"0\r\n\r\n")
