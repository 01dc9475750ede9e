"""The named sizes of generators, by kind: published tables."""

from typing import NamedTuple


class Size(NamedTuple):
    """Depth, width and heads of a named size."""

    depth: int
    width: int
    heads: int


SIZES = {
    "B": Size(12, 768, 12),  # 111M at 16,384 codes and 1,000 classes
    "L": Size(24, 1024, 16),  # 343M
    "XL": Size(36, 1280, 20),  # 775M
    "XXL": Size(48, 1536, 24),  # 1.4B
    "3B": Size(24, 3200, 32),  # 3.1B, LlamaGen's autoregressive one
}
SIZES_OF = {
    "gpt": SIZES,
    "vit": {  # of the published repository's transformer.py (synbol/MaskGIL 4edf674)
        "small": Size(24, 768, 16),
        "big": Size(32, 1024, 16),
        "huge": Size(48, 1024, 16),
    },
    "halton": {  # of Halton-MaskGIT (f61b0a1)
        "tiny": Size(6, 384, 6),
        "small": Size(12, 512, 6),  # heads of 85, 510 in all
        "base": Size(12, 768, 12),
        "large": Size(24, 1024, 16),
        "xlarge": Size(28, 1152, 16),
    },
}
UNNAMED = Size(6, 192, 6)
