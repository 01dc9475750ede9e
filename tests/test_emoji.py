import pytest

from MaskGIL.data.emoji import emoji_captions


@pytest.mark.parametrize(
    ("short_name", "file", "subcategory", "words"),
    [
        ("jack_o_lantern", "google_1f383.png", "event", "jack o lantern"),
        ("wave", "google_1f44b-1f3ff.png", "hand-fingers-open", "wave, dark skin tone"),
        (
            "man-kiss-man",
            "google_1f468-1f3fb-200d-2764-fe0f-200d-1f48b-200d-1f468-1f3fd.png",
            "family",
            "man kiss man, light and medium skin tone",
        ),
        ("es", "google_1f1ea-1f1f8.png", "country-flag", "flag es"),
        ("flag-gd", "google_1f1ec-1f1e9.png", "country-flag", "flag gd"),
        ("+1", "google_1f44d.png", "hand-fingers-closed", "+1"),
    ],
)
def test_captions(short_name, file, subcategory, words):
    row = {"short_name": short_name, "file": file, "subcategory": subcategory, "vendor": "google"}
    assert emoji_captions(row) == [words, f"google emoji of {words}"]
