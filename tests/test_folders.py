import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from MaskGIL.config import DataConfig
from MaskGIL.data import SOURCES, open_images
from MaskGIL.data.folders import BadFiles, Folder, UnreadableImage, read_image
from Network.config import UserError


def picture(height=6, width=8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def root(tmp_path):
    for split, names in {"train": ["b.png", "A.JPEG", "deep/c.webp"], "val": ["x.bmp"]}.items():
        for label, name in enumerate(["dog", "cat"]):
            for number, file in enumerate(names):
                save(picture(seed=label * 10 + number), tmp_path / split / name / file)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "cat" / "._b.png").write_text("rubbish of another system")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    return tmp_path


# ------------------------------------------------------------------------------------ listing
def test_rows_follow_sorted_classes_and_files(root):
    images = Folder(root, "train")
    assert images.classes == ["cat", "dog"]
    expected = [
        f"train/{c}/{f}" for c in ("cat", "dog") for f in ("A.JPEG", "b.png", "deep/c.webp")
    ]
    assert [images.name(row) for row in range(len(images))] == expected
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.labels.dtype == np.int64
    np.testing.assert_array_equal(images.image(1), picture(seed=10))  # train/cat/b.png, lossless
    assert len(Folder(str(root), "val")) == 2


def test_same_files_as_torchvision(root):
    from torchvision.datasets import ImageFolder

    (root / "train" / ".ipynb_checkpoints").rmdir()  # torchvision takes it for a class
    (root / "train" / "cat" / "._b.png").unlink()
    theirs, ours = ImageFolder(str(root / "train")), Folder(root, "train")
    assert theirs.classes == ours.classes
    files = {(str(root / ours.name(row)), label) for row, label in enumerate(ours.labels)}
    assert files == set(theirs.samples)


def test_file_names_may_be_any_bytes(root):
    strange = root / "train" / "cat" / "ü\udcff.png"  # \udcff stands for the lone byte 0xff
    try:
        save(picture(), strange, format="PNG")
    except OSError:
        pytest.skip("this file system has Unicode names only")
    images = Folder(root, "train")
    row = [images.name(row) for row in range(len(images))].index("train/cat/ü\udcff.png")
    assert images.image(row).size == (8, 6)
    bad = BadFiles(root / "bad_files.txt", 10, 1.0)
    bad.add(row, UnreadableImage(images.name(row), "two\nlines"))
    assert (root / "bad_files.txt").read_text("utf-8") == "train/cat/ü\\udcff.png\ttwo lines\n"


def test_sources(root):
    assert list(SOURCES)[:3] == ["shapes", "scenes", "folder"]  # the others: test_standard.py
    assert len(open_images(DataConfig(source="folder", path=str(root)), "train")) == 6
    config = DataConfig(source="shapes", image_size=32, num_images=4096)
    train, val = open_images(config, "train"), open_images(config, "val")
    assert (len(train), len(val)) == (4096, 512)
    small = DataConfig(source="shapes", image_size=32, num_images=16)
    assert len(open_images(small, "val")) == 256
    assert train.image(0).size == (32, 32)
    assert train.name(3) == "train/drawing 2-0-3"
    with pytest.raises(UserError, match=r"data.source=folder needs data.path=FOLDER"):
        open_images(DataConfig(source="folder"), "train")


