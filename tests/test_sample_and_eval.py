import hashlib
import json

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from tiny_weights import save_tiny_weights

import Metrics
from MaskGIL.config import load_config
from MaskGIL.data.crops import to_uint8
from MaskGIL.data.shapes import CLASSES, Shapes
from MaskGIL.pipeline import Pipeline
from Metrics.features import load_feature_network
from Metrics.geometry import resized
from Metrics.inception import InceptionNetwork, InceptionOutputs
from Metrics.inception_metrics import frechet_distance
from Metrics.inception_score import adm_inception_score
from Metrics.labels import choose_labels
from Metrics.nearest import NEAR, near_training, thumbnails
from Metrics.neighbourhoods import precision_recall
from Metrics.reference import open_image_set
from Metrics.sample_and_eval import (
    FEW_SAMPLES,
    LOSSY,
    SORTED,
    TOO_FEW,
    evaluate,
    sample_chunks,
    sample_rows,
)
from Metrics.sample_config import SampleConfig
from Network.config import UserError

SIZE = (32, 32)
COUNT = 192


class Colours(InceptionNetwork):
    """Stands in for the network whose features are an FID's."""

    def __init__(self):
        self.name, self.sha256, self.width, self.is_official = "colours", "c0", 3, True

    def outputs(self, images):
        means = images.float().mean((2, 3))
        return InceptionOutputs(means, means / 255, means / 100)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")
    return Pipeline.from_pretrained(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def drawn():
    shapes = Shapes("train", COUNT, SIZE)
    pixels = np.stack([np.asarray(shapes.image(index)) for index in range(COUNT)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), shapes.labels


@pytest.fixture(scope="module")
def reference():
    return open_image_set("reference", f"shapes:{COUNT}", "val", SIZE)


class TestSampling:
    def test_chunks_are_the_same_for_any_number_of_ranks(self, pipe, monkeypatch):
        labels = choose_labels(pipe, ["balanced"], 11, seed=3)
        alone = dict(sample_chunks(pipe, labels, 3, 4))
        assert {first: len(images) for first, images in alone.items()} == {0: 4, 4: 4, 8: 3}
        monkeypatch.setenv("WORLD_SIZE", "2")
        shared = {}
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            part = dict(sample_chunks(pipe, labels, 3, 4))
            assert not part.keys() & shared.keys()
            shared |= part
        assert shared.keys() == alone.keys()
        assert all(torch.equal(alone[first], shared[first]) for first in alone)

    def test_an_image_follows_from_seed_and_index(self, pipe):
        labels = np.arange(6)
        sets = {
            size: torch.cat([x for _, x in sample_chunks(pipe, labels, 7, size)]) for size in (2, 6)
        }
        # Another chunk may round otherwise in the last bit of a pixel, and draws the same tokens
        assert (sets[2].int() - sets[6].int()).abs().max() <= 1
        expected = pipe(class_labels=labels.tolist(), generator=7, output_type="uint8").images
        assert torch.equal(sets[6], expected)
        other = torch.cat([x for _, x in sample_chunks(pipe, labels, 8, 6)])
        assert not torch.equal(other, expected)

    def test_another_size_is_drawn_and_brought_to_the_one_that_is_kept(self, pipe):
        labels, rows = np.arange(3), range(3)
        large = sample_rows(pipe, labels, 7, rows, (12, 12))
        expected = pipe(
            class_labels=[0, 1, 2], generator=7, height=24, width=24, output_type="uint8"
        )
        assert torch.equal(large, expected.images)
        small = sample_rows(pipe, labels, 7, rows, (12, 12), 16)
        with torch.no_grad():
            numbers = pipe.tokenizer.decode(expected.tokens, clamp=False)
        assert numbers.abs().max() > 1  # and the filter sees them so
        assert torch.equal(small, to_uint8(resized(numbers, 16)))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_pixels_that_are_no_numbers_are_told_with_their_image(self, pipe, monkeypatch, value):
        def broken(tokens, clamp):
            images = torch.zeros(len(tokens), 3, 16, 16)
            images[2, 0, 3, 3] = value
            return images

        monkeypatch.setattr(pipe, "pixels", broken)
        with pytest.raises(UserError) as error:
            sample_rows(pipe, np.arange(8), 5, range(4, 8))
        assert str(error.value).startswith("Image 6 of seed=5 has pixels that are not finite: ")


class TestEvaluate:
    def test_distance_is_that_of_the_features(self, drawn, reference):
        images, labels = drawn
        result = evaluate(images.split(50), labels, reference, precision_recall=False)
        network = load_feature_network()
        with torch.inference_mode():
            one, other = (network(x).double().numpy() for x in (images, torch.cat(list(reference))))
        root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T)).real
        expected = np.square(one.mean(0) - other.mean(0)).sum()
        expected += np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
        assert result["metrics"] == {"shapesnet-1 distance": pytest.approx(expected, rel=1e-4)}
        assert result["features"] == {"shapesnet-1": network.sha256}
        assert result["intervals"] == {}

    def test_a_set_is_at_no_distance_from_itself(self, drawn, tmp_path):
        images, labels = drawn
        pixels = images.permute(0, 2, 3, 1).numpy()
        np.savez(tmp_path / "a.npz", pixels, labels)
        itself = open_image_set("reference", str(tmp_path / "a.npz"), "val", SIZE)
        result = evaluate([images], labels, itself, classes=CLASSES)
        assert result["metrics"]["shapesnet-1 distance"] < 1e-6
        for name in ("position", "size", "colour"):
            assert result["metrics"][f"spread of {name}"] == pytest.approx(1)
        assert result["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert result["reference"]["sha256"] == result["sha256"]
        assert result["reference"]["count"] == result["num_images"] == COUNT

    def test_accuracy_counts_the_labels_that_are_seen(self, drawn):
        images, labels = drawn
        right = evaluate([images], labels, classes=CLASSES)["metrics"]["class accuracy"]
        assert right > 0.95  # the oracle reads nearly all clean pictures, also of this size
        wrong = labels.copy()
        wrong[: COUNT // 2] = (wrong[: COUNT // 2] + 1) % 16
        half = evaluate([images], wrong, classes=CLASSES)["metrics"]["class accuracy"]
        assert half == pytest.approx(right / 2, abs=0.03)

    def test_a_collapsed_set_has_no_spread(self, drawn, reference):
        images, labels = drawn
        firsts = [int(np.flatnonzero(labels == label)[0]) for label in labels]
        result = evaluate([images[firsts]], labels, reference, classes=CLASSES)
        assert result["metrics"]["spread of position"] == pytest.approx(0, abs=1e-6)

    def test_copies_of_training_images_are_near_and_new_images_are_not(self, drawn, reference):
        images, labels = drawn
        train = torch.cat(list(open_image_set("train", "shapes:512", "train", SIZE)))
        assert torch.equal(train[:COUNT], images)  # more pictures never change the first
        copied = evaluate([images], labels, reference, train=train.split(100))
        near = copied["metrics"]["near training images"]
        assert (near["share"], near["count"], near["num_train"]) == (1, COUNT, 512)
        assert "16x16 by area" in near["how"]
        new = torch.cat(list(open_image_set("train", f"shapes:{4 * COUNT}", "val", SIZE)))[COUNT:]
        labels = np.zeros(len(new), dtype=int)
        fresh = evaluate([new], labels, reference, train=train.split(100))
        assert fresh["metrics"]["near training images"]["share"] < 0.06  # expected 0.01 to 0.02

    def test_a_memoriser_is_found_behind_its_tokenizer(self, drawn, reference):
        images, labels = drawn

        def reconstruct(images):
            return images // 128 * 100  # as a tokenizer of few codes

        looks = {"train": images.split(100), "reconstruct": reconstruct}
        found = evaluate([reconstruct(images)], labels, reference, **looks)
        near = found["metrics"]["near training images"]
        assert near["share"] == 1
        assert "encoded and decoded by the tokenizer" in near["how"]
        assert (
            found["reference"]["sha256"]
            == evaluate([images], labels, reference)["reference"]["sha256"]
        )  # all else is scored against the reference as it is

    def test_nearness_against_plain_distances(self):
        random = torch.Generator().manual_seed(0)
        samples, real, train = (
            torch.randint(256, (count, 3, 32, 32), generator=random, dtype=torch.uint8)
            for count in (40, 50, 60)
        )
        small = [
            x.double().div(255).unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((3, 5))
            for x in (samples, real, train)
        ]
        apart = [(x[:, None] - small[2]).square().sum((2, 3, 4)).sqrt().amin(1) for x in small[:2]]
        threshold = np.quantile(apart[1].numpy(), NEAR)
        found = near_training(thumbnails(samples), thumbnails(real), train.split(7))
        assert found["threshold"] == pytest.approx(threshold)
        assert found["count"] == int((apart[0] <= threshold).sum())

    def test_no_fid_is_made_up_and_json_holds_the_result(self, drawn, reference):
        images, labels = drawn[0][:20], drawn[1][:20]
        result = evaluate([images], labels, reference, classes=CLASSES, train=[images])
        assert result["fid"] is None
        assert "Inception" in result["fid_note"]
        assert json.loads(json.dumps(result, allow_nan=False)) == result

    def test_the_fid_is_the_distance_of_inception_features(self, drawn, reference, tmp_path):
        images, labels = drawn
        result = evaluate([images], labels, reference, inception=Colours())
        with torch.inference_mode():
            one, other = (Colours()(x).double() for x in (images, torch.cat(list(reference))))
        expected = frechet_distance(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
        assert result["fid"] == pytest.approx(expected)
        assert result["fid_note"] == (
            f"torch-fidelity's Inception; {COUNT} images, {COUNT} images of the reference; too few "
            "to compare with published ones"
        )
        assert result["features"]["colours"] == "c0"
        by_features = ["KID", "precision", "recall", "density", "coverage"]
        assert list(result["metrics"]) == ["shapesnet-1 distance", *by_features]
        others = {"FID", "sFID", "shuffled inception score"}
        near_one = {"precision", "coverage"}
        assert min(result["metrics"][name] for name in near_one) > 0.94
        assert result["intervals"].keys() == {*others, *by_features} - near_one
        assert result["sfid"] == pytest.approx(expected / 255**2)
        logits = images.float().mean((2, 3)) / 100
        assert result["inception_score"] == pytest.approx(adm_inception_score(logits)[0])

    def test_a_reference_of_adm_brings_its_own_statistics(self, drawn, tmp_path):
        images, labels = drawn
        pixels = images.permute(0, 2, 3, 1).numpy()
        mean, covariance = np.arange(3.0), np.diag([1.0, 2.0, 3.0])
        np.savez(tmp_path / "adm.npz", arr_0=255 - pixels, mu=mean, sigma=covariance)
        adm = open_image_set("reference", str(tmp_path / "adm.npz"), "val", SIZE)
        result = evaluate([images], labels, adm, inception=Colours())
        features = Colours()(images).double()
        expected = frechet_distance(features.mean(0), features.T.cov(), mean, covariance)
        assert result["fid"] == pytest.approx(expected)
        assert "mu and sigma in the file of the reference" in result["fid_note"]
        assert result["sfid"] is None  # the file has no mu_s and sigma_s

    def test_kept_features_tell_more_with_intervals(self, drawn, reference):
        images, labels = drawn
        result = evaluate(images.split(50), labels, reference)
        with torch.inference_mode():
            one, other = (load_feature_network()(x) for x in (images, torch.cat(list(reference))))
        found = {name: result["metrics"][f"shapesnet-1 {name}"] for name in ("precision", "recall")}
        assert tuple(found.values()) == pytest.approx(precision_recall(other, one))
        ends = result["intervals"]["shapesnet-1 density"]
        assert ends["low"] < result["metrics"]["shapesnet-1 density"] < ends["high"]
        assert "k=3" in result["how"]["shapesnet-1 precision"]
        assert result["notes"] == [FEW_SAMPLES]

    def test_too_few_images_for_groups_are_told(self, drawn, reference):
        result = evaluate([drawn[0][:19]], drawn[1][:19], reference)
        assert result["metrics"].keys() == {"shapesnet-1 distance"}
        assert result["notes"] == [FEW_SAMPLES, TOO_FEW]

    def test_samples_sorted_by_class_are_told(self, drawn, reference):
        images, labels = drawn
        order = labels.argsort(kind="stable")
        words = {"inception": Colours(), "precision_recall": False}
        result = evaluate([images[order]], labels[order], reference, **words)
        assert result["notes"] == [FEW_SAMPLES, SORTED]
        assert SORTED not in evaluate([images], labels, reference, **words)["notes"]

    def test_of_samples_without_labels_the_classes_are_those_that_inception_sees(
        self, drawn, reference
    ):
        images, unknown = drawn[0], np.full(COUNT, -1)
        words = {"inception": Colours(), "precision_recall": False}
        order = images.float().mean((2, 3)).argmax(1).argsort(stable=True)
        assert SORTED in evaluate([images[order]], unknown, reference, **words)["notes"]
        assert SORTED not in evaluate([images], unknown, reference, **words)["notes"]

    @pytest.mark.parametrize("suffix", ["JPEG", "jpg", "png"])
    def test_a_reference_of_jpeg_files_is_told(self, drawn, tmp_path, suffix):
        images, labels = drawn
        for number, picture in enumerate(images[:24].permute(0, 2, 3, 1).numpy()):
            Image.fromarray(picture).save(tmp_path / f"{number}.{suffix}")
        pictures = open_image_set("reference", str(tmp_path), "val", SIZE)
        notes = evaluate([images], labels, pictures, precision_recall=False)["notes"]
        assert (LOSSY in notes) == (suffix != "png")

    def test_other_weights_make_no_fid(self, drawn, reference):
        images, labels = drawn
        other = Colours()
        other.is_official = False
        result = evaluate([images], labels, reference, inception=other)
        assert result["fid"] is None
        scores = {"KID", "precision", "recall", "density", "coverage", "distance"}
        expected = {"shapesnet-1 distance", *(f"colours {name}" for name in scores)}
        assert result["metrics"].keys() == expected
        assert result["sfid"] is result["inception_score"] is None
        assert result["fid_note"] == "colours is not the Inception network that defines it"

    def test_too_few_images_of_a_class_give_null(self, drawn, reference):
        images, labels = drawn
        result = evaluate([images[:16]], labels[:16], reference, classes=CLASSES)
        assert result["metrics"]["spread of size"] is None

    def test_metrics_exports_it(self):
        assert Metrics.evaluate is evaluate
        assert set(Metrics.__all__) >= {"FeatureStatistics", "frechet_distance", "precision_recall"}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("num_images=1", "num_images must be at least 2, not 1."),
        ("chunk=0", "chunk must be at least 1, not 0."),
        ("train=shapes:9", "train needs a reference to tell what is near: give reference=... too."),
    ],
)
def test_config_mistakes(word, sentence):
    with pytest.raises(UserError) as error:
        load_config(SampleConfig, None, [word])
    assert str(error.value) == sentence
