import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import config, text_weights, tokenizer_weights, tree

from MaskGIL.data import open_images
from MaskGIL.data.buckets import Bucket
from MaskGIL.prompting import PromptEncoder
from MaskGIL.weights import open_tokenizer
from Network.config import UserError
from Network.gpt import GPT
from Trainer.generator_data import GeneratorData, has_cache, write_caches

WHOLE = slice(0, 16)
STEPS = range(8)


pytestmark = pytest.mark.filterwarnings("ignore:An empty prompt")


@pytest.fixture
def folder(tmp_path):
    return text_weights(tmp_path)


def opened(run):
    images = {split: open_images(run.data, split) for split in ("train", "val")}
    return GeneratorData(run, images, open_tokenizer(run.tokenizer))


def test_batches_of_buckets_have_the_tokens_and_captions_of_their_rows(folder):
    run = config("text", folder, "masking.class_drop=0.25")
    data = opened(run)
    images = open_images(run.data, "train")
    (square, wide), batches = data.caches["train"], data.batches(WHOLE)
    assert [square.grid, wide.grid] == [(4, 4), (4, 6)]
    grids = set()
    for step in STEPS:
        batch = batches[step]
        bucket = data.order(step)[0]
        grids.add(tuple(batch["tokens"].shape[1:]))
        rows = batch["rows"].tolist()
        assert {images.shape(row) for row in rows} == {data.shaped["train"][bucket].shape}
        places = np.searchsorted(data.shaped["train"][bucket].rows, rows)
        cache = data.caches["train"][bucket]
        assert torch.equal(batch["tokens"], cache.tokens(places, np.zeros_like(places)))
        assert batch["features"].shape == (16, 12, 16)
        said = [
            data.features["train"].captions(batch["rows"].numpy(), np.full(16, n)) for n in (0, 1)
        ]
        equal = [(each.features == batch["features"]).flatten(1).all(1) for each in said]
        assert (equal[0] | equal[1]).all()
    assert grids == {(4, 4), (4, 6)}


def test_an_empty_prompt_stands_behind_a_mask_that_dropped_captions_have(folder):
    """That of the median length: half of the captions of training have no more tokens."""
    data = opened(config("text", folder, "masking.class_drop=0.5"))
    cache, origin = data.features["train"], data.text_origin()
    rows = np.arange(64)
    lengths = [(~cache.captions(rows, np.full(64, n)).mask).sum(1) for n in (0, 1)]
    assert origin.null_tokens == int(torch.cat(lengths).median())
    batches = [data.batches(WHOLE)[step] for step in STEPS]
    dropped = torch.cat([batch["padding"][batch["dropped"]] for batch in batches])
    network = GPT(data.config.network)
    asked = PromptEncoder(network, origin)([""])
    assert asked.mask[0].tolist() in dropped.tolist()
    assert asked.dropped.all()


def test_online_batches_are_those_of_the_caches(folder):
    cached = opened(config("text", folder))
    online = opened(config("text", folder, "data.tokens=online"))
    pairs = [(cached.batches(WHOLE)[step], online.batches(WHOLE)[step]) for step in STEPS]
    for first, second in pairs:
        assert torch.equal(first["tokens"], online.encode(second.pop("images")))
        assert all(torch.equal(first[name], second[name]) for name in second)
    assert not (folder / "online").exists()
    for (first, told), (second, said) in zip(cached.validation, online.validation):
        assert torch.equal(first, second)
        assert torch.equal(told[:].features, said[:].features)


def test_validation_is_of_every_bucket_with_the_first_captions(folder, monkeypatch):
    monkeypatch.setattr("Trainer.generator_data.VALIDATION_IMAGES", 20)
    data = opened(config("text", folder))
    assert [tuple(tokens.shape) for tokens, _ in data.validation] == [(10, 4, 4), (10, 4, 6)]
    for (_, captions), bucket in zip(data.validation, data.shaped["val"]):
        assert isinstance(bucket, Bucket)
        rows = bucket.rows[np.linspace(0, len(bucket) - 1, 10).astype(int)]
        cached = data.features["val"].captions(rows, np.zeros_like(rows))
        assert torch.equal(captions[2:7].features, cached.features[2:7])
        assert len(captions) == 10


def test_all_caches_are_written_by_one_job(folder):
    run = config("text", folder, "job=cache")
    assert not has_cache(run)
    write_caches(run)
    assert has_cache(run)
    names = {path.parent.relative_to(folder / "text" / "cache").as_posix()
             for path in (folder / "text" / "cache").rglob("index.json")}  # fmt: skip
    places = [f"{split}/{shape}" for split in ("train", "val") for shape in ("32x32", "32x48")]
    assert names == {*places, "captions/train", "captions/val"}
    before = tree(folder)
    write_caches(run)
    assert tree(folder) == before
    (folder / "text/cache/captions/val/index.json").unlink()
    assert not has_cache(run)


def test_a_bucket_without_a_grid_is_told_before_anything_is_written(folder):
    before = tree(folder)
    with pytest.raises(
        UserError, match=r"^data.buckets has 32x50, whose sides are no multiples of"
    ):
        write_caches(config("text", folder, "data.buckets=32x32,32x50"))
    assert tree(folder) == before


def test_bad_files_of_all_buckets_count_against_the_whole_split(folder, tmp_path):
    """Of 12 wide and 4 square pictures 2 and 1 are broken: 3 of 16, not 3 of 4."""
    place = tmp_path / "photos"
    for number in range(16):
        for split in ("train", "val"):
            (place / split / "a").mkdir(parents=True, exist_ok=True)
            size = (32, 32) if number < 4 else (48, 32)
            Image.new("RGB", size).save(place / split / "a" / f"{number:02d}.png")
    for number in (0, 5, 6):
        file = place / "train" / "a" / f"{number:02d}.png"
        file.write_bytes(file.read_bytes()[:60])  # the size is there, pixels are not
    words = ["data.source=folder", f"data.path={place}", "network.caption_width=0"]
    words += ["network.caption_tokens=120", "text.encoder=", "network.num_classes=1"]
    data = opened(config("text", folder, *words, "data.max_bad=0.2"))
    assert [int((cache.labels < 0).sum()) for cache in data.caches["train"]] == [1, 2]


def test_the_content_tells_captions_and_encoder(folder):
    content, other = (
        opened(config("text", folder, f"data.num_images={n}")).content() for n in (8, 9)
    )
    assert content["text encoder"] == other["text encoder"]
    assert content["sha256 of captions"] != other["sha256 of captions"]
    plain = opened(config("generator", tokenizer_weights(folder)))
    assert set(plain.content()) == {"tokenizer"}


def test_buckets_need_pictures(folder):
    run = config("text", folder, "data.source=tokens", "network.caption_width=0",
                 "network.caption_tokens=120", "text.encoder=")  # fmt: skip
    with pytest.raises(
        UserError, match=r"^data.buckets=32x32,32x48 are cut from pictures, and data"
    ):
        write_caches(run)
