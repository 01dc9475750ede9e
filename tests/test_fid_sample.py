import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_samples import commanded
from tiny_weights import SIDE, save_tiny_weights

from MaskGIL.data.shapes import CLASSES
from MaskGIL.pipeline import Pipeline
from Metrics import classifier, inception, job, pretrained, scored_set
from Metrics.labels import choose_labels
from Metrics.redrawn import reconstructed
from Metrics.reference import open_image_set
from Network.files import fingerprint

ROOT = Path(__file__).parent.parent
BY_FEATURES = ("KID", "precision", "recall", "density", "coverage")
SMALL = ("num_images=40", "chunk=16", "device=cpu", "precision=fp32", "reference=shapes:64")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


@pytest.fixture
def fid_sample(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return commanded(capsys, f"weights={weights}", *SMALL)


def test_a_set_and_its_record(fid_sample, weights, tmp_path):
    code, out, err = fid_sample("out=new/a.npz", "train=shapes:128", "seed=4", "num_steps=3")
    assert (code, err) == (0, "")  # no progress bar where nobody looks
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "a.npz"]
    with np.load(tmp_path / "new/a.npz") as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert (images.shape, images.dtype) == ((40, SIDE, SIDE, 3), np.uint8)
    pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32)
    assert np.array_equal(labels, choose_labels(pipe, ["balanced"], 40, 4))
    made = pipe(labels[:16].tolist(), num_inference_steps=3, generator=4, output_type="uint8")
    assert np.array_equal(images[:16], made.images.permute(0, 2, 3, 1).numpy())

    record = json.loads((tmp_path / "new/a.json").read_text())
    assert record["samples"]["network_sha256"] == fingerprint(pipe.network.state_dict())
    assert record["samples"]["tokenizer_sha256"] == pipe.tokenizer.fingerprint
    assert (record["samples"]["seed"], record["samples"]["num_steps"]) == (4, 3)
    assert (record["reference"]["count"], record["train"]) == (64, "shapes:128")
    assert record["made"]["images_per_second"] > 0
    assert record["made"]["seconds_alone"] > 0
    assert record["made"]["peak_memory"] > 1e6
    assert {record[name] for name in ("fid", "sfid", "inception_score")} == {None}
    assert record["intervals"].keys() == {"shapesnet-1 KID", "shapesnet-1 density"}  # shares near 0
    assert list(record["metrics"]) == [
        "class accuracy",
        "shapesnet-1 distance",
        *(f"shapesnet-1 {score}" for score in BY_FEATURES),
        "spread of position",
        "spread of size",
        "spread of colour",
        "near training images",
    ]
    assert f"shapesnet-1 distance   {record['metrics']['shapesnet-1 distance']:.4g}\n" in out
    assert f"shapesnet-1 recall     {record['metrics']['shapesnet-1 recall']:.4g}\n" in out
    assert f"shapesnet-1 KID        {record['metrics']['shapesnet-1 KID']:.4g} ± " in out


def test_features_need_not_be_kept(fid_sample, tmp_path):
    code, out, _ = fid_sample("precision_recall=false")
    record = json.loads((tmp_path / "samples.json").read_text())
    assert (code, record["intervals"]) == (0, {})
    assert "shapesnet-1 distance" in record["metrics"]
    assert not any("KID" in name for name in record["metrics"])
    assert "±" not in out
    assert fid_sample()[0] == 0  # they may be asked for later, of the same set
    assert "shapesnet-1 KID" in json.loads((tmp_path / "samples.json").read_text())["metrics"]


def test_the_same_command_scores_again_and_another_is_refused(fid_sample, tmp_path):
    assert fid_sample()[0] == 0
    file, record = tmp_path / "samples.npz", tmp_path / "samples.json"
    before, first = file.stat(), json.loads(record.read_text())
    code, out, _ = fid_sample("reference=shapes:32")
    assert code == 0
    assert "complete   samples.npz is this set already: scoring it again" in out
    after, second = file.stat(), json.loads(record.read_text())
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert second["made"] == first["made"]
    assert (first["reference"]["count"], second["reference"]["count"]) == (64, 32)
    code, _, err = fid_sample("seed=1")
    assert code == 2
    assert "out=samples.npz is another set: seed is 0 there and 1 here (1 more differ)" in err
    assert json.loads(record.read_text()) == second


