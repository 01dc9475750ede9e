"""The table of public weights, and what it fetches; the hub is a server on this machine."""

import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from fake_hub import hub as serve
from huggingface_hub import constants

from MaskGIL import public
from MaskGIL.public import GENERATORS, PUBLIC, PublicFile, describe, public_file
from MaskGIL.text_source import ENCODERS
from Network.config import UserError
from Network.files import PICKLED
from Network.tokenizer import NAMED

DATA = b"weights" * 1000
LINE = "fetching   {0}: {1}, size unknown, licence {2}, to {3}\n"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub of every name, PyTorch's folder of downloads in `tmp_path`, and a token."""
    with serve() as served:
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("no_proxy", "*")
        yield served


def test_every_name_has_its_row():
    assert PUBLIC.keys() - {"llamagen-vq16-t2i"} == NAMED.keys()
    assert not GENERATORS.keys() & PUBLIC.keys()


FILES = PUBLIC | {name: row.file for name, row in GENERATORS.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_row_names_a_file_that_can_be_read_and_its_licence(name):
    row = FILES[name]
    assert row.file.endswith(PICKLED)
    assert len(row.repository.split("/")) == 2
    assert row.licence
    assert row.revision
    assert not row.url or urlsplit(row.url).scheme == "https"
    assert re.fullmatch("[0-9a-f]{64}|", row.sha256)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_and_its_tokenizer_belong_together(name):
    row = GENERATORS[name]
    config = NAMED[row.tokenizer]
    assert row.tokenizer_file in PUBLIC
    assert PUBLIC[row.tokenizer_file].file.startswith("vq_ds16_")
    assert config.codebook_size == 16384  # of LlamaGen's table and of Halton-MaskGIT's README
    pixels = next((pixels for pixels in (384, 512) if name.endswith(str(pixels))), 256)
    assert row.grid == (pixels // 16, pixels // 16)
    assert re.search(rf"[_A-Z]{pixels}[_.]", row.file.file)
    assert row.objective == ("mar" if name.startswith("halton") else "ar")
    assert row.sampling.guidance_scale > 1


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_of_prompts_names_its_text_encoder(name):
    text = GENERATORS[name].text
    assert (text is not None) == ("t2i" in name)
    assert text is None or (text.encoder in ENCODERS and text.precision == "bf16")


def test_no_two_names_stand_for_one_file():
    assert len({(row.repository, row.file, row.url) for row in FILES.values()}) == len(FILES)


@pytest.mark.parametrize("name", [name for name, row in FILES.items() if not row.url])
def test_a_name_is_fetched_from_the_hub_once(hub, tmp_path, capsys, monkeypatch, name):
    row = FILES[name]._replace(sha256="")  # of the true file
    if name in PUBLIC:
        monkeypatch.setitem(PUBLIC, name, row)
    else:
        monkeypatch.setitem(GENERATORS, name, GENERATORS[name]._replace(file=row))
    hub.serve_lfs(f"/{row.repository}/resolve/{row.revision}/{row.file}", DATA)
    path = tmp_path / "hub/checkpoints/MaskGIL" / name / row.file.split("/")[-1]
    for _ in range(2):
        assert public_file(name) == path
        assert path.read_bytes() == DATA
    source = f"{row.repository} {row.file}" + (f" ({row.note})" if row.note else "")
    assert capsys.readouterr().out == LINE.format(name, source, row.licence, path)
    assert len(hub.requests) == 2  # the hub and where it sends us, once
    assert hub.requests[0][1]["Authorization"] == "Bearer secret"


def test_a_plain_address_gets_no_token(hub, tmp_path, monkeypatch):
    url = hub.serve("/d/1/files/", DATA) + "?p=%2Fckpts%2Flast.ckpt&dl=1"
    row = PUBLIC["taming-f16-1024"]._replace(url=url)
    monkeypatch.setitem(PUBLIC, "taming-f16-1024", row)
    assert public_file("taming-f16-1024").read_bytes() == DATA
    assert hub.requests[0][0] == "/d/1/files/?p=%2Fckpts%2Flast.ckpt&dl=1"
    assert hub.headers("Authorization") == [None]


def test_what_is_known_of_a_file_is_checked_and_said(hub, monkeypatch, capsys):
    hub.serve("/a/b/resolve/v1/c.pt", DATA)
    row = PublicFile("a/b", "c.pt", "MIT", revision="v1", sha256="0" * 64, size=len(DATA))
    monkeypatch.setitem(PUBLIC, "c", row)
    with pytest.raises(UserError, match="not 00000000"):
        public_file("c")
    monkeypatch.setitem(PUBLIC, "c", row._replace(size=2_500_000))
    with pytest.raises(UserError, match="has 7,000 bytes, the file that is known has 2,500,000"):
        public_file("c")
    assert "c: a/b c.pt, 2.5 MB, licence MIT, to " in capsys.readouterr().out


def test_offline_nothing_is_asked_for(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = tmp_path / "hub/checkpoints/MaskGIL/llamagen-vq16/vq_ds16_c2i.pt"
    url = f"{hub.url}/FoundationVision/LlamaGen/resolve/main/vq_ds16_c2i.pt"
    with pytest.raises(UserError) as error:
        public_file("llamagen-vq16")
    assert str(error.value) == (
        f"HF_HUB_OFFLINE is set, and {path} is not there; fetch {url} elsewhere and put it there, "
        "or name it, tokenizer.weights=FILE."
    )
    assert hub.requests == []
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert public_file("llamagen-vq16") == path


def test_an_unknown_name():
    with pytest.raises(UserError) as error:
        public_file("llamagen-vq61")
    assert str(error.value) == (
        "Unknown public weights 'llamagen-vq61'. Did you mean 'llamagen-vq16'? "
        f"Known: {', '.join(FILES)}."
    )


def test_another_file_than_the_one_that_a_page_told_of(hub):
    row = FILES["llamagen-xl-384"]
    hub.serve(f"/{row.repository}/resolve/{row.revision}/{row.file}", DATA)
    with pytest.raises(UserError, match="sha256 begins with .*, not 736cb92b"):
        public_file("llamagen-xl-384")


def test_a_generator_offline(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = tmp_path / "hub/checkpoints/MaskGIL/llamagen-b/c2i_B_256.pt"
    url = f"{hub.url}/FoundationVision/LlamaGen/resolve/main/c2i_B_256.pt"
    with pytest.raises(UserError) as error:
        public_file("llamagen-b")
    assert str(error.value) == (
        f"HF_HUB_OFFLINE is set, and {path} is not there; fetch {url} elsewhere and put it there."
    )
    assert describe("llamagen-b") == (
        "llamagen-b: FoundationVision/LlamaGen c2i_B_256.pt, size unknown, licence MIT"
    )


@pytest.mark.slow
def test_the_environment_names_the_hub(hub, tmp_path):
    row = PUBLIC["maskgit-vq"]
    hub.serve_lfs(f"/{row.repository}/resolve/main/{row.file}", DATA)
    code = "from MaskGIL.public import public_file; public_file('maskgit-vq')"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "HF_ENDPOINT": hub.url}
    )
    assert (public._folder() / "maskgit-vq" / row.file).read_bytes() == DATA
    assert hub.headers("Authorization") == ["Bearer secret"] * 2  # one host here
