"""`python -m MaskGIL play`, up to the page; the page itself is in test_page.py."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from tiny_text import save_encoder, save_text_weights
from tiny_weights import save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.data.shapes import CLASSES
from MaskGIL.page.wish import SETTINGS, SIDES

ROOT = Path(__file__).parent.parent
CPU = ("device=cpu", "precision=fp32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_tiny_weights(folder / "ar", objective="ar")
    return save_tiny_weights(folder / "weights")


@pytest.fixture
def play(tmp_path, monkeypatch, capsys):
    """What the command says; it answers nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("MaskGIL.page.server.PageServer.serve_forever", lambda self: None)

    def play(*words):
        code = main(["play", *CPU, "port=0", *words])
        return code, *capsys.readouterr()

    return play


def test_it_says_what_it_takes_and_where_it_is(play, weights):
    code, out, err = play(f"weights={weights}", "num_steps=3")
    assert (code, err) == (0, "")
    size = sum(
        (weights / f"{name}.safetensors").stat().st_size for name in ("network-ema", "tokenizer")
    )
    first, *others = out.splitlines()
    told = f"{size / 1e6:,.0f} MB; loading takes {2 * size / 1e6:,.0f} MB beside PyTorch's own 1 GB"
    assert first == f"weights    {weights}, {told}"
    assert others[0].startswith("sampler    3 steps, guidance 3, temperature 1, by confidence")
    assert re.fullmatch(r"page       http://127\.0\.0\.1:\d+  \(Ctrl-C ends it\)", others[2])
    assert "page" not in play(f"weights={weights}", "--dry-run")[1]


def test_memory_is_told_before_anything_is_loaded(play, weights, monkeypatch):
    monkeypatch.setattr("MaskGIL.play.load_pipeline", lambda keys: sys.exit(9))
    with pytest.raises(SystemExit, match="9"):
        play(f"weights={weights}")


def test_memory_of_public_weights_is_told_before_they_are_fetched(play, weights, monkeypatch):
    monkeypatch.setattr("MaskGIL.play.load_pipeline", lambda keys: sys.exit(9))
    said = []
    monkeypatch.setattr("builtins.print", lambda *words, **more: said.append(words[0]))
    with pytest.raises(SystemExit):
        play("weights=llamagen-b")
    assert said == [  # 111M and 72M numbers of four bytes
        "weights    llamagen-b, about 732 MB; loading takes 1,464 MB beside PyTorch's own 1 GB"
    ]


def test_without_weights_it_takes_the_demos_or_says_how_to_get_them(play, weights, tmp_path):
    code, out, err = play()
    assert (code, out) == (2, "")
    assert err == (
        "error: weights is empty, and the demo's are not there yet: make demo trains them in eight "
        "minutes, without a GPU. Or name others, weights=RUN/weights or a public name that is "
        "fetched, such as weights=llamagen-b.\n"
    )
    shutil.copytree(weights, tmp_path / "runs/demo/generator/weights")
    code, out, err = play()
    assert (code, err) == (0, "")
    assert out.startswith(
        "note       weights is empty: here is the demo's generator.\nweights    runs/demo/"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["host=0.0.0.0"], "host=0.0.0.0 lets other machines in; give them a password, password="),
        (["host=::"], "host=:: lets other machines in; give them a password"),
        (["password=short"], "password has fewer than 8 letters; give a longer one."),
        (["port=70000"], "port must lie in [0, 65535]"),
        (["weights=../x"], "No such weights folder: ../x."),
        (
            ["host=no.such.host.invalid", "password=long enough"],
            "host=no.such.host.invalid port=0 ca",
        ),
        (["plan=ar"], "plan=ar asks for what these weights have not learned"),
        (["num_steps=100"], "num_steps=100"),
        (["num_ar=3"], "num_ar=3 has no effect"),
        (["class_labels=3"], "Unknown key 'class_labels' on the command line."),
    ],
)
def test_mistakes(play, weights, words, sentence):
    code, _, err = play(f"weights={weights}", *words)
    assert code == 2
    assert err.startswith(f"error: {sentence}"), err


def test_a_port_that_is_taken_is_told(play, weights):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = play(f"weights={weights}", f"port={port}")
    assert code == 2
    assert err.startswith(f"error: host=127.0.0.1 port={port} cannot be had (")


def test_a_host_of_many_needs_a_password_and_has_it(play, weights):
    code, out, _ = play(f"weights={weights}", "host=0.0.0.0", "password=open sesame")
    assert code == 0
    assert f"http://{socket.gethostname()}:" in out  # where others find it
    assert "sesame" not in out


def test_a_text_encoder_that_is_not_there_is_told_at_once(play, tmp_path):
    save_encoder(tmp_path / "encoder")
    save_text_weights(tmp_path / "text", tmp_path / "encoder")
    assert play("weights=text")[0] == 0
    shutil.rmtree(tmp_path / "encoder")
    assert play("weights=text")[0] == 2


@pytest.fixture
def playing(weights):
    """The command in a process of its own, and where it answers."""
    opened = []

    def playing(*words):
        command = [sys.executable, "-m", "MaskGIL", "play", f"weights={weights}", *CPU, "port=0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [*command, *words], cwd=ROOT, text=True, preexec_fn=hear_ctrl_c, **pipes
        )
        opened.append(process)
        lines = iter(process.stdout)
        return process, next(re.search(r"http://\S+", line)[0] for line in lines if "http" in line)

    yield playing
    for process in opened:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("ar", [False, True])
def test_the_page_is_told_of_the_weights_until_ctrl_c(playing, weights, ar):
    process, address = playing(*[f"ar_weights={weights.parent / 'ar'}"] * ar)
    with urlopen(f"{address}/about", timeout=20) as answer:
        about = json.load(answer)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert about["plans"] == (["mar", "ar", "hybrid"] if ar else ["mar"])
    assert tuple(about["classes"]) == tuple(CLASSES)
    assert (about["height"], about["stride"], about["prompts"]) == (16, 2, False)
    assert set(about["first"]) == {*SETTINGS, "seed"}
    assert set(about["bounds"]) >= {*SIDES, "num_steps", "num_images"}


@pytest.mark.slow
def test_ctrl_c_ends_a_drawing_calmly(playing):
    for _ in range(3):
        process, address = playing()
        asked = {"kind": "generate", "classes": [0], "num_images": 9, "num_steps": 64}
        headers = {"Content-Type": "application/json"}
        request = Request(f"{address}/draw", json.dumps(asked).encode(), headers)
        with urlopen(request, timeout=20) as answer:
            assert json.loads(answer.readline())["event"] == "step"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert process.stderr.read() == ""


def hear_ctrl_c():
    """A shell that starts tests in the background has made them deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