def test_scores_against_a_reference_are_kept_when_none_is_given(fid_sample, tmp_path):
    fid_sample()
    fid_sample("train=shapes:64")
    before = json.loads((tmp_path / "samples.json").read_text())
    assert "near training images" in before["metrics"]
    for fewer in ("reference=", "train="):
        code, out, _ = fid_sample(fewer)
        assert code == 0
        assert "shapesnet-1 distance  " in out
        assert json.loads((tmp_path / "samples.json").read_text()) == before
    fid_sample("reference=shapes:32")  # another reference: nothing is mixed
    after = json.loads((tmp_path / "samples.json").read_text())
    assert (after["reference"]["count"], after["train"]) == (32, None)
    assert "near training images" not in after["metrics"]


def test_a_changed_set_is_not_scored_under_its_old_record(fid_sample, tmp_path, monkeypatch):
    fid_sample()
    with np.load(tmp_path / "samples.npz") as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    np.savez(tmp_path / "samples.npz", 255 - images, labels)
    monkeypatch.delattr(scored_set, "Share")  # nothing is scored before
    code, _, err = fid_sample()
    assert code == 2
    assert "out=samples.npz has changed since its record was written" in err


def test_pixels_that_are_no_numbers_end_a_run_that_goes_on_once_they_are(
    fid_sample, tmp_path, monkeypatch
):
    def broken(pipe, tokens, clamp):
        images = pixels(pipe, tokens, clamp)
        return images * np.nan if len(images) < 16 else images  # the last chunk, of 8 images

    pixels = Pipeline.pixels
    with monkeypatch.context() as changed:
        changed.setattr(Pipeline, "pixels", broken)
        code, _, err = fid_sample()
    assert code == 2
    assert err.startswith("error: Image 32 of seed=0 has pixels that are not finite: look at the ")
    (folder,) = tmp_path.iterdir()
    chunks = ["000000000.rgb", "000000016.rgb"]
    assert sorted(file.name for file in folder.iterdir()) == [*chunks, "set.json"]
    code, out, _ = fid_sample()
    assert code == 0
    assert "continued  32 images are there already\n" in out
    assert json.loads((tmp_path / "samples.json").read_text())["made"]["images"] == 8


def test_another_command_does_not_go_on_with_the_chunks_of_a_set(fid_sample, monkeypatch):
    with monkeypatch.context() as broken:
        broken.delattr(scored_set.Job, "finish")
        assert fid_sample()[0] == 1
    code, _, err = fid_sample("seed=1")
    assert code == 2
    assert err.startswith(
        "error: out=samples.npz was begun as another set: seed is 0 in samples.npz.partial and 1 "
        "here (1 more differ); remove that folder, or name another out."
    )


def test_a_set_whose_scoring_failed_is_scored_by_the_next_run(fid_sample, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.delattr(scored_set, "score")
        assert fid_sample()[0] == 1
    assert (tmp_path / "samples.npz").exists()
    code, out, _ = fid_sample()
    assert code == 0
    assert "scoring it again" in out


def test_a_perfect_memoriser_is_caught_and_shown(fid_sample, weights, tmp_path, monkeypatch):
    pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32)
    train = torch.cat(list(open_image_set("train", "shapes:64", "train", (SIDE, SIDE))))
    copies = reconstructed(pipe, train[:40], 16)
    monkeypatch.setattr(job, "sample_rows", lambda *words: copies[words[3].start : words[3].stop])
    code, out, err = fid_sample("train=shapes:64", "nearest=new/near.png")
    assert (code, err) == (0, "")
    assert "tokenizer  128 images of the data go through it too\n" in out
    near = json.loads((tmp_path / "samples.json").read_text())["metrics"]["near training images"]
    assert (near["share"], near["nearest"]) == (1, list(range(16)))
    assert near["threshold"] > 0
    picture = np.asarray(Image.open(tmp_path / "new/near.png"))
    rows = picture[2:].reshape(2, SIDE + 2, -1, 3)[:, :SIDE, 2:]  # two pixels around each image
    for row, images in zip(rows, (copies, train)):
        shown = row.reshape(SIDE, 16, SIDE + 2, 3)[:, :, :SIDE].transpose(1, 3, 0, 2)
        assert np.array_equal(shown, images[:16].numpy())