# ---------------------------------------------------------------------------------- sentences
def sentence(root, split="train"):
    with pytest.raises(UserError) as error:
        Folder(root, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_folder_says_what_is_there(root):
    text = sentence(root / "trian" / "deeper")
    assert text.startswith(
        f"No such folder: data.path={root}/trian/deeper; it must have train/CLASS"
    )
    assert f"{root} holds train, val." in text


def test_no_split_folder(tmp_path):
    assert sentence(tmp_path).endswith("It holds no folders.")
    for name in "abcdefg":
        save(picture(), tmp_path / name / "1.png")
    text = sentence(tmp_path)
    assert f"data.path={tmp_path} has no folder train inside" in text
    assert "It holds a, b, c, d, e and 2 more; move those class folders into" in text


def test_path_of_a_split_instead_of_its_root(root):
    assert sentence(root / "train").endswith(f"; use data.path={root}.")


def test_empty_train_folder(tmp_path):
    (tmp_path / "train").mkdir()
    assert "train holds no class folders; data.path needs train/CLASS" in sentence(tmp_path)


def test_class_without_images(root):
    (root / "train" / "eel").mkdir()
    (root / "train" / "cow").mkdir()
    text = sentence(root)
    assert text.startswith("2 of 4 class folders in")
    assert "have no image (.jpg, .jpeg" in text
    assert text.endswith(": cow, eel; fill or remove them.")


def test_val_with_other_classes(root):
    save(picture(), root / "val" / "cow" / "1.png")
    text = sentence(root, "val")
    assert "val has 3 classes" in text
    assert "train has 2; only one of them has cow: give both the same class folders." in text


# ----------------------------------------------------------------------------------- pictures
GREY = np.array([[0, 100], [200, 255]], np.uint8)
DEEP = GREY.astype(np.uint16) * 257  # 16-bit values of the same brightness


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    path = save(Image.fromarray(DEEP), tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read_image(path), np.stack([GREY] * 3, -1))


def test_grey_and_bilevel(tmp_path):
    grey = read_image(save(Image.fromarray(GREY), tmp_path / "grey.png"))
    np.testing.assert_array_equal(grey, np.stack([GREY] * 3, -1))
    bilevel = read_image(save(Image.fromarray(GREY > 150), tmp_path / "bilevel.png"))
    np.testing.assert_array_equal(np.asarray(bilevel)[..., 0], (GREY > 150) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    alpha = np.array([[0, 255], [128, 64]], np.uint8)
    image = Image.merge(mode, [Image.fromarray(GREY)] * (len(mode) - 1) + [Image.fromarray(alpha)])
    weight = alpha[..., None] / 255
    expected = GREY[..., None] * weight + 255 * (1 - weight)
    found = np.asarray(read_image(save(image, tmp_path / "clear.png")), float)
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1)


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    opaque = read_image(save(palette, tmp_path / "opaque.png"))
    assert np.asarray(opaque).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    clear = read_image(save(palette, tmp_path / "clear.gif", transparency=0))
    assert np.asarray(clear).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    path = save(image, tmp_path / "print.jpg", quality=100)
    found = np.asarray(read_image(path), int)
    np.testing.assert_allclose(found, np.broadcast_to([255, 0, 0], found.shape), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(tmp_path, orientation):
    # EXIF 2.32: where the first stored row and column lie in the upright picture
    upright = np.asarray(picture())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


def test_damaged_exif_does_not_matter(tmp_path):
    path = save(picture(), tmp_path / "photo.jpg", exif=b"Exif\0\0no such header")
    assert read_image(path).size == (8, 6)


# --------------------------------------------------------------------------------- unreadable
def reason(path):
    with pytest.raises(UnreadableImage) as error:
        read_image(path)
    assert error.value.name == str(path)
    return error.value.reason


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif", "ppm"])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.6])
def test_truncated_file(tmp_path, suffix, part):
    whole = save(picture(64, 64), tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(whole[: int(len(whole) * part)])
    assert reason(path)


def test_text_named_png(tmp_path):
    path = tmp_path / "page.png"
    path.write_text("<html>404</html>")
    assert reason(path).startswith("not an image of the formats JPEG, PNG")


def test_other_formats_are_refused_whatever_their_name(tmp_path):
    picture().save(tmp_path / "vector.jpg", format="EPS")
    assert reason(tmp_path / "vector.jpg").startswith("not an image of the formats")


def test_missing_file(tmp_path):
    assert "No such file" in reason(tmp_path / "gone.png")


def png(side, *blocks):
    """A grey PNG of one bit, with some blocks behind its header; without pixels."""
    header = (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *blocks)
    )


def tiff(side, tile, data):
    """A deflated grey TIFF of which a tile is `tile` x `tile` pixels large."""
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile,
            324: 134, 325: len(data)}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize("side", [7_100, 9_300, 10_000, 20_500])  # 50 to 420 megapixels
def test_bomb_is_refused_before_it_is_decoded(tmp_path, side, recwarn):
    (tmp_path / "a.png").write_bytes(png(side, (b"IDAT", b"")))  # decoded it would be "truncated"
    assert "pixels" in reason(tmp_path / "a.png")
    assert not recwarn.list  # Pillow would warn of 100 megapixels


def test_a_small_picture_in_a_giant_tile(tmp_path):
    path = tmp_path / "tile.tiff"
    path.write_bytes(tiff(16, 16, zlib.compress(bytes(256))))
    assert read_image(path).size == (16, 16)
    path.write_bytes(tiff(16, 20_480, zlib.compress(b"")))
    assert reason(path) == "20480 x 20480 pixels are more than 50,000,000"


READ_ALL = """import pathlib, re, sys
from MaskGIL.data.folders import UnreadableImage, read_image
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        read_image(path)
    except UnreadableImage as error: print(error)
# getrusage would count what the process that started this one has held
print(re.search("VmHWM:[^0-9]*([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_bombs_take_less_than_a_gigabyte(tmp_path):
    zeros = zlib.compress(bytes(500_000_000), 1)
    texts = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}
    pixels = (b"IDAT", zlib.compress(bytes(9 * 64)))
    bombs = [png(64, *before, (kind, start + zeros))
             for before in ((), (pixels,)) for kind, start in texts.items()]  # fmt: skip
    bombs += [png(side, (b"IDAT", zeros)) for side in (9_300, 20_500)]
    bombs += [tiff(64, 2**15, zeros), tiff(2**31, 64, zeros), b"P6 99999 99999 255\n"]
    for number, data in enumerate(bombs):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    command = [sys.executable, "-c", READ_ALL, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    *reasons, peak = done.stdout.splitlines()
    assert (len(reasons), done.stderr) == (len(bombs), "")
    assert int(peak) < 1_000_000


def test_float_pixels_are_refused(tmp_path):
    path = save(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "float.tiff")
    assert reason(path) == "floating-point pixels have no agreed white"


def test_folder_names_the_unreadable_file(root):
    (root / "train" / "dog" / "A.JPEG").write_bytes(b"")
    with pytest.raises(
        UnreadableImage, match=r"^cannot read train/dog/A.JPEG: not an image"
    ) as error:
        Folder(root, "train").image(3)
    copy = pickle.loads(pickle.dumps(error.value))  # it has to cross from a worker process
    assert (copy.name, copy.reason) == (error.value.name, error.value.reason)


def test_bad_files_are_listed_once_and_limited(tmp_path):
    path = tmp_path / "run" / "bad_files.txt"
    bad = BadFiles(path, num_images=2000, max_bad=0.001)
    error = UnreadableImage("train/cat/1.png", "truncated")
    bad.add(7, error)
    bad.add(7, error)
    BadFiles(path, 2000, 0.001).add(7, error)  # another rank
    bad.add(8, UnreadableImage("train/cat/2.png", "empty"))
    assert path.read_text() == "train/cat/1.png\ttruncated\ntrain/cat/2.png\tempty\n"
    with pytest.raises(UserError) as stop:
        bad.add(9, UnreadableImage("train/cat/3.png", "empty"))
    assert str(stop.value) == (
        "3 of 2000 images cannot be read (limit data.max_bad=0.001); "
        f"mend or remove those in {path}, then delete that list. First: train/cat/1.png: truncated."
    )
    assert len(path.read_text().splitlines()) == 3


def test_bad_files_of_all_processes_count_together(tmp_path):
    path = tmp_path / "bad_files.txt"
    for row in range(2):  # a rank or a worker each
        BadFiles(path, 2000, 0.001).add(row, UnreadableImage(f"train/cat/{row}.png", "empty"))
    BadFiles(path, 2000, 0.001).add(9, UnreadableImage("val/cat/9.png", "empty"))  # apart
    with pytest.raises(UserError, match=r"^3 of 2000 images .* First: train/cat/2.png: empty.$"):
        BadFiles(path, 2000, 0.001).add(2, UnreadableImage("train/cat/2.png", "empty"))


def test_one_bad_file_of_a_small_data_set_is_too_many(tmp_path):
    with pytest.raises(UserError, match=r"^1 of 100 images cannot be read"):
        BadFiles(tmp_path / "bad_files.txt", 100, 0.001).add(0, UnreadableImage("a", "b"))
