"""Tokenizers side by side on drawn images: checked first, then a record, a table and a picture."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_weights import SIDE, save_tiny_weights

from MaskGIL.data.crops import to_float, to_uint8
from MaskGIL.weights import load_tokenizer, save_weights
from Metrics.comparison import Comparison, Networks, few_tokens, notes, to_markdown
from Metrics.features import SHA256, load_feature_network
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import distance
from Metrics.reference import open_image_set
from Metrics.sample_config import SampleConfig
from Metrics.seen import Seen
from Network.config import UserError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A generator's folder and one of a tokenizer of stride 4."""
    folder = tmp_path_factory.mktemp("runs")
    other = tiny.fill(tiny.tokenizer(multipliers=(1, 2, 2), attention_levels=(2,)), 1)
    save_weights(folder / "b", other)
    return save_tiny_weights(folder / "a"), folder / "b"


@pytest.fixture
def compare(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))

    def compare(**changes):
        keys = {"reconstruct": tuple(map(str, weights)), "reference": "shapes:40"}
        keys |= {"image_size": SIDE, "chunk": 16, "device": "cpu", **changes}
        return Comparison(SampleConfig(**keys))

    return compare


def unseen(images, name):
    """Counts on no bar."""
    return images


def test_every_figure_of_two_tokenizers_and_their_thumbnails(compare, weights, tmp_path):
    table = compare(out="new/a.json", grid="shown.png").run(unseen)
    assert (tmp_path / "new/a.md").read_text() == table
    record = json.loads((tmp_path / "new/a.json").read_text())
    reference = open_image_set("reference", "shapes:40", "val", (SIDE, SIDE))
    extractors = [load_feature_network()]
    real = Seen(reference, 40, extractors)
    assert record["reference"] == {
        "name": "shapes (val)",
        "sha256": real.sha256,
        "count": 40,
        "split": "val",
        "image_size": SIDE,
        "unreadable": {},
    }
    assert record["features"] == {"shapesnet-1": SHA256}
    assert (record["chunk"], record["precision"], record["device"][:3]) == (16, "fp32", "cpu")
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == [*map(str, weights), "thumbnail 8x8", "thumbnail 4x4"]
    images = torch.cat(list(reference))
    for folder, stride in zip(weights, (2, 4)):
        tokenizer, row = load_tokenizer(folder), rows[str(folder)]
        with torch.no_grad():
            parts = (tokenizer(to_float(part))[0] for part in images.split(16))
            redrawn = Seen(map(to_uint8, parts), 40, extractors)
        expected = distance(redrawn.statistics[0], real.statistics[0])
        assert row["figures"]["shapesnet-1 distance"] == pytest.approx(expected, rel=1e-3)
        assert row["figures"]["bits per pixel"] == pytest.approx(np.log2(11) / stride**2)
        assert row["figures"]["decode (tokens/s)"] > row["figures"]["decode (img/s)"] > 0
        assert row["tokenizer"] == {
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "weights": str(folder),
            "codes": 11,
            "stride": stride,
        }
    coarse, fine = rows["thumbnail 4x4"]["figures"], rows["thumbnail 8x8"]["figures"]
    assert coarse["PSNR (dB)"] < fine["PSNR (dB)"]
    assert coarse["shapesnet-1 distance"] > fine["shapesnet-1 distance"]
    picture = np.asarray(Image.open(tmp_path / "shown.png"))
    assert picture.shape == (2 + 5 * (SIDE + 2), 2 + 16 * (SIDE + 2), 3)
    originals = images[torch.from_numpy(np.linspace(0, 39, 16).round().astype(int))]
    first = picture[2 : 2 + SIDE, 2 : 2 + SIDE]
    assert np.array_equal(first, originals[0].permute(1, 2, 0).numpy())


def test_a_tokenizer_scores_the_same_alone_and_beside_another(compare, weights, tmp_path):
    compare(out="both.json").run(unseen)
    compare(out="one.json", reconstruct=(str(weights[1]),)).run(unseen)
    both, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("both", "one"))
    first, second = both["rows"][1], one["rows"][0]
    assert first["sha256"] == second["sha256"]
    same = [name for name in first["figures"] if not name.endswith("/s)")]
    assert len(same) == 8
    assert [first["figures"][name] for name in same] == [second["figures"][name] for name in same]


