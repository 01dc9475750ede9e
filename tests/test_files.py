import hashlib
import pickle
import re

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from Network.config import UserError
from Network.files import fingerprint, load_strict, read_tensors


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
DAMAGED = [
    (b"", "{} is empty; copy or download it again."),
    (LFS_POINTER, f"{{}} is a Git LFS pointer of {len(LFS_POINTER)} bytes; run `git lfs pull`."),
    (b"\n <!DOCTYPE html><html>", "{} is a web page, not weights; download the file itself."),
    (b"<html><body>404", "{} is a web page, not weights; download the file itself."),
    *((part, "{} is not a whole safetensors file (") for part in (
        save(TENSORS)[:-3], save(TENSORS)[:40], b"\x00" * 5, b"\xff" * 64, pickle.dumps(TENSORS)
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
        "The weights in a.safetensors are not all finite: 0.bias; the run that wrote them had "
        "diverged: train again, with a smaller optim.lr."
    )
