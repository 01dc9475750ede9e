"""The yardstick of tokenizers computes what ours compute."""

import pytest
import tiny
import torch

from benchmarks.plain_tokenizer import PlainTokenizer

VARIANTS = {
    "llamagen": {"family": "llamagen", "l2_norm": True},
    "taming": {"l2_norm": False, "multipliers": (1, 2, 2), "res_blocks": 2},
    "without attention": {
        "attention_levels": (), "encoder_middle": "none", "decoder_middle": "blocks",
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_tokens_and_images_are_equal(changes):
    ours = tiny.tokenizer(**changes)
    plain = PlainTokenizer(ours)
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        tokens = ours.encode(images)
        assert torch.equal(plain.encode(images), tokens)
        assert len(tokens.unique()) > 3
        expected = ours.decode(tokens, clamp=False)
        assert expected.std() > 0.1
        torch.testing.assert_close(plain.decode(tokens), expected, rtol=1e-4, atol=1e-4)