def test_an_image_of_one_token_is_refused_where_it_cannot_be_drawn(compare):
    with pytest.raises(UserError) as error:
        compare(reconstruct=("magvit2-f16",), image_size=16)
    assert str(error.value) == (
        "image_size=16 is too small for magvit2-f16, which cannot draw an image of one token; "
        "choose 32 or more."
    )
    compare(reconstruct=("llamagen-vq16",), image_size=16)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 18}, "image_size=18 is no multiple of 4, the stride of "),
        ({"out": "a.npz"}, "out=a.npz must end in .json."),
        ({"out": "there.json"}, "there.json is there already; name another out."),
        ({"out": "table.json"}, "table.md is there already; name another out."),
        ({"grid": "a.gif"}, "grid=a.gif must end in .png."),
        ({"reference": "nowhere"}, "No such reference: reference=nowhere;"),
        ({"num_reference": 1}, "reference=shapes:40 is one image; a distance needs two."),
        ({"reconstruct": ("./a",)}, "No such weights folder: a"),
        ({"vgg": "vgg.pth"}, "vgg=vgg.pth is no file; give one, or auto, download, none."),
        ({"inception": "non"}, "inception=non is no file;"),
        ({"precision": "fp16"}, "precision=fp16 needs a CUDA device"),
    ],
)
def test_mistakes_are_told_before_any_weights_are_read(
    compare, tmp_path, monkeypatch, changes, sentence
):
    monkeypatch.delattr("MaskGIL.tokenizer_source.open_tokenizer")
    for name in ("there.json", "table.md"):
        (tmp_path / name).write_text("kept")
    with pytest.raises(UserError) as error:
        compare(**changes)
    assert str(error.value).startswith(sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.md", "there.json"]
    assert (tmp_path / "there.json").read_text() == "kept"


class Colours(InceptionNetwork):
    """Stands in for the network whose features are an FID's."""

    def __init__(self):
        self.name, self.sha256, self.width, self.is_official = "colours", "c0", 3, True

    def __call__(self, images):
        return images.float().mean((2, 3))


class Difference:
    """Stands in for LPIPS."""

    name, sha256, is_official = "lpips-vgg-0.1", "d0", True

    def __call__(self, first, second):
        return (first - second).abs().mean((1, 2, 3))


def test_networks_that_are_at_hand_are_asked_and_named(compare, tmp_path, monkeypatch):
    (tmp_path / "vgg.pth").touch()
    monkeypatch.setattr("Metrics.comparison.open_inception", lambda value, device: Colours())
    monkeypatch.setattr("Metrics.comparison.open_perceptual", lambda file, device: Difference())
    compare(vgg="vgg.pth").run(unseen)
    record = json.loads((tmp_path / "reconstructions.json").read_text())
    assert record["features"] == {"shapesnet-1": SHA256, "colours": "c0", "lpips-vgg-0.1": "d0"}
    for row in record["rows"]:
        figures = row["figures"]
        assert figures["rFID"] > 0
        assert figures["LPIPS"] == pytest.approx(figures["L1 (grey levels)"] / 127.5)
    _, few = record["notes"]
    assert few == "An rFID of 40 images is larger than published ones, of 50,000."


def test_a_tokenizer_is_named_once(compare, weights):
    with pytest.raises(UserError, match=r"^reconstruct names a tokenizer twice; name each once\.$"):
        compare(reconstruct=(str(weights[0]),) * 2)


def test_one_process_is_enough(compare, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^reconstruct works in one process: start it with python"):
        compare()


def test_the_plan_fetches_nothing_and_says_what_would_be(compare, weights, tmp_path):
    names = ("llamagen-vq16", str(weights[0]))
    plan = compare(reconstruct=names, vgg="download").plan()
    assert plan.splitlines() == [
        "tokenizer  llamagen-vq16: 1x1 tokens of 16,384 codes, fetched unless it is there",
        f"tokenizer  {weights[0]}: 8x8 tokens of 11 codes",
        "images     shapes (val): 40 of 16x16, 5 times, in chunks of 16",
        "device     cpu (1 threads), fp32",
        "rFID       none",
        "LPIPS      fetched",
        "out        reconstructions.json, reconstructions.md",
    ]
    assert list(tmp_path.iterdir()) == []


class Network:
    def __init__(self, name, is_official=True):
        self.name, self.is_official = name, is_official


def test_notes_say_how_to_get_what_is_missing():
    missing = Networks([Network("shapesnet-1")], Network("lpips-vgg-0.1-c0", is_official=False))
    _, rfid, lpips, unreadable = notes(missing, 50_000, 3)
    assert "inception=download fetches it (91 MB), inception=FILE names it" in rfid
    assert "vgg=download fetches it (528 MB), vgg=FILE names it" in lpips
    assert unreadable == "Unreadable images: 3; their neighbours stand in for them."


def test_fewer_tokens_than_codes_bound_the_usage(compare, tmp_path):
    """Two images of 8x8 tokens cannot use 256 codes: half of them at most."""
    assert few_tokens(256, 256, "a") == ""
    assert few_tokens(128, 256, "a") == (
        "Usage of a is at most 0.5 here: 128 tokens of 256 codes; give more images, or larger ones."
    )
    save_weights(tmp_path / "many", tiny.fill(tiny.tokenizer(codebook_size=256)))
    keys = {"reconstruct": (str(tmp_path / "many"),), "num_reference": 2}
    table = compare(out="few.json", **keys).run(unseen)
    assert f"* Usage of {tmp_path / 'many'} is at most 0.5 here: 128 tokens of 256 codes;" in table
    record = json.loads((tmp_path / "few.json").read_text())
    assert record["rows"][0]["figures"]["usage (share)"] <= 0.5
    assert "Usage of" not in compare(out="enough.json").run(unseen)


def test_a_table_has_a_dash_for_what_a_row_has_not():
    reference = {"name": "val", "count": 50_000, "sha256": "ab" * 32, "image_size": 256}
    rows = [
        {"name": "a", "figures": {"SSIM": 0.51234, "decode (img/s)": 1234.5}},
        {"name": "thumbnail", "figures": {"SSIM": 0.25}},
    ]
    record = {"reference": reference, "rows": rows, "notes": ["Of 8 bits."], "chunk": 64}
    assert to_markdown({**record, "precision": "fp32", "device": "cpu"}) == (
        "# Reconstructions of val\n\n"
        "50,000 images of 256x256 (sha256 abababab), fp32, chunks of 64, cpu.\n\n"
        "|           |   SSIM | decode (img/s) |\n"
        "| --------- | -----: | -------------: |\n"
        "| a         | 0.5123 |          1,234 |\n"
        "| thumbnail |   0.25 |              - |\n\n"
        "* Of 8 bits.\n"
    )
