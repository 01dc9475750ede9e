"""Reconstructions: what passes through tokens, what is counted and timed, what is compared."""

import math
import time
from itertools import count

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from MaskGIL.data.crops import to_float, to_uint8
from Metrics.codebook import usage
from Metrics.inception import InceptionNetwork
from Metrics.reconstruction import (
    SHOWN,
    Reconstructions,
    ThroughThumbnails,
    ThroughTokens,
    distances,
)
from Metrics.reference import open_image_set
from Metrics.seen import Seen
from Metrics.similarity import absolute_error, psnr, ssim

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawn():
    return open_image_set("reference", "shapes:21", "val", (16, 16))


@pytest.fixture(scope="module")
def images(drawn):
    return torch.cat(list(drawn))


def through(tokenizer, dtype=torch.float32):
    return ThroughTokens(tokenizer, CPU, dtype)


@torch.no_grad()
def test_a_reconstruction_is_what_the_tokenizer_makes_and_its_codes_are_counted(images):
    tokenizer = tiny.tokenizer()
    redraw = through(tokenizer)
    found = torch.cat([redraw(part) for part in images.split(16)])
    expected, tokens, _ = tokenizer(to_float(images))
    assert found.dtype == torch.uint8
    assert (found.int() - to_uint8(expected).int()).abs().max() <= 1  # rounding follows the batch
    shares = tokens.flatten().bincount(minlength=11) / tokens.numel()
    figures = redraw.figures()
    assert figures["bits per pixel"] == pytest.approx(math.log2(11) / 4)
    assert figures["usage (share)"] == (shares > 0).float().mean()
    assert figures["perplexity (codes)"] == pytest.approx(usage(shares)["ppl"])
    assert figures["entropy (bits)"] == pytest.approx(math.log2(figures["perplexity (codes)"]))
    assert "entropy of a bit (bits)" not in figures


def test_the_bits_of_codes_without_a_lookup_are_told(images):
    changes = {"code_width": 4, "latent_width": 4, "codebook_size": 16, "attention_levels": ()}
    redraw = through(tiny.tokenizer(family="magvit2", l2_norm=False, **changes))
    redraw(images)
    assert 0 < redraw.figures()["entropy of a bit (bits)"] <= 1


def test_speeds_count_all_images_and_leave_the_first_time_out(images, monkeypatch):
    redraw = through(tiny.tokenizer())
    seconds = count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))  # a second between two looks
    for part in images.split(7):
        redraw(part)
    figures = redraw.figures()  # 21 images and 3 seconds for each half
    assert next(seconds) == 9
    assert figures["encode (img/s)"] == figures["decode (img/s)"] == 7
    assert figures["encode (tokens/s)"] == figures["decode (tokens/s)"] == 7 * 64


@pytest.mark.parametrize(
    ("dtype", "decoder"), [(torch.bfloat16, torch.bfloat16), (torch.float16, None)]
)
def test_tokens_are_found_in_full_precision_and_no_decoder_runs_in_fp16(images, dtype, decoder):
    tokenizer, seen = tiny.tokenizer(), {}

    def look(part):
        is_on = torch.is_autocast_enabled("cpu")
        seen[part] = torch.get_autocast_dtype("cpu") if is_on else None

    tokenizer.encoder.register_forward_pre_hook(lambda *_: look("encoder"))
    tokenizer.decoder.register_forward_pre_hook(lambda *_: look("decoder"))
    through(tokenizer, dtype)(images)
    assert seen == {"encoder": None, "decoder": decoder}


def test_thumbnails_are_those_of_pillow(images):
    redraw = ThroughThumbnails((4, 8))
    found = redraw(images)
    assert redraw.figures() == {"bits per pixel": 24 * 32 / 256}
    for image, thumbnail in zip(images, found):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = picture.resize((8, 4), Image.Resampling.BICUBIC)
        expected = np.asarray(small.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(thumbnail.permute(1, 2, 0).numpy() - expected).max() <= 3  # it rounds twice
    assert torch.equal(ThroughThumbnails((16, 16))(images), images)


class Darker:
    """Redraws each image half as bright."""

    def __call__(self, images):
        return images // 2

    def figures(self):
        return {}


@pytest.mark.parametrize("chunk", [4, 21, 64])
def test_similarities_are_means_over_images(drawn, images, chunk):
    redrawn = Reconstructions(drawn, Darker(), CPU, chunk)
    parts = list(redrawn)
    assert max(map(len, parts)) == min(chunk, 21)
    assert torch.equal(torch.cat(parts), images // 2)
    expected = {"PSNR (dB)": psnr, "SSIM": ssim, "L1 (grey levels)": absolute_error}
    expected = {name: each(images, images // 2).mean().item() for name, each in expected.items()}
    assert redrawn.figures() == pytest.approx(expected, rel=1e-6)


def test_a_few_images_are_shown_beside_their_originals(drawn, images):
    redrawn = Reconstructions(drawn, Darker(), CPU, 4)
    list(redrawn)
    before, after = torch.stack(redrawn.shown, 1)
    assert len(before) == SHOWN
    places = [(images == image).flatten(1).all(1).nonzero().item() for image in before]
    assert places == sorted(set(places))
    assert places[-1] - places[0] >= 18  # of 21: spread over all of them
    assert torch.equal(after, before // 2)


@pytest.mark.parametrize(
    ("official", "name"), [(True, "LPIPS"), (False, "lpips-vgg-0.1-c0 distance")]
)
def test_only_the_released_vgg_gives_an_lpips(drawn, images, official, name):
    class Brightness:
        def __init__(self):
            self.is_official, self.name = official, "lpips-vgg-0.1-c0"

        def __call__(self, first, second):
            assert max(first.abs().max(), second.abs().max()) <= 1
            return (first - second).mean((1, 2, 3))

    redrawn = Reconstructions(drawn, Darker(), CPU, 21, Brightness())
    list(redrawn)
    expected = (images.float() - images // 2).mean() / 127.5
    assert redrawn.figures()[name] == pytest.approx(expected.item(), rel=1e-5)


class Colours(InceptionNetwork):
    """Stands in for the network whose features are an FID's."""

    def __init__(self, is_official):
        self.name, self.sha256, self.width, self.is_official = "colours", "c0", 3, is_official

    def __call__(self, images):
        return images.float().mean((2, 3))


def test_a_distance_is_an_rfid_by_the_released_network_alone(images):
    networks = [Colours(True), Colours(False)]
    real = Seen([images], 21, networks)
    assert distances(real, real, networks) == pytest.approx(
        {"rFID": 0, "colours distance": 0}, abs=1e-6
    )
    found = distances(Seen([images // 2], 21, networks), real, networks)
    assert found["rFID"] == found["colours distance"] > 1000
