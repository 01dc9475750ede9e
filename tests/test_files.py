import argparse
import collections
import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save, save_file
from torch import nn

import Network
from Network.config import UserError
from Network.files import PICKLED, fingerprint, load_strict, read_contents, read_tensors


def layers():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True), "c": torch.zeros(0, 3)}


def test_a_file_comes_back(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.safetensors", str(tmp_path / "a.safetensors")):
        found = read_tensors(path)
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def overlapping():
    """Safetensors whose second tensor begins inside the first."""
    offsets = {"a": [0, 8], "b": [4, 12]}
    entries = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": place}
        for name, place in offsets.items()
    }
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(12)


DAMAGED = [
    (b"", "{} is empty; copy or download it again."),
    (LFS_POINTER, f"{{}} is a Git LFS pointer of {len(LFS_POINTER)} bytes; run `git lfs pull`."),
    (b"\n <!DOCTYPE html><html>", "{} is a web page, not weights; download the file itself."),
    (b"<html><body>404", "{} is a web page, not weights; download the file itself."),
    (b"\xef\xbb\xbf<!DOCTYPE html>", "{} is a web page, not weights; download the file itself."),
    (b'<?xml version="1.0"?>\n<Error>', "{} is an error message of a server (XML), not weights; "),
    (b"<Error><Code>AccessDenied", "{} is an error message of a server (XML), not weights; downl"),
    (b'{"error":"Not found"}', "{} is JSON, perhaps an error message of a server, not weights; "),
    (b'\xef\xbb\xbf\n[{"a": 1}]', "{} is JSON, perhaps an error message of a server, not weights;"),
    (struct.pack("<Q", 0x227B) + b"{" * 9, "{} is not a whole safetensors file ("),
    *((part, "{} is not a whole safetensors file (") for part in (
        save(TENSORS)[:-3], save(TENSORS)[:40], b"\x00" * 5, b"\xff" * 64, pickle.dumps(TENSORS),
        struct.pack("<Q", 2**40) + bytes(64), overlapping(),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("data", "sentence"), DAMAGED)
def test_a_damaged_file_is_one_sentence(tmp_path, data, sentence):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"^{re.escape(sentence.format(path))}") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_a_header_that_begins_like_a_text_is_read(tmp_path):
    """Its length stands first, here in the bytes of `{"`, `<` and `[`."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    for length in (0x227B, 0x13C, 0x15B):
        file = tmp_path / "a.safetensors"
        file.write_bytes(struct.pack("<Q", length) + header.ljust(length).encode())
        assert read_tensors(file)["a"].shape == (0,)


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "a.safetensors", tmp_path):
        with pytest.raises(UserError, match=f"^No such weights file: {path}.$"):
            read_tensors(path)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."],
)
def test_prefixes_of_ddp_and_compile(prefix):
    state, module = layers().state_dict(), layers()
    load_strict(module, {prefix + name: tensor for name, tensor in state.items()}, "a.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_a_compiled_block_inside():
    state, module = layers().state_dict(), layers()
    inside = {name.replace("0.", "0._orig_mod."): tensor for name, tensor in state.items()}
    load_strict(module, inside, "a.safetensors")
    assert torch.equal(module[0].weight, state["0.weight"])


def test_what_does_not_fit_is_named():
    state = layers().state_dict()
    state["extra"] = state.pop("0.bias")
    state["1.weight"] = torch.zeros(4, 1)
    state["2.weight"] = torch.tensor(1.0)
    module = layers()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_strict(module, state, "a.safetensors")
    assert str(error.value) == (
        "The weights in a.safetensors do not fit this architecture: missing 0.bias; "
        "unexpected extra; 1.weight is 4x1, not 4; 2.weight is a number, not 2x4."
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("count", "end"), [(5, "; unexpected e4."), (6, "; unexpected e4 and 1 more.")]
)
def test_at_most_five_names(count, end):
    extra = {f"e{index}": torch.zeros(1) for index in range(count)}
    with pytest.raises(UserError) as error:
        load_strict(layers(), layers().state_dict() | extra, "a")
    assert str(error.value).endswith(end)
    assert str(error.value).count("unexpected") == 5


def test_other_precisions_are_converted():
    state = {name: tensor.double() for name, tensor in layers().state_dict().items()}
    module = layers()
    load_strict(module, state, "a")
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, state["0.weight"].float())


def test_fingerprint_is_the_hash_it_says():
    digest = hashlib.sha256()
    digest.update(b"a torch.float32 (2, 3)\n" + TENSORS["a"].numpy().tobytes())
    digest.update(b"b torch.bool ()\n\x01" + b"c torch.float32 (0, 3)\n")
    assert fingerprint(TENSORS) == digest.hexdigest()


def test_fingerprint_sees_everything_but_the_order():
    first = fingerprint(TENSORS)
    assert fingerprint(dict(reversed(TENSORS.items()))) == first
    assert fingerprint(TENSORS | {"a": TENSORS["a"].T.contiguous().T}) == first  # strides
    for other in (
        {"a": TENSORS["a"].view(3, 2)},
        {"a": TENSORS["a"].double()},
        {"a": TENSORS["a"] + 1e-6},
        {"d": torch.zeros(1)},
    ):
        assert fingerprint(TENSORS | other) != first
    assert fingerprint({"x": torch.ones(2).bfloat16()}) != fingerprint({"x": torch.ones(2).half()})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_of_a_diverged_run_are_refused(number):
    state = layers().state_dict()
    state["0.bias"][1] = number
    with pytest.raises(UserError) as error:
        load_strict(layers(), state, "a.safetensors")
    assert str(error.value) == (
        "The weights in a.safetensors are not all finite: 0.bias; a run of yours that wrote them "
        "had diverged: train again, with a smaller optim.lr; a file that you have downloaded is "
        "damaged: download it again."
    )


# Pickled files


def same(found, expected=TENSORS):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    return True


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def foreign(monkeypatch):
    """Make a class of a module that is gone after `monkeypatch.undo`."""

    def make(name, base=object):
        module, _, short = name.partition(".")
        kind = type(short, (base,), {"__module__": module})
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{short: kind}))
        return kind

    return make


@pytest.mark.parametrize("suffix", PICKLED)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_flat_pickled_file_comes_back(tmp_path, suffix, zipped):
    path = tmp_path / f"a{suffix}"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert same(read_tensors(path))
    torch.save(layers().state_dict(), path)  # an OrderedDict with attributes
    assert len(read_tensors(path)) == len(layers().state_dict())


def test_a_training_file_with_objects_of_missing_packages(tmp_path, foreign, monkeypatch):
    """As Lightning writes them: a class as a key, settings, states, numbers of numpy."""
    checkpoint = foreign("lightning_callbacks.ModelCheckpoint")
    attributes = foreign("lightning_parsing.AttributeDict", dict)
    callback = checkpoint()
    callback.best = TENSORS["a"]
    settings = attributes(rate=1e-4, nested=attributes(depth=2))
    torch.save(
        {
            "state_dict": collections.OrderedDict(TENSORS),
            "epoch": 3,
            "callbacks": {checkpoint: {"best": np.float64(0.5), "a": np.ones(3)}, "b": callback},
            "hyper_parameters": settings,
            "args": argparse.Namespace(lr=1e-4, betas=(0.9, 0.95), path=Path("a")),
            "config": OmegaConf.create({"model": {"sizes": [1, 2], "name": "???"}}),
            "optimizer_states": [{"state": {0: TENSORS}, "param_groups": [{"params": [0]}]}],
            "counts": collections.defaultdict(list, a=[1]),
        },
        tmp_path / "last.ckpt",
    )  # fmt: skip
    monkeypatch.undo()
    contents = read_contents(tmp_path / "last.ckpt")
    assert same(contents["state_dict"])
    assert contents["epoch"] == 3
    assert contents["hyper_parameters"] == {"rate": 1e-4, "nested": {"depth": 2}}
    assert contents["counts"] == {"a": [1]}
    assert not vars(contents["args"])
    assert not vars(contents["callbacks"]["b"])
    stand_ins = [kind for kind in torch.serialization.get_safe_globals() if type(kind) is tuple]
    assert not stand_ins  # they were for this file only
    with pytest.raises(UserError, match="holds something else than tensors under their names"):
        read_tensors(tmp_path / "last.ckpt")


@pytest.mark.parametrize("function", ["rmtree", "call", "exec"])
def test_code_in_a_file_is_not_run(tmp_path, function):
    """Nor does it keep the tensors beside it from loading."""
    (folder := tmp_path / "a").mkdir()
    calls = {
        "rmtree": Calls(shutil.rmtree, str(folder)),
        "call": Calls(subprocess.call, ["rmdir", str(folder)]),
        "exec": Calls(exec, f"import os; os.rmdir({str(folder)!r})"),
    }
    torch.save({"state_dict": TENSORS, "extra": calls[function]}, tmp_path / "a.ckpt")
    assert same(read_contents(tmp_path / "a.ckpt")["state_dict"])
    assert folder.is_dir()
    pickle.loads(pickle.dumps(calls[function]))
    assert not folder.exists()  # so it would have run


@pytest.mark.parametrize("function", [os.mkdir, os.system])
def test_a_file_that_calls_the_system_is_refused(tmp_path, function):
    """PyTorch lets nothing stand in for these modules."""
    target = tmp_path / "made"
    argument = str(target) if function is os.mkdir else f"mkdir {target}"
    torch.save({"a": TENSORS["a"], "extra": Calls(function, argument)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="a.pt is damaged, or holds code, which is never run; save"):
        read_contents(tmp_path / "a.pt")
    assert not target.exists()


@pytest.mark.parametrize("options", [
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
    {"pickle_protocol": 4, "_use_new_zipfile_serialization": False},
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_an_unknown_class_in_a_form_without_stand_ins(tmp_path, options):
    contents = {"a": TENSORS["a"], "args": argparse.Namespace(lr=1)}
    torch.save(contents, tmp_path / "a.pt", **options)
    with pytest.raises(UserError, match=r"is damaged, or holds code, [^\n]*alone\.$"):
        read_contents(tmp_path / "a.pt")


def test_a_damaged_pickled_file_is_one_sentence(tmp_path):
    path = tmp_path / "a.pt"
    for zipped in (True, False):
        torch.save({"a": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for size in (5, 64, 600, len(whole) - 3):
            path.write_bytes(whole[:size])
            with pytest.raises(UserError, match=rf"^{path} is (not a whole|damaged)[^\n]*\.$"):
                read_contents(path)
    for data in (pickle.dumps([1]), b"\x00" * 50, b"\x80\x02}q\x00.", b"(u.", LFS_POINTER, b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"^{path} (is|holds)[^\n]*\.$"):
            read_contents(path)


@pytest.mark.parametrize("contents", [[1], torch.zeros(2), argparse.Namespace(a=1), None])
def test_a_file_without_names(tmp_path, contents):
    torch.save(contents, tmp_path / "a.pt")
    for read in (read_contents, read_tensors):
        with pytest.raises(UserError, match="a.pt holds something else than tensors under their"):
            read(tmp_path / "a.pt")


def test_every_pickled_file_is_read_as_weights_only():
    root, floors = (
        Path(Network.__file__).parent.parent,
        ("Network", "MaskGIL", "Metrics", "Trainer"),
    )
    texts = [path.read_text("utf-8") for floor in floors for path in root.glob(f"{floor}/**/*.py")]
    calls = [call for text in texts for call in re.findall(r"torch\.load\(.*", text)]
    assert calls
    assert all("weights_only=True" in call for call in calls)
