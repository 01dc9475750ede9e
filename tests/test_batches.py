import multiprocessing
import os
import re
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from MaskGIL.command import Failure
from MaskGIL.data.buckets import Bucket, BucketOrder
from MaskGIL.data.captions import draw_captions, draw_dropped
from MaskGIL.data.crops import crop_image
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.data.sampler import Sampler, split_ranks
from MaskGIL.data.shapes import Shapes
from MaskGIL.masking import hidden_counts
from Network.condition import Captions
from Network.config import UserError
from Trainer.batches import (
    BucketBatches,
    CaptionBatches,
    ImageBatches,
    MaskedBatches,
    Shielded,
    TokenBatches,
    fetched,
    readable_crop,
    told_of_workers,
)

WHOLE = slice(0, 12)


class Photos:
    """Grey pictures as bright as their row; rows in `broken` cannot be read."""

    def __init__(self, count, broken=()):
        self.labels, self.broken, self.classes = np.arange(count) % 3, broken, ["a", "b", "c"]

    def __len__(self):
        return len(self.labels)

    def image(self, row):
        if row in self.broken:
            raise UnreadableImage(f"train/{row}.jpg", "truncated")
        return Image.new("RGB", (16, 16), (row, row, row))


def bad_files(folder, count, max_bad=1.0):
    return BadFiles(folder / "bad_files.txt", count, max_bad)


def image_batches(images, tmp_path, share=WHOLE, crops="flip", max_bad=1.0):
    sampler = Sampler(images.labels, 12, seed=0, num_crops=2)
    return ImageBatches(
        images, sampler, share, crops, 16, bad_files(tmp_path, len(images), max_bad)
    )


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


# Images


def test_a_batch_is_the_crops_that_the_sampler_names(tmp_path):
    images = Shapes("train", 20, (16, 16))
    batches = image_batches(images, tmp_path)
    rows, crops, samples = batches.sampler.rows(3)
    batch = batches[3]
    assert set(crops) == {0, 1}
    for place, (row, crop) in enumerate(zip(rows, crops)):
        expected = crop_image(images.image(row), "flip", crop, 16)
        assert torch.equal(batch["images"][place], expected)
    assert batch["rows"].tolist() == rows.tolist()
    assert batch["labels"].tolist() == images.labels[rows].tolist()
    assert batch["samples"].tolist() == samples.tolist() == list(range(36, 48))
    assert (batch["images"].shape, batch["images"].dtype) == ((12, 3, 16, 16), torch.uint8)


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (3, 2), (4, 3), (1, 4)])
def test_the_shares_of_the_ranks_make_up_the_batch(tmp_path, world_size, accumulation):
    images = Photos(20)
    whole = image_batches(images, tmp_path)[1]
    parts = [
        image_batches(images, tmp_path, slice(of_rank[0].start, of_rank[-1].stop))[1]
        for of_rank in split_ranks(12, world_size, accumulation)
    ]
    assert same({name: torch.cat([part[name] for part in parts]) for name in whole}, whole)


def test_an_unreadable_row_is_replaced_by_the_next_and_named(tmp_path):
    images = Photos(12, broken={4, 5, 11})
    sampler = Sampler(images.labels, 12, seed=0)
    batches = ImageBatches(images, sampler, WHOLE, "center", 16, bad_files(tmp_path, 12))
    batch = batches[0]
    stands_in = {4: 6, 5: 6, 11: 0}
    rows = [stands_in.get(row, row) for row in sampler.rows(0)[0].tolist()]
    assert batch["images"][:, 0, 0, 0].tolist() == rows
    assert batch["rows"].tolist() == rows
    assert batch["labels"].tolist() == [row % 3 for row in rows]
    lines = (tmp_path / "bad_files.txt").read_text().splitlines()
    assert sorted(lines) == [f"train/{row}.jpg\ttruncated" for row in (11, 4, 5)]


def test_too_many_unreadable_rows_end_the_run(tmp_path):
    batches = image_batches(Photos(12, broken={1, 2, 3}), tmp_path, max_bad=0.2)
    with pytest.raises(UserError, match=r"^3 of 12 images cannot be read \(limit data.max_bad=0.2"):
        batches[0]