def test_a_ladder_tells_what_a_distance_is_worth(fid_sample, tmp_path):
    code, out, err = fid_sample("train=shapes:64", "ladder=true")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "samples.json").read_text())["metrics"]["shapesnet-1 ladder"]
    assert found["count"] == 13  # a third of the 40 samples
    assert list(found["distances"]) == ["train", "reconstructions", "samples", "shuffled tokens"]
    low, middle, high = sorted(found["distances"]["shuffled tokens"])
    assert f"  shuffled tokens      {middle:.4g} ({low:.4g} to {high:.4g}), 13\n" in out
    assert f"  in order             {'yes' if found['in order'] else 'no: '}" in out
    for key in ("ladder=true", "classifier=true"):
        assert fid_sample(key)[2] == (
            f"error: {key.partition('=')[0]} needs the training images: give train=... too.\n"
        )


def test_a_classifier_tells_the_classes_of_the_samples(fid_sample, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 3)
    code, out, err = fid_sample("train=shapes:64", "classifier=true")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "samples.json").read_text())["metrics"]["classifier"]
    assert list(found["accuracy"]) == ["samples", "reference", "reference reconstructed"]
    assert list(found["per class"]) == list(CLASSES)
    assert f"classifier             {found['accuracy']['samples']:.1%} (" in out
    np.savez(tmp_path / "unknown.npz", np.zeros((9, SIDE, SIDE, 3), np.uint8))
    assert fid_sample("train=unknown.npz", "classifier=true", "out=b.npz")[2].startswith(
        "error: classifier=true needs images with the classes of the weights, which unknown.npz"
    )
    assert not (tmp_path / "b.npz").exists()


