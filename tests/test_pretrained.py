"""Where the weights of other people's networks are found; the download itself is a local one."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from Metrics.pretrained import Pretrained, downloads, file_sha256
from Network.config import UserError

DATA = b"weights" * 1000
START = hashlib.sha256(DATA).hexdigest()[:8]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """PyTorch's folder of downloads, not made yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "home/hub/checkpoints"


@pytest.fixture(scope="module")
def server():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            data = DATA if self.path == "/right.pth" else b"other"
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def network(url="http://127.0.0.1:1"):
    return Pretrained("vgg", ("a.pth", "b.pth"), START, url, 1)


def test_without_a_file_there_is_none(folder):
    assert downloads() == folder
    for value in ("auto", "none", "download"):
        assert network().find(value) is None
    assert network().open("auto") is None
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a.pth", "b.pth"])
def test_a_kept_file_is_found_by_any_of_its_names_unless_it_is_another(folder, name):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(DATA)
    for value in ("auto", "download"):
        assert network().open(value) == folder / name
    assert network().find("none") is None
    (folder / name).write_bytes(DATA[1:])
    found = file_sha256(folder / name)
    assert found == hashlib.sha256(DATA[1:]).hexdigest()
    with pytest.raises(UserError) as error:
        network().find("auto")
    assert str(error.value) == (
        f"{folder / name} is not the released file (its sha256 begins with {found[:8]}); delete "
        "it, or give vgg=none."
    )
    assert network().find(str(folder / name)) == folder / name  # who names a file may have another


def test_a_file_is_fetched_once_and_only_whole(folder, server):
    right = network(f"{server}/right.pth")
    assert right.open("download") == folder / "a.pth"
    assert (folder / "a.pth").read_bytes() == DATA
    assert network().open("download") == folder / "a.pth"  # nobody is asked
    (folder / "a.pth").unlink()
    with pytest.raises(UserError) as error:
        network(f"{server}/wrong.pth").open("download")
    assert str(error.value).startswith(f"vgg=download failed ({server}/wrong.pth sent another file")
    assert str(error.value).endswith("); vgg=FILE takes one that you have.")
    assert not (folder / "a.pth").exists()


@pytest.mark.parametrize(("value", "hint"), [("c.pth", ""), ("non", " Did you mean 'none'?")])
def test_a_missing_file(value, hint):
    with pytest.raises(UserError) as error:
        network().find(value)
    assert str(error.value) == (f"vgg={value} is no file; give one, or auto, download, none.{hint}")


def test_the_hash_is_known_before_anything_is_read_or_fetched(folder):
    assert [network().sha256(value) for value in ("auto", "none", "download")] == ["", "", START]
    folder.mkdir(parents=True)
    (folder / "a.pth").write_bytes(DATA)
    whole = hashlib.sha256(DATA).hexdigest()
    assert [network().sha256(value) for value in ("auto", "none", "download")] == [whole, "", whole]
