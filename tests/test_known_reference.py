"""Samples scored against statistics of a reference: as against images, or blank and said why."""

import json

import numpy as np
import pytest
import torch
from tiny_weights import SIDE, save_tiny_weights

import FID_sample
from MaskGIL.command import run_command
from MaskGIL.data.shapes import CLASSES, Shapes
from Metrics import published, reference_statistics, statistics_file
from Metrics.features import SHA256
from Metrics.inception import NETWORK, OFFICIAL, InceptionNetwork, InceptionOutputs
from Metrics.inception_metrics import Gaussian, frechet_distance
from Metrics.intervals import beyond_bias
from Metrics.reference import open_reference
from Metrics.reference_statistics import PROGRAM, StatisticsConfig
from Metrics.sample_and_eval import FEW_SAMPLES, TOO_FEW, evaluate
from Metrics.sample_config import SampleConfig
from Metrics.statistics_file import NO_FEATURES, NO_IMAGES, StatisticsFile
from Network.config import UserError

SIZE, COUNT = (SIDE, SIDE), 200  # more than the 128 features of our own network
BY_FEATURES = ("KID", "precision", "recall", "density", "coverage")


class Colours(InceptionNetwork):
    """Stands in for the released network."""

    def __init__(self):
        self.name, self.sha256 = NETWORK, OFFICIAL + "0" * 56
        self.width, self.is_official = 3, True

    def outputs(self, images):
        means = images.float().mean((2, 3))
        return InceptionOutputs(means, means.square() / 255**2, means / 100)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for module in (published, statistics_file):
        monkeypatch.setattr(module, "SPATIAL_WIDTH", 3)
    monkeypatch.setattr(statistics_file, "WIDTH", 3)


@pytest.fixture
def statistics(monkeypatch, capsys):
    """Makes a.npz of drawn shapes, as Inception and our own network see them."""

    def statistics(*words, inception=True):
        found = Colours() if inception else None
        monkeypatch.setattr(reference_statistics, "open_inception", lambda value, device: found)
        words = (f"reference=shapes:{COUNT}", f"image_size={SIDE}", "out=a.npz", *words)
        main = reference_statistics.main
        assert run_command(main, StatisticsConfig, words, program=PROGRAM, about="") == 0
        capsys.readouterr()
        return StatisticsFile("a.npz")

    return statistics


