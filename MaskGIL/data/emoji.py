"""Captions of emoji64, made of the columns of its `index.tsv` (see `MaskGIL.prepare`)."""

import re
from collections.abc import Mapping

EMOJI_COLUMNS = {"split", "class", "file", "vendor", "subcategory", "short_name"}
TONES = {  # the code points of skin tones in a file's name, and the words of Unicode for them
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}


def emoji_captions(row: Mapping[str, str]) -> list[str]:
    """E.g. "wave, dark skin tone" and "google emoji of wave, dark skin tone".

    The short name in words; to a flag that is named by its country alone, what it is.
    """
    words = re.sub("[_-]+", " ", row["short_name"]).strip()
    if row["subcategory"] == "country-flag" and "flag" not in words.split():
        words = f"flag {words}"
    points = re.findall("[0-9a-f]+", row["file"].partition("_")[2])
    tones = [TONES[point] for point in points if point in TONES]
    if tones:
        words = f"{words}, {' and '.join(tones)} skin tone"
    return [words, f"{row['vendor']} emoji of {words}"]
