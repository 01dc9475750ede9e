import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import ndimage

from MaskGIL.command import run_command
from MaskGIL.data.shapes import Shapes
from Metrics import features as module
from Metrics import train_features
from Metrics.features import SHA256, WEIGHTS, FeatureNetwork, load_feature_network
from Metrics.train_features import PROGRAM, FeatureTraining, blur, degrade
from Network.config import UserError

NUM = 384


def pictures(split, num, size=(64, 64)):
    shapes = Shapes(split, num, size)
    return np.stack([np.asarray(shapes.image(index)) for index in range(num)]), shapes.labels


def extract(network, images):
    with torch.inference_mode():
        parts = [network(part) for part in torch.from_numpy(images).split(64)]
    return torch.cat(parts).double().numpy()


def distance(one, other):
    """The Fréchet distance of two Gaussians, as its formula stands (Dowson & Landau 1982)."""
    mean1, mean2 = one.mean(0), other.mean(0)
    covariance1, covariance2 = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(covariance1 @ covariance2).real
    return np.square(mean1 - mean2).sum() + np.trace(covariance1 + covariance2 - 2 * root)


@pytest.fixture(scope="module")
def network():
    return load_feature_network()


@pytest.fixture(scope="module")
def val(network):
    images, labels = pictures("val", NUM)
    return images, labels, extract(network, images)


@pytest.fixture(scope="module")
def train(network):
    images, labels = pictures("train", NUM)
    return labels, extract(network, images)


def test_features_of_any_size_and_layout(network):
    images = torch.from_numpy(pictures("val", 6)[0])
    features = network(images)
    assert features.shape == (6, network.width) == (6, 128)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(network(images.movedim(-1, 1)), features)
    assert torch.allclose(network(images[2:3]), features[2:3], atol=1e-4)
    assert network(torch.from_numpy(pictures("val", 2, (48, 96))[0])).shape == (2, 128)
    with pytest.raises(AssertionError):
        network(images.float())


def test_a_larger_drawing_of_a_scene_has_nearly_its_features(network, val):
    large = extract(network, pictures("val", NUM, (128, 128))[0])
    paired = np.linalg.norm(large - val[2], axis=1)
    others = np.linalg.norm(np.roll(large, 1, axis=0) - val[2], axis=1)
    assert (paired < others).mean() > 0.98


def test_the_file_is_small_and_known(network):
    assert WEIGHTS.stat().st_size < 2**20
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == SHA256 == network.sha256
    assert network.name == "shapesnet-1"


def test_another_file_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "shapesnet.safetensors"
    monkeypatch.setattr(module, "WEIGHTS", copy)
    with pytest.raises(UserError, match=r"shapesnet\.safetensors"):
        load_feature_network()
    changed = bytearray(WEIGHTS.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    with pytest.raises(UserError, match=r"shapesnet\.safetensors is not .*`make features`"):
        load_feature_network()


def test_a_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    fresh = FeatureNetwork()
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    (fresh(images) * torch.randn(8, 128)).sum().backward()
    for name, parameter in fresh.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        if name != "project.bias":  # the batch's mean is taken off right after it
            assert gradient.abs().max() > 0, name


def test_a_linear_reading_of_the_features_knows_the_class(train, val):
    def padded(features):
        return np.column_stack([features, np.ones(len(features))])

    labels, features = train
    weights = np.linalg.lstsq(padded(features), np.eye(16)[labels], rcond=None)[0]
    right = (padded(val[2]) @ weights).argmax(1) == val[1]
    assert right.mean() > 0.8  # chance is 1/16


def blurred(images, sigma):
    return np.stack([ndimage.gaussian_filter(image, (sigma, sigma, 0)) for image in images])


def noisy(images, deviation):
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + noise + 0.5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("damage", "levels"), [(blurred, (1, 2, 3)), (noisy, (12, 24, 48))])
def test_distance_grows_with_damage(network, train, val, damage, levels):
    images, _, clean = val
    distances = [distance(clean, extract(network, damage(images, level))) for level in levels]
    between_splits = distance(clean, train[1])
    assert between_splits < distances[0] < distances[1] < distances[2]


def test_distance_sees_missing_classes(train, val):
    halved = val[2][val[1] < 8]
    assert distance(halved, train[1]) > 2 * distance(val[2][: len(halved)], train[1])


# ---------------------------------------------------------------------------------- training
def command(*words):
    return run_command(train_features.main, FeatureTraining, words, program=PROGRAM, about="")


def test_training_writes_the_same_bytes_again(tmp_path, capsys):
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file in files:
        assert command("steps=3", "batch=8", "num_images=32", f"out={file}") == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert set(tmp_path.iterdir()) == set(files)
    printed = capsys.readouterr().out
    assert f"{hashlib.sha256(files[0].read_bytes()).hexdigest()}  {files[0]}" in printed
    assert all(name in printed for name in ("shape", "colour", "count", "background", "noise"))


def test_a_missing_folder_is_named_before_any_work(tmp_path, capsys):
    assert command(f"out={tmp_path / 'missing' / 'file'}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: out={tmp_path}/missing/file: there is no folder ")
    assert error.endswith("missing; create it first.\n")


def test_help_and_dry_run_train_nothing(tmp_path, capsys):
    file = tmp_path / "file.safetensors"
    assert command("--help") == command("--dry-run", f"out={file}") == 0
    printed = capsys.readouterr().out
    assert "Usage: python -m Metrics.train_features" in printed
    assert "optimiser steps" in printed
    assert f"1200 steps of 64 pictures, then {file} is written" in printed
    assert not file.exists()


def test_degradation_leaves_what_it_says_and_blurs_as_scipy():
    images = torch.from_numpy(pictures("val", 64)[0]).movedim(-1, 1)
    degraded, amounts = degrade(images, torch.Generator().manual_seed(0))
    untouched = (amounts == 0).all(1)
    assert 0 < untouched.sum() < 24  # an eighth of 64 is expected
    assert torch.equal(degraded[untouched], images[untouched])
    changed = (degraded.int() - images.int()).abs().float().mean((1, 2, 3))
    assert (changed[~untouched] > 0).all()
    image = images[:1].double()
    ours = blur(image, torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64))
    scipys = ndimage.gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5), truncate=8)
    assert np.abs(ours.numpy() - scipys)[..., 12:-12, 12:-12].max() < 1e-2
