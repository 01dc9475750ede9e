"""Packages made here, of few emoji in the layout of emoji-datasource 16, and an npm made here."""

import hashlib
import io
import json
import os
import re
import shlex
import tarfile

import numpy as np
import pytest
from PIL import Image

from MaskGIL import prepare as module
from MaskGIL.__main__ import main
from MaskGIL.data.folders import Folder
from MaskGIL.prepare import FINGERPRINT, fingerprint

GOOGLE, TWITTER = (f"emoji-datasource-{vendor}-16.0.0.tgz" for vendor in ("google", "twitter"))
COLOUR, ALPHA = (10, 100, 200), (0, 1, 128, 255)  # alpha by column, in four bands


def emoji(unified, category, **more):
    facts = {"unified": unified, "image": f"{unified.lower()}.png", "category": category}
    return {**facts, "subcategory": "sub", "short_name": f"name_{unified}", **more}


TONES = {"1F3FB": {"image": "270b-1f3fb.png"}, "1F3FF": {"image": "270b-1f3ff.png"}}
EMOJI = [
    emoji("1F602", "Smileys & Emotion"),
    emoji("1F600", "Smileys & Emotion"),
    emoji("270B", "People & Body", skin_variations=TONES),
    emoji("1F3FB", "Component"),
    emoji("1F9FF", "Objects"),  # drawn by no vendor
]
FILES = ["1f602.png", "1f600.png", "270b.png", "270b-1f3fb.png", "270b-1f3ff.png", "1f3fb.png"]


def is_val(unified):
    return hashlib.sha256(unified.encode()).digest()[0] % 10 == 0


def png(shade):
    pixels = np.empty((64, 64, 4), np.uint8)
    pixels[..., :3] = np.add(COLOUR, shade)
    pixels[..., 3] = np.repeat(ALPHA, 16)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_package(folder, vendor, listed=EMOJI, **more):
    """A .tgz as npm packs it: pictures before the list, other sizes and odd members beside them."""
    image = f"package/img/{vendor}/64/"
    members = {"package/LICENSE": b"MIT", f"{image}../../../../../escaped.png": png(0)}
    members |= {image + file: png(number) for number, file in enumerate(FILES)}
    members |= {f"package/img/{vendor}/sheets/64.png": b"large", **more}
    members |= {"package/emoji.json": json.dumps(listed).encode()}
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"emoji-datasource-{vendor}-16.0.0.tgz", "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "packages"
    for vendor in ("google", "twitter"):
        write_package(folder, vendor)
    return folder


@pytest.fixture
def target(tmp_path):
    return tmp_path / "home" / "emoji64"


@pytest.fixture
def prepare(target, capsys):
    target.parent.mkdir()

    def prepare(*words):
        code = main(["prepare", "emoji64", *map(str, words)])
        return code, *capsys.readouterr()

    return prepare


@pytest.fixture
def complaint(prepare):
    def complaint(*words):
        code, _, err = prepare(*words)
        assert code == 2
        assert re.fullmatch(r"error: .+\n", err), err
        return err[len("error: ") : -1]

    return complaint


