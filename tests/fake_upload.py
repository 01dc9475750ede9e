"""A hub on this machine that takes uploads, as the hub's client sends them without Xet."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LARGE = 100_000  # bytes from which a file goes the way of large ones


class UploadHub:
    """Its `repositories` {name: {path: bytes}}, those that are `private`, and tokens it got."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.repositories, self.private, self.tokens, self.blobs = {}, set(), set(), {}
        self.refuses = 0  # the status of every answer, 0: it takes all
        self.card_errors = []  # what it finds wrong in every card
        self.told = self.newest = "0" * 40  # the commit that it tells, and the one that it has
        self.is_another = False  # whether a page answers that is not the hub's


@contextmanager
def upload_hub():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            pass

        def do_POST(self):
            hub.tokens.add(self.headers.get("Authorization"))
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.refuses:
                answer(self, hub.refuses, {"error": "Not here"})
            elif hub.card_errors and self.path == "/api/validate-yaml":
                errors = [{"message": text} for text in hub.card_errors]
                answer(self, 400, {"errors": errors, "warnings": []})
            else:
                path = urlsplit(self.path).path
                if path.endswith("/commit/main") and parent(data) not in (None, hub.newest):
                    answer(self, 412, {"error": "Too late"})
                else:
                    answer(self, 200, take(hub, path, data))

        def do_GET(self):
            name = urlsplit(self.path).path.removeprefix("/api/models/")
            if hub.is_another:
                answer(self, 200, "<html>Log in</html>", as_json=False)
            elif hub.refuses:
                answer(self, hub.refuses, {"error": "Not here"})
            elif name not in hub.repositories:
                answer(self, 404, {"error": "Not found"}, {"X-Error-Code": "RepoNotFound"})
            else:
                files = [{"rfilename": file} for file in hub.repositories[name]]
                about = {"private": name in hub.private, "siblings": files}
                answer(self, 200, {"id": name, "sha": hub.told, **about})

        def do_PUT(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == name
            hub.blobs[name] = data
            answer(self, 200, {})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = UploadHub(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request, status, content, headers=None, as_json=True):
    data = (json.dumps(content) if as_json else content).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)


def take(hub, path, data):
    """What the hub answers to what is posted to a path."""
    if path == "/api/repos/create":
        asked = json.loads(data)
        name = f"{asked['organization']}/{asked['name']}"
        hub.repositories.setdefault(name, {})
        hub.private |= {name} if asked.get("visibility") == "private" else set()
        return {"url": f"{hub.url}/{name}"}
    if path == "/api/validate-yaml":
        return {"errors": [], "warnings": []}
    if path.endswith(".git/info/lfs/objects/batch"):
        upload = {"href": hub.url + "/put/"}
        objects = [
            {**each, "actions": {"upload": {**upload, "href": f"{upload['href']}{each['oid']}"}}}
            for each in json.loads(data)["objects"]
        ]
        return {"transfer": "basic", "objects": objects}
    name, _, what = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
    assert name in hub.repositories, path
    if what == "preupload":
        return {"files": [preupload(file) for file in json.loads(data)["files"]]}
    assert what == "commit", path
    commit(hub, hub.repositories[name], data)
    return {"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1"}


def parent(data):
    """The commit that a new one says to stand on, None where it does not say."""
    return json.loads(data.splitlines()[0])["value"].get("parentCommit")


def preupload(file):
    mode = "lfs" if file["size"] >= LARGE else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def commit(hub, files, data):
    header, *lines = map(json.loads, data.splitlines())
    assert header["value"]["summary"]
    for line in lines:
        value = line["value"]
        if line["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        else:
            assert line["key"] == "file"
            files[value["path"]] = base64.b64decode(value["content"])
