"""Samples of captions: sampled, read back and scored by FID_sample.py."""

import json

import numpy as np
import pytest
import tiny
import torch
from tiny_samples import commanded
from tiny_text import save_encoder
from tiny_weights import CODES, GRID, SIDE

from MaskGIL.config import load_config
from MaskGIL.durable import to_json
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import save_weights
from Metrics import job, prompted
from Metrics.attributes import Drawings
from Metrics.caption_set import open_caption_set
from Metrics.clip_score import HOW
from Metrics.prompted import Prompted
from Metrics.registry import OURS
from Metrics.row import row_of, words_of
from Metrics.sample_config import SampleConfig
from Metrics.schema import check_kind
from Network.text import load_text_encoder

SMALL = ("chunk=16", "device=cpu", "precision=fp32", "out=a.npz", "inception=none")
SIZE = (64, 64)


class Clip:
    """Stands in for a CLIP: a score is the number of letters, and a third of the red."""

    name, sha256 = "clip-tiny", "cc"

    def __call__(self, images, texts):
        return torch.tensor([float(len(text)) for text in texts]) + images[:, 0, 0, 0] / 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Those of a generator of captions, which names a text encoder beside it."""
    home = tmp_path_factory.mktemp("run")
    encoder = load_text_encoder(save_encoder(home / "encoder"), num_tokens=20)
    network = tiny.network(
        num_classes=0, caption_width=16, caption_tokens=20, grid=(GRID, GRID), codebook_size=CODES
    )
    save_weights(
        home / "weights",
        tiny.tokenizer(),
        network=network.float(),
        sampling=SamplingConfig(num_steps=3),
        text=TextOrigin(str(home / "encoder"), "fp32", encoder.fingerprint),
    )
    return home / "weights"


@pytest.fixture
def fid_sample(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return commanded(capsys, f"weights={weights}", *SMALL)


def record_of(tmp_path, name="a"):
    return json.loads((tmp_path / f"{name}.json").read_text())


def test_a_set_of_captions_and_its_record(fid_sample, weights, tmp_path):
    words = ("captions=scenes:40", "seed=4", "reference=scenes:48", "train=scenes:64")
    code, out, err = fid_sample(*words)
    assert (code, err) == (0, "")
    captions = open_caption_set("scenes:40", "val", 0, 4, (SIDE, SIDE))
    with np.load(tmp_path / "a.npz") as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert (images.shape, labels.tolist()) == ((40, SIDE, SIDE, 3), [-1] * 40)
    pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32)
    with torch.no_grad():
        expected = pipe(prompt=captions.texts[:16], generator=4, output_type="uint8").images
    assert np.array_equal(images[:16], expected.permute(0, 2, 3, 1).numpy())

    record = record_of(tmp_path)
    assert record["captions"] == captions.facts()
    samples = record["samples"]
    assert "labels_sha256" not in samples
    assert samples["captions_sha256"] == captions.sha256
    assert (samples["text_encoder"], samples["text_encoder_sha256"]) == (
        pipe.text.encoder,
        pipe.text.fingerprint,
    )
    assert record["reference"]["name"] == "scenes (val)"
    assert {"shapesnet-1 distance", "near training images", "everything as asked"} < set(
        record["metrics"]
    )
    assert "class accuracy" not in record["metrics"]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"captions scenes:40, 40 of val, sha256 {captions.sha256[:8]}" in lines
    told = record["attributes"]["count as asked"]
    assert told["asked"] == 40
    row = row_of(record, name="tiny", data="scenes", generator="tiny")
    check_kind(json.loads(to_json(row)), OURS, tmp_path)
    assert row["numbers"]["count as asked"]["value"] == told["rate"]
    assert "captions=scenes:40" in words_of(row)
    rate, low, high, chance, shuffled, ceiling = (
        f"{told[name]:.1%}" for name in ("rate", "low", "high", "chance", "shuffled", "ceiling")
    )
    beside = f"chance {chance}, prompts shuffled {shuffled}, true drawings {ceiling}"
    assert f"count as asked {rate} ({low} to {high}) of 40; {beside}" in lines


def test_the_same_command_scores_again_and_other_captions_are_another_set(
    fid_sample, tmp_path, monkeypatch
):
    assert fid_sample("captions=scenes:20", "num_images=24")[0] == 0
    before = record_of(tmp_path)
    with monkeypatch.context() as missing:  # a whole set needs no text encoder
        missing.setattr(Pipeline, "encode_prompts", None)
        code, out, _ = fid_sample("captions=scenes:20", "num_images=24", "reference=scenes:20")
    assert (code, "scoring it again" in out) == (0, True)
    after = record_of(tmp_path)
    assert after["attributes"] == before["attributes"]
    assert after["sha256"] == before["sha256"]
    code, _, err = fid_sample("captions=scenes:20", "num_images=24", "captions_split=train")
    assert code == 2
    assert err.startswith("error: out=a.npz is another set: captions_sha256 is ")


def test_it_goes_on_where_it_was(fid_sample, tmp_path, monkeypatch):
    def broken(pipe, conditions, seed, rows, *words):
        if rows.start:
            raise RuntimeError
        return sampled(pipe, conditions, seed, rows, *words)

    assert fid_sample("captions=scenes:40", "out=whole.npz")[0] == 0
    sampled = job.sample_rows
    with monkeypatch.context() as killed:
        killed.setattr(job, "sample_rows", broken)
        assert fid_sample("captions=scenes:40")[0] == 1
    code, out, _ = fid_sample("captions=scenes:40")
    assert (code, "continued  16 images are there already" in out) == (0, True)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert record_of(tmp_path)["metrics"] == record_of(tmp_path, "whole")["metrics"]


def test_any_rank_makes_the_same_bytes(fid_sample, weights, tmp_path, monkeypatch):
    assert fid_sample("captions=scenes:40")[0] == 0
    with np.load(tmp_path / "a.npz") as arrays:
        alone = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2)
    words = [f"weights={weights}", *SMALL, "captions=scenes:40", "out=b.npz"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    share = job.Share(made := job.Job(load_config(SampleConfig, None, words)))
    made.partial.begin(made.samples)
    images = torch.cat(list(share))
    rows = [row for piece in share.pieces for row in piece]
    assert 0 < len(rows) < 40
    assert torch.equal(images, alone[rows])


def test_a_perfect_generator_is_at_the_ceiling_and_a_deaf_one_at_chance(
    fid_sample, tmp_path, monkeypatch
):
    """The tokenizer is perfect too, so that the ceiling is what the oracle reads of drawings."""
    found = open_caption_set("scenes:96", "val", 0, 0, SIZE)
    images = torch.cat(list(Drawings(found.scenes, found.rows)))
    monkeypatch.setattr(job, "reconstructed", lambda pipe, images, *words: images)
    monkeypatch.setattr(job, "sample_rows", lambda *words: drawn[words[3].start : words[3].stop])
    asked = ("captions=scenes:96", "height=64", "width=64")
    drawn = images
    assert fid_sample(*asked)[0] == 0
    for name, told in record_of(tmp_path)["attributes"].items():
        assert told["rate"] == told["ceiling"] > 0.95, name
    drawn = images[torch.randperm(96, generator=torch.Generator().manual_seed(0))]
    assert fid_sample(*asked, "out=deaf.npz")[0] == 0
    for name, told in record_of(tmp_path, "deaf")["attributes"].items():
        assert told["low"] <= told["chance"] <= told["high"], name


def test_guidance_leads_a_set_away_from_a_negative_prompt(fid_sample, weights, tmp_path):
    words = ("captions=scenes:20", "guidance_scale=4", "guidance=constant")
    assert fid_sample(*words, "negative_prompt=a  red circle")[0] == 0
    with np.load(tmp_path / "a.npz") as arrays:
        images = arrays["arr_0"]
    pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32)
    texts = open_caption_set("scenes:20", "val", 0, 0, (SIDE, SIDE)).texts[:16]
    asked = {"guidance_scale": 4.0, "guidance": "constant", "output_type": "uint8"}
    expected = pipe(prompt=texts, negative_prompt="a red circle", generator=0, **asked).images
    assert np.array_equal(images[:16], expected.permute(0, 2, 3, 1).numpy())
    assert record_of(tmp_path)["samples"]["negative_prompt"] == "a red circle"
    code, _, err = fid_sample(*words)
    assert code == 2
    assert "is another set: negative_prompt is a red circle there and" in err


def test_settings_of_a_sampler_are_swept_on_captions(fid_sample, tmp_path):
    words = ("captions=scenes:20", "reference=scenes:24", "negative_prompt=a red circle")
    grid = "sweep=guidance_scale=1 4"
    code, out, err = fid_sample(*words, grid, "out=swept")
    assert (code, err) == (0, "")
    assert "samples    20 of 16x16 each, captions of scenes:20, seed 0, in chunks of 16\n" in out
    plain, guided = json.loads((tmp_path / "swept/sweep.json").read_text())["cells"]
    assert "negative_prompt" not in plain["command"]  # without guidance it has no effect
    assert "'negative_prompt=a red circle'" in guided["command"]
    assert [cell["cost"]["network passes"] for cell in (plain, guided)] == [3, 5]
    assert plain["sha256"] != guided["sha256"]
    assert fid_sample(*words, "guidance_scale=4")[0] == 0
    alone = record_of(tmp_path)
    assert alone["sha256"] == guided["sha256"]
    for name in ("shapesnet-1 distance", "everything as asked"):
        assert guided["measures"][name]["value"] == pytest.approx(alone["metrics"][name])
    code, _, err = fid_sample(*words[1:], grid, "captions=scenes:19", "out=few")
    assert (code, "error: num_images=19 is too few for the errors of a sweep" in err) == (2, True)


def test_prompts_of_a_file_are_sampled_and_not_read_back(fid_sample, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text(f"a cat\na dog\na {'red ' * 20}house\n")
    monkeypatch.setattr(prompted, "open_clip", lambda value, device: Clip() if value else None)
    monkeypatch.setattr(job, "check_clip", lambda value: None)
    words = ("captions=prompts.txt", "num_images=8", "reference=scenes:20")
    code, out, err = fid_sample(*words, "clip=tiny")
    assert (code, err) == (0, "")
    record = record_of(tmp_path)
    assert "attributes" not in record
    assert out.count("note       A caption of 24 tokens is cut to 20, the most for encoder") == 1
    with np.load(tmp_path / "a.npz") as arrays:
        images = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2)
    texts = open_caption_set("prompts.txt", "val", 8, 0, SIZE).texts
    scores = Clip()(images, texts)
    assert record["metrics"]["clip-tiny score"] == pytest.approx(scores.mean().item())
    assert record["how"]["clip-tiny score"] == HOW
    assert record["features"]["clip-tiny"] == "cc"
    low, high = record["intervals"]["clip-tiny score"].values()
    reach = 2.3646243 * scores.std().item() / 8**0.5  # Student's t of seven degrees of freedom
    mean = scores.mean().item()
    assert (low, high) == pytest.approx((mean - reach, mean + reach), rel=1e-5)
    told, half = record["metrics"]["clip-tiny score"], (high - low) / 2  # rounded as they stand
    assert f"clip-tiny score {told:.4g} ± {half:.2g}" in " ".join(out.split())
    assert fid_sample(*words)[0] == 0  # the score is kept
    assert record_of(tmp_path)["metrics"] == record["metrics"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "weights={} draw images of captions; say which, captions=scenes:1024, a folder or a"),
        (("captions=nowhere",), "No such captions: captions=nowhere; give scenes, scenes:COUNT, a"),
        (("captions=scenes:9", "train=shapes:9", "classifier=true"), "classifier has no effect wi"),
        (("captions=scenes:9", "clip=nowhere", "--dry-run"), "clip=nowhere is no folder and none "),
        (("sweep=num_steps=1 2", "reference=shapes:9", "out=b"), "weights={} draw images of capti"),
        (("negative_prompt=a star",), "negative_prompt has no effect without captions=...; leave "),
        (
            ("captions=scenes:9", "negative_prompt=a star", "guidance_scale=1"),
            "negative_prompt=a star has no effect: no step has guidance: look at guidance_scale,",
        ),
    ],
)
def test_mistakes_cost_a_second_and_leave_nothing(fid_sample, weights, tmp_path, words, sentence):
    code, _, err = fid_sample(*words)
    assert code == 2
    assert err.startswith(f"error: {sentence.format(weights)}")
    assert not (tmp_path / "a.npz").exists()


def test_nothing_is_asked_where_nothing_can_be():
    captions = open_caption_set("scenes:4", "val", 0, 0, SIZE)
    asked = Prompted(captions)
    assert asked.questions == {}
    assert asked.score({}) == {"captions": captions.facts()}