@pytest.fixture
def expected(packages, tmp_path, monkeypatch):
    """The hash of these packages in the place of the real one."""
    archives = {"google": packages / GOOGLE, "twitter": packages / TWITTER}
    (tmp_path / "expected").mkdir()
    module._lay_out(tmp_path / "expected", archives)
    found = fingerprint(tmp_path / "expected")
    monkeypatch.setattr(module, "FINGERPRINT", found)
    return found


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Put a shell script named npm on the PATH, or with None nothing at all."""

    def npm(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        if script is not None:
            (folder / "npm").write_text(f"#!/bin/sh\necho $* >> {folder}/calls\n{script}")
            (folder / "npm").chmod(0o755)
        path = [str(folder)] + ([os.environ["PATH"]] if script is not None else [])
        monkeypatch.setenv("PATH", os.pathsep.join(path))
        return folder / "calls"

    return npm


def copies(packages):
    """What npm pack NAME@VERSION does, from a folder."""
    return f"name=${{2%@*}}\ncp {packages}/$name-${{2#*@}}.tgz ."


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# The data set


def test_layout_and_pixels(prepare, packages, target, expected):
    assert [is_val(one["unified"]) for one in EMOJI[:3]] == [True, False, False]
    code, _, err = prepare(target, f"packages={packages}")
    assert (code, err) == (0, "")
    hand = [f"train/people_body/{v}_270b{tone}.png" for v in ("google", "twitter")
            for tone in ("", "-1f3fb", "-1f3ff")]  # fmt: skip
    faces = [f"{split}/smileys_emotion/{v}_{code}.png" for v in ("google", "twitter")
             for split, code in (("val", "1f602"), ("train", "1f600"))]  # fmt: skip
    images = sorted(path for path in tree(target) if path.endswith(".png"))
    assert images == sorted([*hand, *faces])
    # Round half up of (alpha colour + (255 - alpha) 255) / 255, in exact integers
    for shade, name in ((0, "val/smileys_emotion/google_1f602.png"), (2, hand[0])):
        pixels = np.asarray(Image.open(target / name))
        assert pixels.shape == (64, 64, 3)
        for band, alpha in enumerate(ALPHA):
            exact = [(2 * (alpha * (c + shade) + (255 - alpha) * 255) + 255) // 510 for c in COLOUR]
            assert (pixels[:, 16 * band : 16 * band + 16] == exact).all()
    assert tree(target.parent.parent / "home") == [
        "emoji64",
        *(f"emoji64/{p}" for p in tree(target)),
    ]
    assert Folder(target, "train").classes == ["people_body", "smileys_emotion"]


def test_index_and_credits(prepare, packages, target, expected):
    prepare(target, f"packages={packages}")
    heading, *rows = (target / "index.tsv").read_bytes().decode().split("\n")[:-1]
    assert heading == "split\tclass\tfile\tvendor\tsubcategory\tshort_name"
    assert rows == sorted(rows)
    assert len(rows) == 10
    # A skin tone is listed under the name of its emoji
    assert "train\tpeople_body\tgoogle_270b-1f3ff.png\tgoogle\tsub\tname_270B" in rows
    text = (target / "CREDITS.md").read_text()
    assert all(f in text for f in ("Noto Emoji", "Apache License 2.0", "Twemoji", "CC-BY 4.0"))


def test_the_end_tells_counts_and_the_next_command(prepare, packages, target, expected):
    target = target.with_name("my emoji")
    code, out, _ = prepare(target, f"packages={packages}")
    assert code == 0
    assert out == (
        f"making     {target}, 40 MB\n"
        "class             train    val\n"
        "people_body           6      0\n"
        "smileys_emotion       2      2\n"
        "together              8      2\n"
        "next       python main.py MaskGIL/configs/emoji64/tokenizer.yaml "
        f"'data.path={target}'\n"
    )
    assert shlex.split(out.splitlines()[-1])[-1] == f"data.path={target}"


def test_keys_instead_of_bare_words(target, packages, expected, capsys):
    target.parent.mkdir()
    for words in (["name=emoji64"], ["emoji64"], []):
        assert main(["prepare", *words, f"path={target}", f"packages={packages}"]) == 0
    assert main(["prepare", "emoji64", str(target), "--print-config"]) == 0
    assert f"name: emoji64\npath: {target}\n" in capsys.readouterr().out


def test_the_real_hash_is_not_that_of_anything_else(complaint, packages, target):
    found = complaint(target, f"packages={packages}")
    aside = target.with_name("emoji64.maskgil-tmp")
    assert found == (
        f"The pictures have the hash {fingerprint(aside)[:16]} instead of {FINGERPRINT[:16]}, so "
        "the packages are not those of version 16.0.0; fetch them again (what came out is in "
        f"{aside})."
    )
    assert tree(target.parent)[0] == "emoji64.maskgil-tmp"
    assert not target.exists()


def test_fingerprint_covers_paths_and_pixels(prepare, packages, target, expected):
    prepare(target, f"packages={packages}")
    assert fingerprint(target) == expected
    picture = target / "train/people_body/google_270b.png"
    Image.open(picture).save(picture, compress_level=0)  # other bytes, the same pixels
    assert fingerprint(target) == expected
    moved = picture.rename(picture.with_name("google_270c.png"))
    assert fingerprint(target) != expected
    pixels = np.array(Image.open(moved))
    pixels[63, 63, 2] ^= 1
    moved.unlink()
    Image.fromarray(pixels).save(picture)
    assert fingerprint(target) != expected


# The folder


def test_a_second_time_there_is_nothing_to_do(prepare, packages, target, expected):
    _, first, _ = prepare(target, f"packages={packages}")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    code, out, err = prepare(target)  # without any package
    assert (code, err) == (0, "")
    there, *table = out.splitlines()
    assert there == f"{target} is emoji64 already: all pictures are as they should be"
    assert table == first.splitlines()[1:]
    assert before == {path: path.stat().st_mtime_ns for path in target.rglob("*")}


@pytest.mark.parametrize(
    "kind", ["other files", "no index", "one pixel", "a broken picture", "one less"]
)
def test_a_folder_of_something_else_is_refused(
    complaint, prepare, packages, target, expected, kind
):
    prepare(target, f"packages={packages}")
    picture = target / "train/people_body/google_270b.png"
    if kind == "one pixel":
        Image.open(picture).point(lambda value: value ^ 1).save(picture)
    elif kind == "a broken picture":
        picture.write_bytes(b"broken")
    elif kind == "no index":
        (target / "index.tsv").unlink()
    elif kind == "one less":
        picture.unlink()
    else:
        target = target.with_name("other")
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    before = tree(target)
    found = complaint(target, f"packages={packages}")
    assert found == f"path={target} is not empty and not emoji64; name a new folder."
    assert tree(target) == before


def test_an_empty_folder_and_the_rest_of_a_kill_are_replaced(prepare, packages, target, expected):
    target.mkdir()
    target.with_name("emoji64.maskgil-tmp").mkdir()
    (target.with_name("emoji64.maskgil-tmp") / "index.tsv").write_text("half")
    assert prepare(target, f"packages={packages}")[0] == 0
    assert tree(target.parent)[:2] == ["emoji64", "emoji64/CREDITS.md"]
    assert fingerprint(target) == expected


def test_folders_above_are_made_at_the_end(prepare, packages, target, expected):
    deep = target / "a" / "b"
    assert prepare(deep, f"packages={packages}")[0] == 0
    assert fingerprint(deep) == expected


def test_no_folder_and_a_file(complaint, packages, target):
    assert complaint() == (
        "path is empty; name a new folder: python -m MaskGIL prepare emoji64 DIR."
    )
    target.write_text("a file")
    sentence = f"path lies in {target}, which is a file; choose another folder."
    assert complaint(target, f"packages={packages}") == sentence
    assert complaint(target / "in", f"packages={packages}") == sentence


def test_an_unknown_data_set(capsys):
    assert main(["prepare", "emoji46", "there"]) == 2
    assert capsys.readouterr().err == (
        "error: name takes one of emoji64, not 'emoji46' on the command line. "
        "Did you mean 'emoji64'?\n"
    )


def test_a_full_disk_leaves_nothing(complaint, packages, target, expected, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "fingerprint", full)
    assert complaint(target, f"packages={packages}") == (
        f"Cannot make {target}: [Errno 28] No space left on device; choose another folder."
    )
    assert tree(target.parent) == []


def test_an_interrupt_leaves_nothing(prepare, packages, target, expected, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_on_white", stop)
    assert prepare(target, f"packages={packages}")[0] == 130
    assert tree(target.parent) == []


# The packages


def test_npm_fetches_and_nothing_of_it_stays(prepare, packages, target, expected, npm):
    calls = npm(copies(packages))
    code, out, err = prepare(target)
    assert (code, err) == (0, "")
    assert out.startswith(
        "fetching   emoji-datasource-google@16.0.0 and emoji-datasource-twitter@16.0.0, 137 MB, "
        f"removed afterwards\nmaking     {target}, 40 MB\n"
    )
    assert [line.split()[:2] for line in calls.read_text().splitlines()] == [
        ["pack", "emoji-datasource-google@16.0.0"],
        ["pack", "emoji-datasource-twitter@16.0.0"],
    ]
    assert [path.name for path in target.parent.iterdir()] == ["emoji64"]
    assert fingerprint(target) == expected


def test_packages_beside_the_folder_are_used(prepare, packages, target, expected, npm):
    calls = npm(copies(packages))
    (packages / GOOGLE).rename(target.parent / GOOGLE)
    code, out, _ = prepare(target)
    assert code == 0
    assert out.startswith("fetching   emoji-datasource-twitter@16.0.0, 62 MB, removed afterwards\n")
    assert calls.read_text().count("pack") == 1
    assert sorted(path.name for path in target.parent.iterdir()) == [GOOGLE, "emoji64"]


def test_a_dry_run_only_tells(prepare, target, npm):
    calls = npm("exit 1")
    code, out, err = prepare(target, "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("fetching   emoji-datasource-google@16.0.0 and ")
    assert out.endswith(f"making     {target}, 40 MB\n")
    assert tree(target.parent) == []
    assert not calls.exists()


def test_without_npm(complaint, target, npm):
    npm(None)
    assert complaint(target) == (
        f"There is no npm here to fetch {GOOGLE} and {TWITTER}: install Node.js, or put them "
        f"into {target.parent}, or say packages=FOLDER."
    )
    assert tree(target.parent) == []


def test_packages_that_are_not_there(complaint, packages, target):
    (packages / TWITTER).unlink()
    assert complaint(target, f"packages={packages}") == (
        f"packages={packages} has no {TWITTER}; run `npm pack emoji-datasource-twitter@16.0.0` "
        "there, or leave packages out."
    )
    assert tree(target.parent) == []


SAYS = {
    "JSON": ("""echo '{"error": {"code": "E", "summary": "no such  host"}}'; echo X >&2""",
             "no such host"),
    "lines": ("echo npm ERR! code E >&2; echo npm ERR! no such host >&2\n"
              "echo npm ERR! A complete log of this run can be found in: LOG >&2",
              "npm ERR! no such host"),
    "other JSON": ("echo '[]'; echo no such host >&2", "no such host"),
    "nothing": ("true", "exit code 7"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAYS)
def test_npm_fails(complaint, target, npm, kind):
    script, reason = SAYS[kind]
    npm(f"{script}\nexit 7")
    assert complaint(target) == (
        f"npm could not fetch emoji-datasource-google@16.0.0 ({reason}); try again, or fetch "
        f"{GOOGLE} on another machine and say packages=FOLDER."
    )
    assert tree(target.parent) == []


@pytest.mark.parametrize("kind", ["text", "half", "empty", "changed", "no list", "no JSON"])
def test_a_damaged_package_is_told(complaint, packages, target, expected, kind):
    archive = packages / TWITTER
    whole = archive.read_bytes()
    if kind == "no list":
        with tarfile.open(archive, "w:gz"):
            pass
    elif kind == "no JSON":
        with tarfile.open(archive, "w:gz") as empty:
            empty.addfile(tarfile.TarInfo("package/emoji.json"))
    else:
        middle = len(whole) // 2
        archive.write_bytes({
            "text": b"version https://git-lfs.github.com/spec/v1\n", "half": whole[:middle],
            "empty": b"", "changed": whole[:middle] + bytes(99) + whole[middle + 99 :],
        }[kind])  # fmt: skip
    found = complaint(target, f"packages={packages}")
    start = f"{archive} is not a whole package emoji-datasource-twitter@16.0.0 ("
    assert found.startswith(start)
    assert re.fullmatch(r"\w+: .*\); fetch it again\.", found[len(start) :]), found
    assert tree(target.parent) == []


def test_no_member_leads_out_of_the_folder(prepare, packages, target, expected):
    images = ("../../../../../escaped.png", "escaped.png")
    sly = [emoji("1F601", "../../Smileys", image=image) for image in images]
    for vendor in ("google", "twitter"):
        write_package(packages, vendor, [*EMOJI, *sly])
    assert prepare(target, f"packages={packages}")[0] == 0
    assert fingerprint(target) == expected
    assert not list(target.parent.parent.rglob("escaped.png"))