@pytest.fixture(scope="module")
def drawn():
    shapes = Shapes("train", COUNT, SIZE)
    pixels = np.stack([np.asarray(shapes.image(index)) for index in range(COUNT)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), shapes.labels


def test_scores_are_those_against_the_images(statistics, drawn):
    images = open_reference(f"shapes:{COUNT}", "val", SIZE)
    asked = {"classes": CLASSES, "inception": Colours()}
    expected = evaluate([drawn[0]], drawn[1], images, **asked)
    found = evaluate([drawn[0]], drawn[1], statistics("features=true"), **asked)
    lost = {"spread of position", "spread of size", "spread of colour"}
    assert expected["metrics"].keys() - found["metrics"].keys() == lost
    for name, value in found["metrics"].items():
        assert value == pytest.approx(expected["metrics"][name], rel=1e-9), name
    for name in ("fid", "sfid", "inception_score", "inception_score_shuffled"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name
    assert found["fid_note"] == expected["fid_note"]
    assert found["features"] == expected["features"]
    assert found["intervals"].keys() == expected["intervals"].keys()
    for name, ends in found["intervals"].items():
        assert ends == pytest.approx(expected["intervals"][name], rel=1e-6), name
    assert found["notes"] == [FEW_SAMPLES, NO_IMAGES]
    same = ("sha256", "count", "split", "transform", "image_size", "unreadable")
    assert {key: found["reference"][key] for key in same} == {
        key: expected["reference"][key] for key in same
    }
    assert (found["reference"]["name"], found["reference"]["of"]) == ("a.npz", "shapes (val)")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_features_there_are_distances_and_the_reason(statistics, drawn):
    images = open_reference(f"shapes:{COUNT}", "val", SIZE)
    expected = evaluate([drawn[0]], drawn[1], images, precision_recall=False)
    found = evaluate([drawn[0]], drawn[1], statistics(inception=False), inception=Colours())
    name = "shapesnet-1 distance"
    assert found["metrics"] == {name: pytest.approx(expected["metrics"][name], rel=1e-9)}
    assert found["intervals"] == {}  # too few samples a feature
    unknown = f"the reference has no statistics of {NETWORK}"
    assert found["notes"] == [FEW_SAMPLES, NO_IMAGES, NO_FEATURES, unknown]
    assert found["fid"] is found["sfid"] is found["inception_score"] is None
    assert found["fid_note"] == (
        "the reference has no statistics of the Inception network that defines it"
    )
    assert found["features"].keys() == {"shapesnet-1"}


def test_adm_s_statistics_need_no_images(drawn):
    mean, covariance = np.arange(3.0), np.diag([1.0, 2.0, 3.0])
    np.savez("adm.npz", mu=mean, sigma=covariance)
    adm = open_reference("adm.npz", "val", SIZE)
    found = evaluate([drawn[0]], drawn[1], adm, inception=Colours())
    features = Colours()(drawn[0]).double()
    expected = frechet_distance(features.mean(0), features.T.cov(), mean, covariance)
    assert found["fid"] == pytest.approx(expected)
    assert "mu and sigma in the file of the reference" in found["fid_note"]
    assert (found["sfid"], found["metrics"]) == (None, {})  # it has no mu_s and sigma_s
    assert found["reference"]["count"] is found["reference"]["split"] is None
    assert len(found["reference"]["statistics_sha256"]) == 64
    np.savez("adm.npz", mu=mean, sigma=covariance, mu_s=mean / 9, sigma_s=covariance / 9)
    adm = open_reference("adm.npz", "val", SIZE)
    spatial = Colours().outputs(drawn[0]).spatial.double()
    expected = frechet_distance(spatial.mean(0), spatial.T.cov(), mean / 9, covariance / 9)
    found = evaluate([drawn[0]], drawn[1], adm, inception=Colours())
    assert found["sfid"] == pytest.approx(expected)
    for name, rows, ratio in (("FID", features, 1), ("sFID", spatial, 9)):
        known = Gaussian.of(mean / ratio, covariance / ratio)

        def distance(statistics, known=known):
            return statistics.gaussian().distance(known)

        ends = beyond_bias(rows, drawn[1], distance, found[name.lower()])
        assert found["intervals"].pop(name) == pytest.approx(ends)
    assert found["intervals"].keys() == {"shuffled inception score"}
    alone = evaluate([drawn[0]], drawn[1], adm, inception=Colours(), precision_recall=False)
    assert alone["intervals"].keys() == {"shuffled inception score"}
    few = evaluate([drawn[0][:19]], drawn[1][:19], adm, inception=Colours())
    assert TOO_FEW in few["notes"]
    assert "FID" not in few["intervals"]
    with pytest.raises(UserError) as error:
        evaluate([drawn[0]], drawn[1], adm)
    assert str(error.value) == (
        f"reference=adm.npz has statistics of {NETWORK}, whose weights are not at hand: "
        "inception=FILE or dinov2=FILE name them, download fetches them."
    )


def test_a_second_network_scores_beside_the_first(drawn):
    class Second(Colours):
        def __init__(self):
            super().__init__()
            self.name, self.sha256, self.is_official = "dinov2-vits14", "d0", False

    images = open_reference("shapes:40", "val", SIZE)
    both = {"inception": Colours(), "dinov2": Second()}
    found = evaluate([drawn[0]], drawn[1], images, **both)
    assert found["metrics"]["dinov2-vits14 distance"] == pytest.approx(found["fid"])
    assert "precision" in found["metrics"]  # of the network whose distance is published
    assert found["features"]["dinov2-vits14"] == "d0"
    found = evaluate([drawn[0]], drawn[1], images, dinov2=Second())
    assert "dinov2-vits14 precision" in found["metrics"]
    assert found["fid"] is None  # whatever else is there


# ------------------------------------------------------------------------------- FID_sample.py
@pytest.fixture
def fid_sample(tmp_path_factory, capsys):
    weights = save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")

    def fid_sample(*words):
        words = (f"weights={weights}", "num_images=40", "chunk=16", "device=cpu", *words)
        words = (*words, "precision=fp32")
        code = run_command(FID_sample.main, SampleConfig, words, program="FID_sample.py", about="")
        return code, *capsys.readouterr()

    return fid_sample


def record():
    with open("samples.json", encoding="utf-8") as file:
        return json.load(file)


def test_statistics_take_the_place_of_images_on_the_command_line(statistics, fid_sample):
    statistics("features=true", inception=False)
    assert fid_sample(f"reference=shapes:{COUNT}")[0] == 0
    first = record()
    code, out, err = fid_sample("reference=a.npz")
    assert (code, err) == (0, "")
    assert "reference  a.npz: statistics of val, without images\n" in out
    assert f"reference              a.npz, {COUNT}\n" in out
    second = record()
    assert second["reference"]["sha256"] == first["reference"]["sha256"]
    name = "shapesnet-1 distance"
    assert second["metrics"][name] == pytest.approx(first["metrics"][name], rel=1e-9)
    assert "spread of size" in second["metrics"]  # of the same images: it stays
    assert NO_IMAGES in second["notes"]


def test_given_images_are_scored_against_statistics(statistics, drawn, capsys):
    statistics("features=true", inception=False)
    np.savez("given.npz", drawn[0][:40].permute(0, 2, 3, 1).numpy())
    words = ["samples=given.npz", "reference=a.npz", "device=cpu"]
    assert run_command(FID_sample.main, SampleConfig, words, program="", about="") == 0
    assert "reference  a.npz: statistics of val, without images\n" in capsys.readouterr().out
    with open("scores.json", encoding="utf-8") as file:
        found = json.load(file)
    assert found["metrics"].keys() >= {"shapesnet-1 distance", "shapesnet-1 precision"}
    assert NO_IMAGES in found["notes"]


def test_classes_come_as_often_as_in_the_statistics(statistics, fid_sample):
    statistics(inception=False)
    assert fid_sample("reference=a.npz", "classes=data", "out=a40.npz")[0] == 0
    with np.load("a40.npz") as found, np.load("a.npz") as known:
        counts = [np.bincount(x, minlength=16) for x in (found["arr_1"], known["labels"])]
    assert np.abs(counts[0] - counts[1] / 5).max() < 1


def test_a_record_tells_that_training_images_were_asked_for(statistics, fid_sample):
    statistics("reference_split=train", inception=False)
    code, _, err = fid_sample("reference=a.npz")
    assert (code, err) == (
        2,
        "error: reference=a.npz is of train and not of val; say reference_split=train if that is "
        "meant, or name another reference.\n",
    )
    code, out, _ = fid_sample("reference=a.npz", "reference_split=train")
    assert code == 0
    assert f"reference             a.npz, {COUNT}, of train\n" in out
    assert record()["reference"]["split"] == "train"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["train=shapes:64"],
            "train is compared with the images of the reference, and reference=a.npz has none but "
            "their statistics; leave train out.",
        ),
        (["num_reference=9"], "num_reference chooses images, and reference=a.npz has none; leave"),
        (["dinov2=other"], "reference=a.npz has statistics of dinov2-vits14 (sha256 cdcdcdcd), th"),
        (["dinov2=nowhere"], "dinov2=nowhere is no file; give one, or auto, download, none."),
        (["train=shapes:9", "reference_split=train"], "train looks for copies by comparing with "),
        (["reference=", "dinov2=auto"], "dinov2 has no effect without reference=...; leave it o"),
        (["reference=", "reference_split=train"], "reference_split has no effect without refer"),
        (["reference=b.npz"], f"reference=b.npz has statistics of {NETWORK}, whose weights are n"),
        (["reference=c.npz"], "reference=c.npz has statistics of images of 8x8, the samples hav"),
    ],
)
def test_mistakes_cost_a_second_and_leave_nothing(fid_sample, tmp_path, words, sentence):
    about = statistics_file.About(
        {"shapesnet-1": SHA256, "dinov2-vits14": "cd" * 32}, "shapes", 2, "", SIZE
    )
    labels = {"labels": np.zeros(2, np.int64)}
    statistics_file.write_statistics(tmp_path / "a.npz", about, labels)
    small = statistics_file.About({}, "shapes", 2, "", (8, 8))
    statistics_file.write_statistics(tmp_path / "c.npz", small, labels)
    np.savez("b.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "other").write_bytes(b"other")
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = fid_sample("reference=a.npz", *words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