def test_nothing_readable_is_told_and_does_not_go_on_for_ever(tmp_path):
    images = Photos(5, broken=range(5))
    with pytest.raises(UserError, match=r"no readable image; see bad_files\.txt"):
        readable_crop(images, 3, "center", 0, 16, bad_files(tmp_path, 5))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_a_worker_stays_one_sentence(tmp_path, workers):
    batches = Shielded(image_batches(Photos(12, broken={1, 2, 3}), tmp_path, max_bad=0.2))
    loader = DataLoader(batches, batch_size=None, sampler=[0], num_workers=workers)
    (found,) = loader
    assert isinstance(found, UserError)
    assert str(found).startswith("3 of 12 images cannot be read")
    assert "\n" not in str(found)


def test_a_shield_passes_batches_on(tmp_path):
    batches = image_batches(Photos(12), tmp_path)
    assert same(Shielded(batches)[2], batches[2])


# Tokens


class Cache:
    """Row r, crop c has the tokens 10 r + c."""

    labels = np.arange(30) % 7

    def tokens(self, rows, crops):
        return torch.from_numpy(10 * rows + crops)[:, None, None].expand(-1, 8, 8)


def test_tokens_are_those_of_the_rows_and_crops_of_the_share():
    sampler = Sampler(Cache.labels, 12, seed=0, num_crops=10)
    rows, crops, samples = sampler.rows(2)
    batch = TokenBatches(Cache(), sampler, slice(3, 9))[2]
    assert batch["tokens"][:, 0, 0].tolist() == (10 * rows + crops)[3:9].tolist()
    assert batch["rows"].tolist() == rows[3:9].tolist()
    assert batch["labels"].tolist() == (rows % 7)[3:9].tolist()
    assert batch["samples"].tolist() == samples[3:9].tolist()


@pytest.mark.parametrize("step", [0, 1, 7])
def test_every_rank_knows_how_many_tokens_all_ranks_hide(step):
    sampler = Sampler(Cache.labels, 12, seed=0)

    def masked(share):
        source = TokenBatches(Cache(), sampler, share)
        return MaskedBatches(source, "arccos", 12, 16, seed=5, share=share)[step]

    parts = [masked(slice(start, start + 4)) for start in (0, 4, 8)]
    hidden = torch.cat([part["hidden"] for part in parts])
    assert hidden.tolist() == hidden_counts("arccos", 12, 64, 5, step).tolist()
    assert {total for part in parts for total in part["hidden_total"].tolist()} == {
        int(hidden.sum())
    }
    assert set(parts[0]) == {"tokens", "rows", "labels", "samples", "hidden", "hidden_total"}


# Buckets and captions


def bucketed(share=WHOLE, cut=8):
    """Batches of the first `cut` of 20 photos as 16 x 16 pixels, and of the others as 16 x 32."""
    photos = Photos(20)
    rows = np.arange(20)
    buckets = [Bucket(photos, rows[:cut], (16, 16)), Bucket(photos, rows[cut:], (16, 32))]
    order = BucketOrder([len(bucket) for bucket in buckets], 4, seed=3)
    samplers = [Sampler(bucket.labels, 4, seed=3) for bucket in buckets]
    bad = BadFiles(Path("unused"), 20, 1.0)
    sources = [
        ImageBatches(bucket, sampler, share, "center", bucket.shape, bad)
        for bucket, sampler in zip(buckets, samplers)
    ]
    return BucketBatches(sources, buckets, order, 4, share)


WHOLE_OF_4 = slice(0, 4)


def test_a_batch_has_one_shape_and_an_epoch_shows_each_bucket_in_its_share():
    batches = bucketed(WHOLE_OF_4)
    seen = []
    for step in range(10):  # two epochs of 5 steps
        batch = batches[step]
        size, rows = tuple(batch["images"].shape[-2:]), batch["rows"].tolist()
        assert {(16, 16) if row < 8 else (16, 32) for row in rows} == {size}
        assert batch["images"][:, 0, 0, 0].tolist() == rows  # a photo is as grey as its number
        assert batch["samples"].tolist() == [4 * step + place for place in range(4)]
        seen += rows
    assert sorted(seen) == sorted([*range(20)] * 2)
    assert sorted(seen[:20]) == [*range(20)]


