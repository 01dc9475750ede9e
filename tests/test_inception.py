"""The Inception network: torch-fidelity's numbers; its weights are checked and never run."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from fixtures.metrics import inputs
from torch_fidelity import feature_extractor_inceptionv3

from Metrics import inception
from Metrics.inception import FILES, InceptionNetwork, open_inception
from Network.config import UserError

GOLDEN = json.loads((Path(__file__).parent / "fixtures/metrics/inception_golden.json").read_text())
CPU = torch.device("cpu")


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """PyTorch's folder of downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.slow
def test_features_are_those_of_torch_fidelity(tmp_path):
    images = inputs.images(256)
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN["images_sha256"]
    torch.save(inputs.inception_weights(), tmp_path / "filled.pth")
    network = InceptionNetwork(tmp_path / "filled.pth", CPU)
    features = network(torch.from_numpy(images))
    assert features.shape == (4, network.width)
    # Across images these features vary by 8e-3 (GOLDEN's notes): another resize would be seen
    torch.testing.assert_close(features[:, :32], torch.tensor(GOLDEN["first"]), rtol=0, atol=5e-6)
    torch.testing.assert_close(features.mean(1), torch.tensor(GOLDEN["mean"]), rtol=0, atol=1e-6)
    assert network.sha256 == hashlib.sha256((tmp_path / "filled.pth").read_bytes()).hexdigest()
    assert not network.is_official
    assert network.name == f"inception-2015-{network.sha256[:8]}"


def test_without_weights_there_is_no_network(downloads):
    assert open_inception("auto", CPU) is None
    assert open_inception("none", CPU) is None


@pytest.mark.parametrize("file", FILES)
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
        UserError, match=r"^inception=.*\.pth has the weights of another network\.$"
    ):
        open_inception(str(downloads / file), CPU)  # whoever names a file may have another one


def test_a_download_is_checked_and_left_out_when_it_is_another_file(downloads, monkeypatch):
    wrong = downloads.parent / "wrong.pth"
    torch.save({"a": torch.zeros(2)}, wrong)
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", wrong.as_uri())
    with pytest.raises(
        UserError, match=r"^inception=download failed \(invalid hash value"
    ) as error:
        open_inception("download", CPU)
    assert str(error.value).endswith("on another machine and name the file, inception=FILE.")
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", "file:///no/such/file")
    with pytest.raises(UserError, match=r"^inception=download failed \("):
        open_inception("download", CPU)
    assert os.listdir(downloads) == []


def test_a_download_that_fits_is_kept_for_the_next_time(downloads, monkeypatch):
    file = downloads.parent / "right.pth"
    torch.save({"a": torch.zeros(2)}, file)
    monkeypatch.setattr(inception, "OFFICIAL", hashlib.sha256(file.read_bytes()).hexdigest()[:8])
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", file.as_uri())
    monkeypatch.setattr(inception, "InceptionNetwork", lambda path, device: path)
    assert open_inception("download", CPU) == downloads / FILES[0]
    assert (downloads / FILES[0]).read_bytes() == file.read_bytes()


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