def test_inception_weights_are_looked_for_before_anything_is_sampled(fid_sample, tmp_path):
    assert fid_sample("inception=nowhere.pth")[2].startswith("error: inception=nowhere.pth is no")
    assert fid_sample("inception=nowhere.pth", "reference=")[2] == (
        "error: inception needs a reference: an FID is the distance to one.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_download_waits_for_the_samples_to_be_possible_and_is_not_made_dry(
    fid_sample, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    fetched = []
    monkeypatch.setattr(pretrained, "fetch", lambda url, path, **_: fetched.append(url) or path)
    monkeypatch.setattr(inception, "InceptionNetwork", lambda path, device: None)
    code, out, _ = fid_sample("inception=download", "--dry-run")
    assert (code, fetched) == (0, [])
    assert "FID        Inception's weights, 91 MB, are fetched for it\n" in out
    assert fid_sample("inception=download", "classes=nothing")[0] == 2
    assert fetched == []
    assert fid_sample("inception=download")[0] == 0
    assert len(fetched) == 1


def test_png_files_beside(fid_sample, tmp_path):
    assert fid_sample("png=png", "reference=")[0] == 0
    assert len(list((tmp_path / "png").iterdir())) == 40
    assert fid_sample("png=png", "reference=png")[0] == 0  # the set is there: nothing to write
    distance = json.loads((tmp_path / "samples.json").read_text())["metrics"]
    assert distance["shapesnet-1 distance"] < 1e-6  # the PNG files are the set


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["weights=nowhere"], "No such weights folder: nowhere."),
        (["out=a.png"], "out=a.png must end in .npz."),
        (["nearest=pairs", "train=shapes:9"], "nearest=pairs must end in .png."),
        (["reference=nowhere"], "No such reference: reference=nowhere; give shapes, scenes,"),
        (["num_reference=65"], "reference has 64 images, not 65; lower num_reference."),
        (["classes=read ring"], "Unknown class 'read ring'. Did you mean 'red ring'?"),
        (["num_steps=65"], "num_steps=65 must lie between 1 and the number of tokens, 64."),
        (["num_images=1000000000000"], "out=samples.npz needs 1536000.00 GB while it is written"),
        (["grid=a.png"], "grid has no effect without reconstruct=...; leave it out."),
        (["resize=16"], "resize=16 is the size that the images have; leave it out."),
        (["refrence=a"], "Unknown key 'refrence' on the command line. Did you mean 'reference'?"),
    ],
)
def test_mistakes_cost_a_second_and_leave_nothing(fid_sample, tmp_path, words, sentence):
    code, _, err = fid_sample(*words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_tokenizers_are_compared_instead(fid_sample, weights, tmp_path):
    words = ("weights=", f"reconstruct={weights}", f"image_size={SIDE}", "grid=new/shown.png")
    words += ("num_images=0",)  # that is, not given
    code, out, err = fid_sample(*words, "--dry-run")
    assert (code, err, list(tmp_path.iterdir())) == (0, "", [])
    assert "images     shapes (val): 64 of 16x16, 3 times, in chunks of 16\n" in out
    code, out, err = fid_sample(*words)
    assert (code, err) == (0, "")
    assert out.endswith((tmp_path / "reconstructions.md").read_text())
    record = json.loads((tmp_path / "reconstructions.json").read_text())
    assert [row["name"] for row in record["rows"]] == [str(weights), "thumbnail 8x8"]
    assert (tmp_path / "new/shown.png").exists()
    assert (
        fid_sample(*words)[2] == "error: reconstructions.json is there already; name another out.\n"
    )


@pytest.mark.parametrize("words", [("reconstruct=a",), ("weights=", "reconstruct=a", "reference=")])
def test_a_comparison_needs_images_and_no_weights(fid_sample, words):
    code, _, err = fid_sample(*words)
    assert (code, err.partition(":")[2]) == (
        2,
        " reconstruct redraws the images of reference=... and samples none: give a reference, and "
        "no weights.\n",
    )


def test_dry_run_says_what_would_be_done(fid_sample, tmp_path):
    code, out, _ = fid_sample("--dry-run")
    assert code == 0
    assert "samples    40 of 16x16, balanced, seed 0, in chunks of 16\n" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_ranks_give_the_same_bytes_and_scores_as_one(fid_sample, weights, tmp_path):
    assert fid_sample("out=other.npz", "reference=", "seed=9", "num_images=60")[0] == 0

    def sample(*launcher, out):
        words = [f"weights={weights}", *SMALL, "num_images=70", f"out={tmp_path / out}"]
        words.append(f"reference={tmp_path / 'other.npz'}")
        command = [sys.executable, *launcher, str(ROOT / "FID_sample.py"), *words]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, timeout=300)
        return (tmp_path / out).read_bytes(), json.loads(
            (tmp_path / out).with_suffix(".json").read_text()
        )

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    alone, together = sample(out="one.npz"), sample(*torchrun, out="two.npz")
    assert alone[0] == together[0]
    one, two = alone[1], together[1]
    assert (one["made"]["ranks"], two["made"]["ranks"]) == (1, 2)
    for key in ("metrics", "intervals"):
        found = flat(two[key])
        assert found == {
            name: pytest.approx(value, rel=1e-9) for name, value in flat(one[key]).items()
        }
    counts = [one["metrics"][f"shapesnet-1 {name}"] for name in BY_FEATURES[1:]]
    assert counts == [two["metrics"][f"shapesnet-1 {name}"] for name in BY_FEATURES[1:]]
    assert min(counts) > 0.1
    assert one["sha256"] == two["sha256"]
    again = sample(*torchrun, out="two.npz")  # now from the disk
    assert again == (together[0], two)


def flat(scores, above=()):
    """The numbers of nested dicts, by the names above them."""
    found = {}
    for name, value in scores.items():
        inner = flat(value, (*above, name)) if isinstance(value, dict) else {(*above, name): value}
        found |= inner
    return {names: value for names, value in found.items() if value is not None}