def test_ranks_are_in_the_same_bucket_and_share_its_batch():
    whole, parts = bucketed(WHOLE_OF_4), [bucketed(slice(0, 2)), bucketed(slice(2, 4))]
    for step in range(6):
        found = [part[step] for part in parts]
        joined = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        assert same(joined, whole[step])


class Told:
    """Row r has 1 + r % 3 captions; number c of it has the features 10 r + c behind padding."""

    counts = 1 + np.arange(20) % 3

    def captions(self, rows, which):
        assert (which < self.counts[rows]).all()
        value = torch.from_numpy(10 * rows + which)[:, None, None]
        mask = torch.tensor([True, False]).expand(len(rows), -1)
        return Captions(value.expand(-1, 2, 3).bfloat16(), mask)


def test_captions_follow_the_rows_and_the_numbers_of_samples():
    source, drop = bucketed(WHOLE_OF_4), 0.3
    batches = CaptionBatches(source, Told(), 5, drop)
    dropped = []
    for step in range(40):
        batch, plain = batches[step], source[step]
        assert same({name: batch[name] for name in plain}, plain)
        rows = plain["rows"]
        counts = torch.from_numpy(Told.counts)[rows]
        which = draw_captions(counts, 5, plain["samples"])
        assert torch.equal(batch["dropped"], draw_dropped(drop, 5, plain["samples"]))
        expected = (10 * rows + which).bfloat16()
        assert torch.equal(batch["features"][:, 1, 2], expected)
        assert batch["padding"].tolist() == [[True, False]] * 4
        dropped += batch["dropped"].tolist()
    assert 0.2 < np.mean(dropped) < 0.4  # 160 draws


@pytest.mark.parametrize("step", range(4))
def test_the_number_of_hidden_tokens_follows_the_shape_of_the_batch(step):
    batch = MaskedBatches(bucketed(WHOLE_OF_4), "arccos", 4, 2, seed=5, share=WHOLE_OF_4)[step]
    num_tokens = 8 * batch["images"].shape[-1] // 2
    assert batch["hidden"].tolist() == hidden_counts("arccos", 4, num_tokens, 5, step).tolist()


class Slow(Dataset):
    """Batches that take `seconds` from step 3 on."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __getitem__(self, step):
        if step >= 3:
            time.sleep(self.seconds)
        return {"process": torch.tensor(os.getpid())}


def test_a_data_worker_that_was_killed_ends_the_run_with_a_sentence():
    def killing():
        with told_of_workers(60), closing(fetched(Slow(60), range(9), 2, False, 60)) as batches:
            for batch in batches:
                os.kill(batch["process"].item(), signal.SIGKILL)

    begun = time.monotonic()
    with pytest.raises(Failure) as error:
        killing()
    assert re.fullmatch(
        r"A data worker has died \(DataLoader worker \(pid.*\) .*\), as happens when memory runs "
        r"out; with fewer data.workers, or the same, the same command goes on from the last "
        r"checkpoint.",
        str(error.value),
        flags=re.DOTALL,
    ), error.value
    assert time.monotonic() - begun < 20
    assert multiprocessing.active_children() == []


def test_a_data_worker_that_hangs_ends_the_run_with_a_sentence():
    def hanging():
        with told_of_workers(2), closing(fetched(Slow(600), range(9), 1, False, 2)) as batches:
            list(batches)

    begun = time.monotonic()
    with pytest.raises(Failure) as error:
        hanging()
    assert str(error.value).startswith(
        "No batch has come from the data workers for data.timeout=2 seconds: the disk hangs, or"
    )
    assert time.monotonic() - begun < 30
    time.sleep(0.1)
    assert multiprocessing.active_children() == []


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), told_of_workers(2):
        raise RuntimeError("shapes do not match")


def test_data_workers_do_not_die_of_the_signals_that_end_a_job():
    with closing(fetched(Slow(0), range(40), 2, False)) as batches:
        seen = set()
        for batch in batches:
            seen.add(batch["process"].item())
            for process in seen:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    os.kill(process, number)
    assert len(seen) == 2
    assert os.getpid() not in seen
    assert multiprocessing.active_children() == []
