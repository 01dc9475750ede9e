"""The Inception network: torch-fidelity's numbers; its weights are checked and never run."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from fixtures.metrics import inputs
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from Metrics import inception, pretrained
from Metrics.inception import (
    INCEPTION,
    OFFICIAL,
    SPATIAL_WIDTH,
    InceptionNetwork,
    open_inception,
    weights_sha256,
)
from Network.config import UserError

GOLDEN = json.loads((Path(__file__).parent / "fixtures/metrics/inception_golden.json").read_text())
CPU = torch.device("cpu")


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """PyTorch's folder of downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A file of weights by rule."""
    path = tmp_path_factory.mktemp("weights") / "filled.pth"
    torch.save(inputs.inception_weights(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("side", [256, 299])
def test_outputs_are_those_of_torch_fidelity(filled, side):
    images, golden = inputs.images(side), GOLDEN[str(side)]
    assert hashlib.sha256(images.tobytes()).hexdigest() == golden["images_sha256"]
    network = InceptionNetwork(filled, CPU)
    outputs = network.outputs(torch.from_numpy(images))
    assert outputs.features.shape == (4, network.width)
    assert outputs.spatial.shape == (4, SPATIAL_WIDTH)
    # Across images the features vary by 8e-3 (GOLDEN's notes): another resize would be seen. The
    # spatial values vary by 4e-2, and another channel order or layer would move all of them
    for name, within in (("features", 5e-6), ("spatial", 5e-6), ("logits", 2e-5)):
        values, first = getattr(outputs, name), torch.tensor(golden[name]["first"])
        torch.testing.assert_close(values[:, :32], first, rtol=0, atol=within)
        mean = torch.tensor(golden[name]["mean"])
        torch.testing.assert_close(values.mean(1), mean, rtol=0, atol=1e-6)
    alone = network(torch.from_numpy(images[:1]))
    torch.testing.assert_close(alone, outputs.features[:1], rtol=0, atol=5e-6)
    assert network.sha256 == hashlib.sha256(filled.read_bytes()).hexdigest()
    assert not network.is_official
    assert network.name == f"inception-2015-{network.sha256[:8]}"


class Seen(Exception):
    """The pixels are there: the rest of the network need not run."""


def test_the_network_sees_the_pixels_of_tensorflow(filled):
    images, golden = torch.from_numpy(inputs.images(256)), GOLDEN["resized"]
    resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (299, 299), None, False)
    pixels = resized.permute(0, 2, 3, 1).contiguous().numpy()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == golden["sha256"]
    assert pixels[0, 0, :8, 0].tolist() == golden["first_row_first8_image0_channel0"]
    network, seen = InceptionNetwork(filled, CPU), []

    def look(_module, arguments):
        seen.extend(arguments)
        raise Seen

    network._network.Conv2d_1a_3x3.register_forward_pre_hook(look)
    with pytest.raises(Seen):
        network(images)
    assert torch.equal(seen[0], (resized - 128) / 128)


def test_without_weights_there_is_no_network(downloads):
    assert open_inception("auto", CPU) is None
    assert open_inception("none", CPU) is None


@pytest.mark.parametrize("file", INCEPTION.files)
def test_the_weights_of_either_package_are_found_and_must_be_the_released_ones(downloads, file):
    torch.save({"a": torch.zeros(2)}, downloads / file)
    start = hashlib.sha256((downloads / file).read_bytes()).hexdigest()[:8]
    with pytest.raises(UserError) as error:
        open_inception("auto", CPU)
    assert str(error.value) == (
        f"{downloads / file} is not the released file (its sha256 begins with {start}); delete it, "
        "or give inception=none."
    )
    assert open_inception("none", CPU) is None
    with pytest.raises(
        UserError,
        match=r"^inception=.*\.pth has the weights of another network; inception=download",
    ):
        open_inception(str(downloads / file), CPU)  # whoever names a file may have another one


def test_a_download_is_that_of_torch_fidelity(downloads, monkeypatch):
    asked = []

    def fetch(*words, **keys):
        asked.append((*words, keys))
        return words[1]

    monkeypatch.setattr(pretrained, "fetch", fetch)
    monkeypatch.setattr(inception, "InceptionNetwork", lambda path, device: path)
    assert open_inception("download", CPU) == downloads / INCEPTION.files[0]
    assert asked == [(URL_INCEPTION_V3, downloads / INCEPTION.files[0], {"sha256": OFFICIAL})]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Evil(), 2))
    with pytest.raises(UserError, match=r"^a\.pth is damaged, or holds code, which is never run"):
        open_inception("a.pth", CPU)
    assert os.listdir() == ["a.pth"]


@pytest.mark.parametrize(("value", "hint"), [("a.pth", ""), ("non", " Did you mean 'none'?")])
def test_a_missing_file(value, hint):
    with pytest.raises(UserError) as error:
        open_inception(value, CPU)
    assert str(error.value) == (
        f"inception={value} is no file; give one, or auto, download, none.{hint}"
    )


def test_weights_are_known_before_they_are_opened(downloads, tmp_path):
    assert weights_sha256("auto") is weights_sha256("none") is False
    assert weights_sha256("download") == OFFICIAL
    (tmp_path / "own.pth").write_bytes(b"own")
    assert weights_sha256(str(tmp_path / "own.pth")) == hashlib.sha256(b"own").hexdigest()[:8]
