import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskGIL.command import run_command
from Metrics import reference_statistics
from Metrics.features import SHA256, load_feature_network
from Metrics.inception import NETWORK, OFFICIAL, InceptionNetwork, InceptionOutputs
from Metrics.reference import open_reference
from Metrics.reference_statistics import PROGRAM, StatisticsConfig, main
from Metrics.seen import Seen
from Metrics.statistics_file import StatisticsFile

ROOT = Path(__file__).parent.parent
SIDE, COUNT = 16, 40
SHAPES = ("reference=shapes:40", f"image_size={SIDE}", "device=cpu")


class Colours(InceptionNetwork):
    """Stands in for the released network."""

    def __init__(self):
        self.name, self.sha256 = NETWORK, OFFICIAL + "0" * 56
        self.width, self.is_official = 3, True

    def outputs(self, images):
        means = images.float().mean((2, 3))
        return InceptionOutputs(means, means / 255, means / 100)


@pytest.fixture
def statistics(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))

    def statistics(*words):
        code = run_command(main, StatisticsConfig, words, program=PROGRAM, about="")
        return code, *capsys.readouterr()

    return statistics


def test_a_file_keeps_what_every_network_saw(statistics, tmp_path, monkeypatch):
    monkeypatch.setattr(reference_statistics, "open_inception", lambda value, device: Colours())
    code, out, err = statistics(*SHAPES, "out=new/a.npz", "reference_split=train", "features=true")
    assert (code, err) == (0, "")
    assert "images     shapes (train): 40 of 16x16, split train\n" in out
    file = StatisticsFile("new/a.npz")
    images = open_reference("shapes:40", "train", (SIDE, SIDE))
    about = file.about
    assert about.networks == {"shapesnet-1": SHA256, NETWORK: Colours().sha256}
    assert (about.name, about.count, about.size) == ("shapes (train)", COUNT, (SIDE, SIDE))
    assert (about.split, about.transform, about.classes) == (
        "train",
        images.transform,
        [*images.classes],
    )
    assert about.versions is not None
    assert {"torch", "pillow", "torch-fidelity", "timm"} <= about.versions.keys()
    assert np.array_equal(file.labels, images.labels)
    networks = [load_feature_network(), Colours()]
    seen = Seen(images, COUNT, networks, features=True, spatial=True)
    assert about.sha256 == seen.sha256
    found = file.of([networks[0]])
    assert np.array_equal(found.statistics[0].mean, seen.statistics[0].mean)
    assert np.array_equal(found.statistics[0].covariance, seen.statistics[0].covariance)
    assert torch.equal(found.features[0], seen.features[0])
    with np.load("new/a.npz") as arrays:  # of the released network as in ADM's files
        assert np.array_equal(arrays["mu"], seen.statistics[1].mean)
        assert np.array_equal(arrays["sigma_s"], seen.spatial.covariance)
        assert arrays["mu"].dtype == arrays["sigma"].dtype == np.float64


def test_the_same_command_gives_the_same_bytes_and_features_only_if_asked(statistics, tmp_path):
    for name in ("a", "b"):
        assert statistics(*SHAPES, f"out={name}.npz")[0] == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not StatisticsFile("a.npz").has_features
    with np.load("a.npz") as arrays:
        assert set(arrays) == {"about", "labels", "shapesnet-1/mu", "shapesnet-1/sigma"}
        assert json.loads(arrays["about"].item())["split"] == "val"


def test_an_npz_keeps_its_size(statistics):
    random = np.random.default_rng(0)
    np.savez("images.npz", random.integers(0, 256, (5, 8, 24, 3), dtype=np.uint8))
    assert statistics("reference=images.npz", "out=a.npz", "device=cpu")[0] == 0
    about = StatisticsFile("a.npz").about
    assert (about.size, about.split, about.count) == ((8, 24), None, 5)
    assert about.transform == "as they are in the file"


def test_a_dry_run_tells_and_writes_nothing(statistics, tmp_path):
    code, out, _ = statistics(*SHAPES, "out=a.npz", "dinov2=download", "--dry-run")
    assert code == 0
    assert out == (
        "images     shapes (val): 40 of 16x16, split val\ninception  none\ndinov2     fetched\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["out=a.npz"], f"reference is empty; write {PROGRAM} reference=FOLDER out=FILE.npz."),
        (["reference=shapes"], f"out is empty; write {PROGRAM} reference=FOLDER out=FILE.npz."),
        ([*SHAPES, "out=a.npy"], "out=a.npy must end in .npz."),
        ([*SHAPES, "out=a.npz", "inception=nowhere"], "inception=nowhere is no file; give one, or"),
        ([*SHAPES, "out=a.npz", "dinov2=nowhere"], "dinov2=nowhere is no file; give one, or"),
        ([*SHAPES, "out=a.npz", "image_size=0"], "image_size must be at least 1, not 0."),
        (["reference=no.npz", "out=a.npz"], "No such file: no.npz."),
        (
            ["reference=shapes:1", "out=a.npz"],
            "reference=shapes:1 is one image; statistics need two.",
        ),
    ],
)
def test_mistakes_cost_a_second_and_leave_nothing(statistics, tmp_path, words, sentence):
    code, _, err = statistics(*words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_statistics_are_no_images(statistics):
    assert statistics(*SHAPES, "out=a.npz")[0] == 0
    assert statistics(*SHAPES, "out=a.npz")[2] == (
        "error: out=a.npz is there already; name another file.\n"
    )
    assert statistics("reference=a.npz", "out=b.npz")[2].startswith("error: a.npz is no set of im")


@pytest.mark.slow
def test_two_ranks_give_the_same_as_one(tmp_path):
    def made(*launcher, out):
        words = ["reference=shapes:700", "image_size=16", "features=true", f"out={tmp_path / out}"]
        module = ("-m", "Metrics.reference_statistics", "device=cpu", *words)
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, *module]
        subprocess.run(command, check=True, env=environment, timeout=300)
        return StatisticsFile(tmp_path / out)

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    alone, together = made(out="one.npz"), made(*torchrun, out="two.npz")
    assert alone.about == together.about  # with the hash of all images in their order
    networks = [load_feature_network()]
    one, two = alone.of(networks), together.of(networks)
    assert torch.equal(one.features[0], two.features[0])
    np.testing.assert_allclose(one.statistics[0].mean, two.statistics[0].mean, rtol=0, atol=1e-12)
    covariances = (one.statistics[0].covariance, two.statistics[0].covariance)
    np.testing.assert_allclose(*covariances, rtol=0, atol=1e-12)
